//! RoPE, alone and with its neighbours, against the f64 reference.

#[path = "../common/mod.rs"]
mod common;

mod angles;
mod case;
mod indices;
mod quantised;
mod run;
mod tables;
mod traffic;

use case::{Case, alone, fused, joined};
use common::{enter, in_every_mode, mode};
use ferroflash::DType;
use half::{bf16, f16};
use proptest::prelude::*;
use run::passes;

fn any_type(case: &Case, dtype: DType) -> Result<(), TestCaseError> {
    match dtype {
        DType::BF16 => passes::<bf16>(case),
        DType::F16 => passes::<f16>(case),
        _ => passes::<f32>(case),
    }
}

fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::FLOATS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(24), ..ProptestConfig::default() })]

    #[test]
    fn rope_is_as_exact_as_the_rule_demands(mode in mode(), case in alone(), dtype in dtype()) {
        let _mode = enter(mode);
        any_type(&case, dtype)?;
    }

    #[test]
    fn fused_rope_is_as_exact_as_the_rule_demands(mode in mode(), case in fused(), dtype in dtype()) {
        let _mode = enter(mode);
        any_type(&case, dtype)?;
    }

    #[test]
    fn vectors_of_an_fp8_cache_are_as_exact(mode in mode(), case in joined(), dtype in dtype()) {
        let _mode = enter(mode);
        any_type(&case, dtype)?;
    }
}

#[test]
fn rope_is_as_exact_in_every_mode() {
    in_every_mode((alone(), dtype()), |(case, dtype)| any_type(case, *dtype));
}

#[test]
fn vectors_of_an_fp8_cache_are_as_exact_in_every_mode() {
    in_every_mode((joined(), dtype()), |(case, dtype)| any_type(case, *dtype));
}

#[test]
fn fused_rope_is_as_exact_in_every_mode() {
    in_every_mode((fused(), dtype()), |(case, dtype)| any_type(case, *dtype));
}
