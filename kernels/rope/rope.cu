/* Entry points of the RoPE kernels. The kernel is in rope.cuh. */
#include "rope.cuh"

#define FFLASH_ROPE(symbol, Traits)                                 \
    extern "C" __global__ void __launch_bounds__(Traits::kThreads)  \
        symbol(const __grid_constant__ fflash_rope_params params) { \
        fflash::rope<Traits>(params);                               \
    }

FFLASH_ROPE(fflash_rope_f16, fflash::WideRope<fflash::F16>)
FFLASH_ROPE(fflash_rope_bf16, fflash::WideRope<fflash::Bf16>)
FFLASH_ROPE(fflash_rope_f32, fflash::WideRope<float>)
FFLASH_ROPE(fflash_rope_f16_narrow, fflash::NarrowRope<fflash::F16>)
FFLASH_ROPE(fflash_rope_bf16_narrow, fflash::NarrowRope<fflash::Bf16>)
FFLASH_ROPE(fflash_rope_f32_narrow, fflash::NarrowRope<float>)
