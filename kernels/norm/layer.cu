/* Entry points of LayerNorm without further options, where all operands have one type. The kernel is in norm.cuh. */
#include "norm.cuh"

namespace {

template <class T, bool kShort>
using Layer = fflash::NormTraits<T, fflash::kVecWidth<T>, kShort, fflash::Form::kCentre>;

}  // namespace

FFLASH_NORM(fflash_layer_norm_f16, Layer<fflash::F16, false>)
FFLASH_NORM(fflash_layer_norm_bf16, Layer<fflash::Bf16, false>)
FFLASH_NORM(fflash_layer_norm_f32, Layer<float, false>)
FFLASH_NORM(fflash_layer_norm_f16_short, Layer<fflash::F16, true>)
FFLASH_NORM(fflash_layer_norm_bf16_short, Layer<fflash::Bf16, true>)
FFLASH_NORM(fflash_layer_norm_f32_short, Layer<float, true>)
