/* Entry points of the prefill kernels for f16. The kernel is in prefill.cuh. */
#include "prefill.cuh"

FFLASH_PREFILL(fflash_prefill_f16_d64, F16, 64)
FFLASH_PREFILL(fflash_prefill_f16_d128, F16, 128)
FFLASH_PREFILL(fflash_prefill_f16_d256, F16, 256)
