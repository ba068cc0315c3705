//! What can go wrong, as values a caller can match on.

use cudarc::driver::DriverError;
use thiserror::Error;

use crate::dtype::DType;

/// Why an operation was refused. Nothing was launched and no operand was touched.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A view does not describe memory inside its buffer.
    #[error(transparent)]
    Layout(#[from] LayoutError),

    /// No kernel exists for what was asked.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),

    /// Two operands disagree on an extent.
    #[error("{operand}: {axis} is {found}, expected {expected}")]
    ShapeMismatch {
        /// The operand, for instance `k`.
        operand: &'static str,
        /// The axis, for instance `head_dim`.
        axis: &'static str,
        /// What the other operands imply.
        expected: usize,
        /// What the operand has.
        found: usize,
    },

    /// `num_qo_heads` is not a multiple of `num_kv_heads`.
    #[error("{num_qo_heads} query heads cannot share {num_kv_heads} key/value heads evenly")]
    HeadsNotDivisible {
        /// Heads of q and o.
        num_qo_heads: usize,
        /// Heads of k and v.
        num_kv_heads: usize,
    },

    /// The last dimension of an operand is not contiguous.
    #[error("{operand}: the last dimension must be contiguous, its stride is {stride}")]
    LastDimensionStrided {
        /// The operand.
        operand: &'static str,
        /// Its stride in elements.
        stride: usize,
    },

    /// An operand's address or stride is not a multiple of what the kernel loads at once.
    #[error("{operand}: {what} must be a multiple of {required} bytes, it is {found}")]
    Misaligned {
        /// The operand.
        operand: &'static str,
        /// `address`, or the stride of an axis.
        what: &'static str,
        /// Required alignment in bytes.
        required: usize,
        /// The address or the stride, in bytes.
        found: u64,
    },

    /// An operand, the stream and the kernels do not belong to one CUDA context.
    #[error("{operand} belongs to another CUDA context than the kernels")]
    ContextMismatch {
        /// The operand, or `stream`.
        operand: &'static str,
    },

    /// A scalar option has a value without meaning.
    #[error("{name} = {value}: {requirement}")]
    InvalidOption {
        /// The option, for instance `softcap`.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        requirement: &'static str,
    },

    /// An extent is larger than the kernels count with.
    #[error("{operand}: {axis} is {found}, the kernels support at most {limit}")]
    TooLarge {
        /// The operand.
        operand: &'static str,
        /// The axis.
        axis: &'static str,
        /// The extent.
        found: usize,
        /// The largest supported extent.
        limit: usize,
    },

    /// A position is negative, or past the end of the cos/sin table.
    #[error("positions[{index}] = {position} is outside 0..{limit}")]
    PositionOutOfRange {
        /// Index into the positions.
        index: usize,
        /// The position.
        position: i64,
        /// One past the largest allowed position.
        limit: usize,
    },

    /// Cumulative lengths do not start at 0, decrease, or pass what the kernels count with.
    #[error("cu_seqlens[{index}] = {value}: {requirement}")]
    InvalidCuSeqlens {
        /// The index.
        index: usize,
        /// The value there.
        value: usize,
        /// What it must be.
        requirement: &'static str,
    },

    /// A page table does not hold the requests it is for.
    #[error("page table of request {request}, entry {index}: {value}: {requirement}")]
    InvalidPageTable {
        /// The request.
        request: usize,
        /// The entry of its row.
        index: usize,
        /// The value that does not fit.
        value: i64,
        /// What must hold.
        requirement: &'static str,
    },

    /// A page table names a page that the cache does not have.
    #[error(
        "page table of request {request}, entry {index}: page {page} is outside 0..{num_pages}"
    )]
    PageOutOfRange {
        /// The request.
        request: usize,
        /// The entry of its row.
        index: usize,
        /// The page.
        page: i64,
        /// Pages of the cache.
        num_pages: usize,
    },

    /// A list of key blocks does not fit its mask.
    #[error("block mask, {what} {index}: {value}: {requirement}")]
    InvalidBlockMask {
        /// `offset` or `key block`.
        what: &'static str,
        /// The index.
        index: usize,
        /// The value there.
        value: usize,
        /// What it must be.
        requirement: &'static str,
    },

    /// An option demands an operand that was not given, or an operand was given that no option reads.
    #[error("{operand} must be given exactly when {option}")]
    OperandMismatch {
        /// The operand.
        operand: &'static str,
        /// What asks for it.
        option: &'static str,
    },

    /// `Frequencies::Table` without a table, or a table with `Frequencies::Base`.
    #[error("a cos/sin table must be given exactly when the frequencies are Frequencies::Table")]
    TableMismatch,

    /// The crate was built without kernels (`FERROFLASH_SKIP_KERNELS=1`, or on docs.rs).
    #[error("this build of ferroflash carries no kernels: rebuild without FERROFLASH_SKIP_KERNELS")]
    KernelsNotBuilt,

    /// The CUDA driver reported an error.
    #[error("CUDA driver: {0:?}")]
    Driver(DriverError),
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        Error::Driver(error)
    }
}

/// Why a layout is not a view of a buffer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The last element lies past the end of the buffer.
    #[error("the layout spans {span} elements, the buffer holds {buffer}")]
    OutOfBounds {
        /// One past the highest element index that the layout reaches.
        span: usize,
        /// Elements in the buffer.
        buffer: usize,
    },

    /// An extent or element index does not fit in 63 bits.
    #[error("the layout's extent overflows")]
    Overflow,

    /// Two indices of a mutable view name the same element.
    #[error("a mutable view must not overlap itself: shape {shape:?}, strides {strides:?}")]
    Overlapping {
        /// Shape.
        shape: Vec<usize>,
        /// Strides in elements.
        strides: Vec<usize>,
    },
}

/// A combination for which no kernel exists.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The operation has no kernel for this element type.
    #[error("{op} does not support {dtype}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The element type.
        dtype: DType,
    },

    /// The operation has no kernel for this head dimension.
    #[error(
        "{op} does not support a {axis} of {head_dim}, only multiples of {multiple} up to {limit}"
    )]
    HeadDim {
        /// The operation.
        op: &'static str,
        /// `head_dim` (of q and k) or `head_dim_v`.
        axis: &'static str,
        /// The head dimension.
        head_dim: usize,
        /// What it must be a multiple of.
        multiple: usize,
        /// The largest supported one.
        limit: usize,
    },

    /// Output cannot go over the queries: their head dimensions differ.
    #[error("{op} cannot write o over q: head_dim is {head_dim}, head_dim of v is {head_dim_v}")]
    InPlace {
        /// The operation.
        op: &'static str,
        /// Of q.
        head_dim: usize,
        /// Of o.
        head_dim_v: usize,
    },

    /// The rotary dimension is zero, odd, larger than the head, or larger than the kernels support.
    #[error(
        "rope does not support rotary_dim {rotary_dim} with head_dim {head_dim}: it must be even, at least 2, at most head_dim and at most {limit}"
    )]
    RotaryDim {
        /// The rotary dimension.
        rotary_dim: usize,
        /// The head dimension.
        head_dim: usize,
        /// The largest supported rotary dimension.
        limit: usize,
    },

    /// The device is older than the kernels' oldest target.
    #[error("compute capability {major}.{minor} is below 8.0")]
    ComputeCapability {
        /// Major.
        major: i32,
        /// Minor.
        minor: i32,
    },
}
