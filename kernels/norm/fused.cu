/* Entry points of RMSNorm with one fusion, where all operands but a quantised output have one type. The kernel is in norm.cuh. */
#include "norm.cuh"

namespace {

template <class T, fflash::Form kForm, bool kShort = false>
using Fused = fflash::NormTraits<T, fflash::kVecWidth<T>, kShort, kForm>;

}  // namespace

FFLASH_NORM(fflash_gated_norm_f16, Fused<fflash::F16, fflash::Form::kGate>)
FFLASH_NORM(fflash_gated_norm_bf16, Fused<fflash::Bf16, fflash::Form::kGate>)
FFLASH_NORM(fflash_gated_norm_f32, Fused<float, fflash::Form::kGate>)
FFLASH_NORM(fflash_gated_norm_f16_short, Fused<fflash::F16, fflash::Form::kGate, true>)
FFLASH_NORM(fflash_gated_norm_bf16_short, Fused<fflash::Bf16, fflash::Form::kGate, true>)
FFLASH_NORM(fflash_gated_norm_f32_short, Fused<float, fflash::Form::kGate, true>)
FFLASH_NORM(fflash_post_norm_f16, Fused<fflash::F16, fflash::Form::kPost>)
FFLASH_NORM(fflash_post_norm_bf16, Fused<fflash::Bf16, fflash::Form::kPost>)
FFLASH_NORM(fflash_post_norm_f32, Fused<float, fflash::Form::kPost>)
FFLASH_NORM(fflash_quantised_norm_f16, Fused<fflash::F16, fflash::Form::kQuantise>)
FFLASH_NORM(fflash_quantised_norm_bf16, Fused<fflash::Bf16, fflash::Form::kQuantise>)
FFLASH_NORM(fflash_quantised_norm_f32, Fused<float, fflash::Form::kQuantise>)
