/* Entry points of the prefill kernels with every option for f16. The kernel is in general.cuh. */
#include "general.cuh"

FFLASH_PREFILL_GENERAL(fflash_prefill_f16_d64_general, F16, 64)
FFLASH_PREFILL_GENERAL(fflash_prefill_f16_d128_general, F16, 128)
FFLASH_PREFILL_GENERAL(fflash_prefill_f16_d256_general, F16, 256)
