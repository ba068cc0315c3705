//! Fused attention: what is computed, checked and planned on the host.

mod block;
mod call;
mod mask;
mod plan;
mod prefill;
mod support;
pub(crate) mod tiles;

pub(crate) use plan::shared_bytes;

pub use mask::{BlockMask, BlockShape, Mask};
pub use prefill::{
    Bias, Prefill, PrefillArgs, PrefillInPlaceArgs, PrefillOptions, PrefillPagedArgs,
    PrefillVarlenArgs,
};
pub use support::{KvStorage, OptionSet, PrefillDesc, support_matrix};
