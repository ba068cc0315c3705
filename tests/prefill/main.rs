//! Prefill attention against the f64 reference, on drawn types, shapes, layouts and options.

mod cache;
mod case;
#[path = "../common/mod.rs"]
mod common;
mod errors;
mod expect;
mod inputs;
mod properties;
mod run;

use case::case;
use common::{enter, in_every_mode, mode};
use expect::case_passes;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(40), ..ProptestConfig::default() })]

    #[test]
    fn prefill_is_as_exact_as_the_rule_demands(mode in mode(), case in case(4_000_000)) {
        let _mode = enter(mode);
        case_passes(&case)?;
    }
}

#[test]
fn prefill_is_as_exact_in_every_mode() {
    in_every_mode(case(500_000), case_passes);
}
