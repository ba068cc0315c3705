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
pub mod operand;
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
pub use metadata::{
    CuSeqlens, FaultyIndex, IndexFault, IndexFaults, PageLayout, PageTable, Position, Positions,
    Slots,
};
pub use norm::{
    Norm, NormArgs, NormBackwardArgs, NormDTypes, PostNorm, QkNormArgs, RmsNorm, Rounding, Scale,
    Statistics, WeightForm,
};
pub use operand::{InOut, Operand, OperandMut};
pub use rope::{
    Axes, CacheScale, CacheWrite, Direction, Frequencies, Heads, InvFreq, KvPages, NormWeights,
    QkNorm, QuantisedPages, Rope, RopeArgs, RopeStyle, RopeTable,
};
pub use tensor::{Layout, TensorView, TensorViewMut};
