/* Entry points of the RMSNorm kernels. The kernel is in rms_norm.cuh. */
#include "rms_norm.cuh"

namespace {

template <class T>
using Long = fflash::RmsNormTraits<T, fflash::kVecWidth<T>, false>;
template <class T>
using Short = fflash::RmsNormTraits<T, fflash::kVecWidth<T>, true>;
template <class T>
using Narrow = fflash::RmsNormTraits<T, 1, false>;

}  // namespace

#define FFLASH_RMS_NORM(symbol, Traits)                                 \
    extern "C" __global__ void __launch_bounds__(Traits::kThreads)      \
        symbol(const __grid_constant__ fflash_rms_norm_params params) { \
        fflash::rms_norm<Traits>(params);                               \
    }

FFLASH_RMS_NORM(fflash_rms_norm_f16, Long<fflash::F16>)
FFLASH_RMS_NORM(fflash_rms_norm_bf16, Long<fflash::Bf16>)
FFLASH_RMS_NORM(fflash_rms_norm_f32, Long<float>)
FFLASH_RMS_NORM(fflash_rms_norm_f16_short, Short<fflash::F16>)
FFLASH_RMS_NORM(fflash_rms_norm_bf16_short, Short<fflash::Bf16>)
FFLASH_RMS_NORM(fflash_rms_norm_f32_short, Short<float>)
FFLASH_RMS_NORM(fflash_rms_norm_f16_narrow, Narrow<fflash::F16>)
FFLASH_RMS_NORM(fflash_rms_norm_bf16_narrow, Narrow<fflash::Bf16>)
FFLASH_RMS_NORM(fflash_rms_norm_f32_narrow, Narrow<float>)
