/* Entry points of the prefill kernels for bf16. The kernel is in prefill.cuh. */
#include "prefill.cuh"

FFLASH_PREFILL(fflash_prefill_bf16_d64, Bf16, 64)
FFLASH_PREFILL(fflash_prefill_bf16_d128, Bf16, 128)
FFLASH_PREFILL(fflash_prefill_bf16_d256, Bf16, 256)
