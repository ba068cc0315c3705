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

pub use attention::{
    Bias, BlockMask, BlockShape, KvStorage, Mask, OptionSet, Prefill, PrefillArgs, PrefillDesc,
    PrefillInPlaceArgs, PrefillOptions, PrefillPagedArgs, PrefillVarlenArgs,
};
pub use dtype::{DType, Element, Float, Quantized};
pub use error::{Error, LayoutError, Unsupported};
pub use kernels::Kernels;
pub use metadata::{CuSeqlens, PageLayout, PageTable, Positions};
pub use norm::{RmsNorm, WeightForm};
pub use rope::{Frequencies, Rope, RopeArgs, RopeStyle};
pub use tensor::{Layout, TensorView, TensorViewMut};
