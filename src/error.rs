//! What can go wrong, as values a caller can match on.

use cudarc::driver::DriverError;
use thiserror::Error;

use crate::dtype::DType;
use crate::metadata::Number;

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

    /// An operand is of another element type than those it goes with.
    #[error("{operand}: the element type is {found}, expected {expected}")]
    DTypeMismatch {
        /// The operand.
        operand: &'static str,
        /// What the other operands imply.
        expected: DType,
        /// What the operand has.
        found: DType,
    },

    /// An operand is missing, or given where nothing would use it.
    #[error("{operand} {requirement}")]
    OperandMismatch {
        /// The operand.
        operand: &'static str,
        /// When it must be given.
        requirement: &'static str,
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

    /// A workspace has fewer elements than the operation needs.
    #[error("{operand}: {found} elements, {needed} are needed")]
    TooSmall {
        /// The operand.
        operand: &'static str,
        /// Its elements.
        found: usize,
        /// How many are needed.
        needed: usize,
    },

    /// A position is negative, past the end of the cos/sin table, or larger than angles are exact for. Real positions
    /// may be as far below 0 as above.
    #[error("positions[{index}] = {position} is outside 0..{limit}")]
    PositionOutOfRange {
        /// Index into the positions.
        index: usize,
        /// The position.
        position: Number,
        /// One past the largest allowed position.
        limit: usize,
    },

    /// A slot is past the end of the cache, or another token's too.
    #[error("slots[{index}] = {slot}: {requirement}")]
    InvalidSlot {
        /// Index into the slots.
        index: usize,
        /// The slot.
        slot: usize,
        /// What it must be.
        requirement: &'static str,
    },

    /// An operand is missing that the operation as described needs.
    #[error("{operand} must be given: {option}")]
    OperandMissing {
        /// The operand.
        operand: &'static str,
        /// What needs it.
        option: &'static str,
    },

    /// An operand is given that the operation as described has no use for.
    #[error("{operand} must not be given: {option}")]
    OperandUnused {
        /// The operand.
        operand: &'static str,
        /// Why it is of no use.
        option: &'static str,
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

    /// `Frequencies::Table` without a table, or a table with other frequencies.
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

    /// The rotated part does not lie inside the head.
    #[error(
        "rope does not support rotary_offset {rotary_offset} with rotary_dim {rotary_dim} and head_dim {head_dim}: the rotated part must end inside the head"
    )]
    RotaryOffset {
        /// Where the rotated part begins.
        rotary_offset: usize,
        /// Its length.
        rotary_dim: usize,
        /// The head dimension.
        head_dim: usize,
    },

    /// A token has no position, or more than the kernels count with.
    #[error("rope does not support {axes} axes, only 1 to {limit}")]
    Axes {
        /// Sections given.
        axes: usize,
        /// The most supported.
        limit: usize,
    },

    /// The head is longer than what a block of the kernel moves whole.
    #[error(
        "{op} does not support head_dim {head_dim}: with these types and alignments at most {limit}"
    )]
    HeadTooLong {
        /// The operation.
        op: &'static str,
        /// The head dimension.
        head_dim: usize,
        /// The longest supported head.
        limit: usize,
    },

    /// The row is longer than what the blocks that can share it keep: at most 32, of a device that runs them at once.
    #[error("norm does not support rows of {width} columns on this device: at most {limit}")]
    RowTooLong {
        /// Columns of a row.
        width: usize,
        /// The longest row that the device keeps, with these types and alignments.
        limit: usize,
    },

    /// The operation has no kernel for groups of this size.
    #[error("groups of {size} columns are not supported, only of {supported:?}")]
    GroupSize {
        /// Columns of a group.
        size: usize,
        /// Sizes that have kernels.
        supported: &'static [usize],
    },

    /// Two options of an operation exclude each other.
    #[error("{op} does not support {first} with {second}")]
    Combination {
        /// The operation.
        op: &'static str,
        /// An option.
        first: &'static str,
        /// The other.
        second: &'static str,
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
