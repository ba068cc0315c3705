/* Entry points of the fused RoPE kernels: QK-norm before, the paged cache after. The kernel is in rope.cuh. */
#include "rope.cuh"

#define FFLASH_ROPE_FUSED(symbol, Traits)                           \
    extern "C" __global__ void __maxnreg__(Traits::kRegisters)      \
        symbol(const __grid_constant__ fflash_rope_params params) { \
        fflash::rope_fused<Traits>(params);                         \
    }

FFLASH_ROPE_FUSED(fflash_rope_fused_f16, fflash::WideRope<fflash::F16>)
FFLASH_ROPE_FUSED(fflash_rope_fused_bf16, fflash::WideRope<fflash::Bf16>)
FFLASH_ROPE_FUSED(fflash_rope_fused_f32, fflash::WideRope<float>)
FFLASH_ROPE_FUSED(fflash_rope_fused_f16_narrow, fflash::NarrowRope<fflash::F16>)
FFLASH_ROPE_FUSED(fflash_rope_fused_bf16_narrow, fflash::NarrowRope<fflash::Bf16>)
FFLASH_ROPE_FUSED(fflash_rope_fused_f32_narrow, fflash::NarrowRope<float>)
