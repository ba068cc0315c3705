//! Fused attention: what is computed, checked and planned on the host.

mod prefill;
pub(crate) mod tiles;

pub use prefill::{Mask, Prefill, PrefillArgs};
