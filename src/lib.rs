//! Fused attention, RMSNorm and RoPE for transformer inference.
pub mod attention;
pub mod dtype;
pub mod error;
pub mod metadata;
pub mod norm;
pub mod rope;
pub mod tensor;

pub use attention::{Mask, Prefill, PrefillArgs};
pub use dtype::{DType, Element};
pub use error::{Error, LayoutError, Unsupported};
pub use metadata::Positions;
pub use norm::{RmsNorm, WeightForm};
pub use rope::{Frequencies, Rope, RopeStyle};
pub use tensor::{Layout, TensorView, TensorViewMut};
