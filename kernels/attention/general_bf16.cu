/* Entry points of the prefill kernels with every option for bf16. The kernel is in general.cuh. */
#include "general.cuh"

FFLASH_PREFILL_GENERAL(fflash_prefill_bf16_d64_general, Bf16, 64)
FFLASH_PREFILL_GENERAL(fflash_prefill_bf16_d128_general, Bf16, 128)
FFLASH_PREFILL_GENERAL(fflash_prefill_bf16_d256_general, Bf16, 256)
