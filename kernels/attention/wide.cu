/* Entry points of the prefill kernel for wide heads. The kernel is in wide.cuh. */
#include "wide.cuh"

FFLASH_PREFILL_WIDE(fflash_prefill_f16_wide, F16)
FFLASH_PREFILL_WIDE(fflash_prefill_bf16_wide, Bf16)
