/* Entry points of the prefill kernels for f16. The kernel is in prefill.cuh. */
#include "prefill.cuh"

namespace {

template <int kHeadDim>
using Traits = fflash::PrefillTraits<fflash::F16, kHeadDim>;

}  // namespace

/* One entry: its launch bounds follow from the traits; the host launches kThreads threads with kSmemBytes. */
#define FFLASH_PREFILL(symbol, kHeadDim)                                                            \
    extern "C" __global__ void __launch_bounds__(Traits<kHeadDim>::kThreads, Traits<kHeadDim>::kMinBlocks) \
        symbol(const __grid_constant__ fflash_prefill_params params) {                              \
        fflash::prefill<Traits<kHeadDim>>(params);                                                  \
    }

FFLASH_PREFILL(fflash_prefill_f16_d64, 64)
FFLASH_PREFILL(fflash_prefill_f16_d128, 128)
FFLASH_PREFILL(fflash_prefill_f16_d256, 256)
