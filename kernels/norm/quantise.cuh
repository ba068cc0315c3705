/*
 * f32 to the types of one byte of quantised outputs, four at a time: rounds to nearest even, saturates at the largest finite
 * value. FP8 is converted by common/fp8.cuh; NaN in i8 becomes 0.
 */
#pragma once

#include <stdint.h>

#include "../common/fp8.cuh"
#include "../common/ptx.cuh"
#include "../params.h"

namespace fflash {

/* The largest finite value of a type, by which dynamic scales are the largest magnitude divided. */
__device__ __forceinline__ float quantised_max(int dtype) {
    return dtype == FFLASH_DTYPE_E4M3 ? 448.0f : dtype == FFLASH_DTYPE_E5M2 ? 57344.0f : 127.0f;
}

/* Four numbers times a factor as integers, as ToF8 does it. */
class ToI8 {
public:
    __device__ __forceinline__ ToI8(float inverse_scale, bool) : factor_(inverse_scale) {}
    __device__ __forceinline__ uint32_t operator()(float a, float b, float c, float d) const {
        return __byte_perm(pair(a, b), pair(c, d), 0x5410);
    }

private:
    __device__ __forceinline__ uint32_t pair(float lo, float hi) const {
        return __byte_perm(ptx::s8_from_f32(lo * factor_), ptx::s8_from_f32(hi * factor_), 0x0040);
    }

    float factor_;
};

}  // namespace fflash
