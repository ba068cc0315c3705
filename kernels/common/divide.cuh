/* Divisions by numbers that the host knows. */
#pragma once

#include <stdint.h>

#include "../params.h"

namespace fflash {

/* n / divisor; 0 <= n < 2^30. */
__device__ __forceinline__ int divide(int n, const fflash_divisor &divisor) {
    return int((uint64_t(uint32_t(n)) * divisor.multiplier) >> divisor.shift);
}

/* n % divisor; 0 <= n < 2^30. */
__device__ __forceinline__ int remainder(int n, const fflash_divisor &divisor) {
    return n - divide(n, divisor) * divisor.divisor;
}

}  // namespace fflash
