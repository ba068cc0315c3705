/* Entry points of RMSNorm without further options, where all operands have one type. The kernel is in norm.cuh. */
#include "norm.cuh"

namespace {

template <class T, bool kShort>
using Plain = fflash::NormTraits<T, fflash::kVecWidth<T>, kShort, fflash::Form::kPlain>;
template <class T, bool kShort>
using Sum = fflash::NormTraits<T, fflash::kVecWidth<T>, kShort, fflash::Form::kAdd>;

}  // namespace

FFLASH_NORM(fflash_rms_norm_f16, Plain<fflash::F16, false>)
FFLASH_NORM(fflash_rms_norm_bf16, Plain<fflash::Bf16, false>)
FFLASH_NORM(fflash_rms_norm_f32, Plain<float, false>)
FFLASH_NORM(fflash_rms_norm_f16_short, Plain<fflash::F16, true>)
FFLASH_NORM(fflash_rms_norm_bf16_short, Plain<fflash::Bf16, true>)
FFLASH_NORM(fflash_rms_norm_f32_short, Plain<float, true>)
FFLASH_NORM(fflash_add_rms_norm_f16, Sum<fflash::F16, false>)
FFLASH_NORM(fflash_add_rms_norm_bf16, Sum<fflash::Bf16, false>)
FFLASH_NORM(fflash_add_rms_norm_f32, Sum<float, false>)
FFLASH_NORM(fflash_add_rms_norm_f16_short, Sum<fflash::F16, true>)
FFLASH_NORM(fflash_add_rms_norm_bf16_short, Sum<fflash::Bf16, true>)
FFLASH_NORM(fflash_add_rms_norm_f32_short, Sum<float, true>)
