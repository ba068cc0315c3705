/* Entry points of the RMSNorm family with every option. The kernel is in norm.cuh. */
#include "norm.cuh"

namespace {

template <class T, int kWidth, bool kShort>
using Every = fflash::NormTraits<T, kWidth, kShort, fflash::Form::kEvery>;

}  // namespace

FFLASH_NORM(fflash_norm_f16, Every<fflash::F16, 8, false>)
FFLASH_NORM(fflash_norm_bf16, Every<fflash::Bf16, 8, false>)
FFLASH_NORM(fflash_norm_mixed, Every<fflash::Any, 4, false>)
FFLASH_NORM(fflash_norm_narrow, Every<fflash::Any, 1, false>)
FFLASH_NORM(fflash_norm_f16_short, Every<fflash::F16, 8, true>)
FFLASH_NORM(fflash_norm_bf16_short, Every<fflash::Bf16, 8, true>)
FFLASH_NORM(fflash_norm_mixed_short, Every<fflash::Any, 4, true>)
