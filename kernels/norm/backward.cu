/* Entry points of RMSNorm's gradients. The kernels are in backward.cuh. */
#include "backward.cuh"

namespace {

template <class T, int kWidth>
using Backward = fflash::NormBackwardTraits<T, kWidth>;

}  // namespace

#define FFLASH_NORM_BACKWARD(symbol, ...)                                    \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__::kThreads, 1)      \
        symbol(const __grid_constant__ fflash_norm_backward_params params) { \
        fflash::norm_backward<__VA_ARGS__>(params);                          \
    }

FFLASH_NORM_BACKWARD(fflash_norm_backward_f16, Backward<fflash::F16, 8>)
FFLASH_NORM_BACKWARD(fflash_norm_backward_bf16, Backward<fflash::Bf16, 8>)
FFLASH_NORM_BACKWARD(fflash_norm_backward_mixed, Backward<fflash::Any, 4>)
FFLASH_NORM_BACKWARD(fflash_norm_backward_narrow, Backward<fflash::Any, 1>)

extern "C" __global__ void __launch_bounds__(512)
    fflash_norm_backward_weight(const __grid_constant__ fflash_norm_backward_params params) {
    fflash::norm_backward_weight(params);
}
