#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod attention;
mod check;
pub mod dtype;
pub mod error;
mod kernels;
mod launch;
pub mod metadata;
pub mod norm;
pub mod reference;
pub mod rope;
pub mod tensor;
mod variant;

pub use attention::{Mask, Prefill, PrefillArgs};
pub use dtype::{DType, Element, Float, Quantized};
pub use error::{Error, LayoutError, Unsupported};
pub use kernels::Kernels;
pub use metadata::{
    CuSeqlens, FaultyIndex, IndexFault, IndexFaults, PageLayout, Position, Positions, Slots,
};
pub use norm::{RmsNorm, WeightForm};
pub use rope::{
    Axes, CacheWrite, Direction, Frequencies, Heads, InvFreq, KvPages, NormWeights, QkNorm,
    QuantisedPages, Rope, RopeArgs, RopeStyle, RopeTable, Scale,
};
pub use tensor::{Layout, TensorView, TensorViewMut};
