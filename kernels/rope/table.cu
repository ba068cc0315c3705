/* Entry points of the kernels that fill RoPE's cos/sin tables. The kernel is in table.cuh. */
#include "table.cuh"

#define FFLASH_ROPE_TABLE(symbol, T)                                          \
    extern "C" __global__ void __launch_bounds__(fflash::kRopeTableThreads)   \
        symbol(const __grid_constant__ fflash_rope_table_params params) {     \
        fflash::rope_table<T>(params);                                        \
    }

FFLASH_ROPE_TABLE(fflash_rope_table_f16, fflash::F16)
FFLASH_ROPE_TABLE(fflash_rope_table_bf16, fflash::Bf16)
FFLASH_ROPE_TABLE(fflash_rope_table_f32, float)
