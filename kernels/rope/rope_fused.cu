/* Entry points of the fused RoPE kernels: QK-norm before, the paged cache after. The kernel is in rope.cuh. */
#include "rope.cuh"

namespace {

template <class T>
using Wide = fflash::RopeTraits<T, fflash::kVecWidth<T>>;
template <class T>
using Narrow = fflash::RopeTraits<T, 1>;

}  // namespace

#define FFLASH_ROPE_FUSED(symbol, Traits)                           \
    extern "C" __global__ void __launch_bounds__(Traits::kThreads)  \
        symbol(const __grid_constant__ fflash_rope_params params) { \
        fflash::rope_fused<Traits>(params);                         \
    }

FFLASH_ROPE_FUSED(fflash_rope_fused_f16, Wide<fflash::F16>)
FFLASH_ROPE_FUSED(fflash_rope_fused_bf16, Wide<fflash::Bf16>)
FFLASH_ROPE_FUSED(fflash_rope_fused_f32, Wide<float>)
FFLASH_ROPE_FUSED(fflash_rope_fused_f16_narrow, Narrow<fflash::F16>)
FFLASH_ROPE_FUSED(fflash_rope_fused_bf16_narrow, Narrow<fflash::Bf16>)
FFLASH_ROPE_FUSED(fflash_rope_fused_f32_narrow, Narrow<float>)
