//! Which kernel of the family runs, and its launch geometry: pure functions of the parameter block. They mirror
//! kernels/norm/row.cuh and norm.cuh, which say what the numbers mean.

use crate::dtype::DType;
use crate::error::Unsupported;
use crate::launch::params::{
    FFLASH_NORM_CENTRE, FFLASH_NORM_LLAMA, FFLASH_NORM_POST, fflash_norm_backward_params,
    fflash_norm_params,
};
use crate::launch::{Geometry, Limits};

const WARP: u64 = 32;
/// The largest block.
const MAX_THREADS: u64 = 512;
/// Rows of up to this many threads are short: they lie inside a warp.
const SHORT_LANES: u64 = 16;
/// Warps in a block of several rows, when there are enough rows.
const WARPS_OF_ROWS: u64 = 4;
/// Warps of rows from which on blocks get more than one: below, more blocks are worth more.
const MANY_WARPS: u64 = 1024;

/// Static shared memory of the kernels: kernels/norm/row.cuh, RowPartials.
const STATIC_SHARED_BYTES: u32 = 264;
/// What a warp of any of the kernels keeps in shared memory at a time.
const STEP_BYTES: u32 = 512;
/// Blocks that share a row have whole ones of so many columns: elements of the largest group with a scale (kernels/norm/quantise.cuh).
const SPLIT_COLUMNS: u64 = 128;

/// The most blocks that share a row: a lane of one warp reads the partial result of each (kernels/norm/exchange.cuh).
const MOST_SHARING: u64 = 32;

/// The most dynamic shared memory that [`plan`] asks for, where blocks can have `per_block` bytes of shared memory.
pub(crate) fn max_shared_bytes(per_block: u32) -> u32 {
    let dynamic = per_block.saturating_sub(STATIC_SHARED_BYTES);
    dynamic - dynamic % STEP_BYTES
}

/// The forward kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    /// RMSNorm and no further option; all operands of one type.
    Plain { dtype: DType, short: bool },
    /// The same with a residual.
    Add { dtype: DType, short: bool },
    /// LayerNorm and no further option; all operands of one type.
    Layer { dtype: DType, short: bool },
    /// RMSNorm times a gate and no further option; all operands of one type.
    Gated { dtype: DType, short: bool },
    /// A norm before the residual and one after it, and no further option; all operands of one type.
    Post { dtype: DType },
    /// RMSNorm, with a residual or not, and no further option; all operands but the quantised output of one type.
    Quantised { dtype: DType },
    /// Every option; all operands of one 16-bit type.
    Every { dtype: DType, short: bool },
    /// Every option, each operand of its own type.
    Mixed { short: bool },
    /// The same element by element.
    Narrow,
}

impl Kernel {
    pub(crate) fn all() -> impl Iterator<Item = Kernel> {
        let of = |short| {
            let floats = DType::FLOATS.into_iter().flat_map(move |dtype| {
                [
                    Kernel::Plain { dtype, short },
                    Kernel::Add { dtype, short },
                    Kernel::Layer { dtype, short },
                    Kernel::Gated { dtype, short },
                ]
            });
            let halves = HALVES.map(|dtype| Kernel::Every { dtype, short });
            floats.chain(halves).chain([Kernel::Mixed { short }])
        };
        let long = DType::FLOATS
            .into_iter()
            .flat_map(|dtype| [Kernel::Post { dtype }, Kernel::Quantised { dtype }]);
        [false, true]
            .into_iter()
            .flat_map(of)
            .chain(long)
            .chain([Kernel::Narrow])
    }

    /// The one with every option, of long rows whose operands all have one type.
    fn of_every_option(dtype: DType) -> Kernel {
        match dtype.size() {
            2 => Kernel::Every {
                dtype,
                short: false,
            },
            _ => Kernel::Mixed { short: false },
        }
    }

    /// The type of all operands, of kernels that have one.
    fn dtype(self) -> Option<DType> {
        match self {
            Kernel::Plain { dtype, .. }
            | Kernel::Add { dtype, .. }
            | Kernel::Layer { dtype, .. }
            | Kernel::Gated { dtype, .. }
            | Kernel::Post { dtype }
            | Kernel::Quantised { dtype }
            | Kernel::Every { dtype, .. } => Some(dtype),
            Kernel::Mixed { .. } | Kernel::Narrow => None,
        }
    }

    /// Elements of a chunk, and bytes that it takes in shared memory.
    fn chunk(self) -> (u64, u64) {
        match (self, self.dtype()) {
            (_, Some(dtype)) => (16 / dtype.size() as u64, 16),
            (Kernel::Narrow, _) => (1, 4),
            _ => (4, 16),
        }
    }

    /// Chunks that a thread keeps in registers.
    fn slots(self) -> u64 {
        match self {
            Kernel::Plain { .. }
            | Kernel::Add { .. }
            | Kernel::Layer { .. }
            | Kernel::Quantised { .. } => 8,
            Kernel::Gated { .. }
            | Kernel::Post { .. }
            | Kernel::Every { .. }
            | Kernel::Mixed { .. }
            | Kernel::Narrow => 4,
        }
    }

    /// The same for short rows, of which narrow ones have no kernel and some forms none of their own.
    fn short(self) -> Option<Kernel> {
        match self {
            Kernel::Plain { dtype, .. } => Some(Kernel::Plain { dtype, short: true }),
            Kernel::Add { dtype, .. } => Some(Kernel::Add { dtype, short: true }),
            Kernel::Layer { dtype, .. } => Some(Kernel::Layer { dtype, short: true }),
            Kernel::Gated { dtype, .. } => Some(Kernel::Gated { dtype, short: true }),
            Kernel::Post { dtype } | Kernel::Quantised { dtype } => {
                Kernel::of_every_option(dtype).short()
            }
            Kernel::Every { dtype, .. } => Some(Kernel::Every { dtype, short: true }),
            Kernel::Mixed { .. } => Some(Kernel::Mixed { short: true }),
            Kernel::Narrow => None,
        }
    }

    /// Chunks of a row that a block keeps, with all the shared memory that it can have.
    fn held(self, limits: Limits) -> u64 {
        let (_, bytes) = self.chunk();
        MAX_THREADS * self.slots() + u64::from(max_shared_bytes(limits.shared_per_block)) / bytes
    }
}

/// The symbol of the entry point.
impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let suffix = |short: bool| if short { "_short" } else { "" };
        match self {
            Kernel::Plain { dtype, short } => {
                write!(f, "fflash_rms_norm_{dtype}{}", suffix(*short))
            }
            Kernel::Add { dtype, short } => {
                write!(f, "fflash_add_rms_norm_{dtype}{}", suffix(*short))
            }
            Kernel::Layer { dtype, short } => {
                write!(f, "fflash_layer_norm_{dtype}{}", suffix(*short))
            }
            Kernel::Gated { dtype, short } => {
                write!(f, "fflash_gated_norm_{dtype}{}", suffix(*short))
            }
            Kernel::Post { dtype } => write!(f, "fflash_post_norm_{dtype}"),
            Kernel::Quantised { dtype } => write!(f, "fflash_quantised_norm_{dtype}"),
            Kernel::Every { dtype, short } => write!(f, "fflash_norm_{dtype}{}", suffix(*short)),
            Kernel::Mixed { short } => write!(f, "fflash_norm_mixed{}", suffix(*short)),
            Kernel::Narrow => write!(f, "fflash_norm_narrow"),
        }
    }
}

const HALVES: [DType; 2] = [DType::F16, DType::BF16];

/// The backward kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BackwardKernel {
    /// dx and partial sums of dw; all operands of one 16-bit type.
    Half { dtype: DType },
    /// The same, each operand of its own type.
    Mixed,
    /// The same element by element.
    Narrow,
    /// dw of the partial sums.
    Weight,
}

impl BackwardKernel {
    pub(crate) fn all() -> impl Iterator<Item = BackwardKernel> {
        let halves = HALVES.map(|dtype| BackwardKernel::Half { dtype });
        halves.into_iter().chain([
            BackwardKernel::Mixed,
            BackwardKernel::Narrow,
            BackwardKernel::Weight,
        ])
    }
}

/// The symbol of the entry point.
impl std::fmt::Display for BackwardKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BackwardKernel::Half { dtype } => write!(f, "fflash_norm_backward_{dtype}"),
            BackwardKernel::Mixed => write!(f, "fflash_norm_backward_mixed"),
            BackwardKernel::Narrow => write!(f, "fflash_norm_backward_narrow"),
            BackwardKernel::Weight => write!(f, "fflash_norm_backward_weight"),
        }
    }
}

/// What decides how wide accesses to an operand may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) dtype: DType,
    pub(crate) address: u64,
    /// Strides of rows in elements.
    pub(crate) strides: [i64; 2],
}

impl Access {
    /// True when every row starts at a multiple of a chunk of so many elements.
    fn allows(&self, chunk: u64) -> bool {
        let bytes = |elements: i64| (elements as u64).wrapping_mul(self.dtype.size() as u64);
        let all = self.address | bytes(self.strides[0]) | bytes(self.strides[1]);
        all.is_multiple_of(chunk * self.dtype.size() as u64)
    }
}

/// The widest kernel for rows of `width` elements of these operands, output included, and whether all have one type,
/// of a quantised output not counting.
pub(crate) fn widest<'a>(
    width: u64,
    operands: impl Iterator<Item = &'a Access> + Clone,
) -> (u64, Option<DType>) {
    let mut floats = operands
        .clone()
        .filter(|operand| operand.dtype.size() > 1)
        .map(|operand| operand.dtype);
    let first = floats.next();
    let one = first.filter(|dtype| floats.all(|other| other == *dtype));
    let fits = |chunk: u64| {
        width.is_multiple_of(chunk) && operands.clone().all(|operand| operand.allows(chunk))
    };
    match one {
        Some(dtype) if dtype.size() == 2 && fits(8) => (8, one),
        _ if fits(4) => (4, one),
        _ => (1, one),
    }
}

/// The kernel for long rows of these operands, which have this type but for a quantised output.
fn of_one_type(block: &fflash_norm_params, operands: &[Access], dtype: DType) -> Kernel {
    let has = |flag: u32| block.flags as u32 & flag != 0;
    let [first, second] = &block.parts;
    let has_one_part = second.rows == 0 && first.heads == 1;
    let has_weights = [first, second]
        .iter()
        .all(|part| part.rows == 0 || !part.weight.is_null())
        && (!has(FFLASH_NORM_POST) || !block.post_weight.is_null());
    let quantised = operands.iter().find(|operand| operand.dtype.size() == 1);
    let is_unadorned = !has(FFLASH_NORM_LLAMA) && block.stat_width == block.width;
    let short = false;
    let [residual, gate] = [block.residual, block.gate].map(|operand| !operand.is_null());
    let [post, centre] = [FFLASH_NORM_POST, FFLASH_NORM_CENTRE].map(has);
    match (residual, post, centre, gate, quantised) {
        _ if !is_unadorned => Kernel::of_every_option(dtype),
        (false, false, true, false, None) => Kernel::Layer { dtype, short },
        _ if !block.bias.is_null() || !has_weights => Kernel::of_every_option(dtype),
        (false, false, false, false, None) => Kernel::Plain { dtype, short },
        _ if !has_one_part => Kernel::of_every_option(dtype),
        (true, false, false, false, None) => Kernel::Add { dtype, short },
        (false, false, false, true, None) => Kernel::Gated { dtype, short },
        (true, true, false, false, None) => Kernel::Post { dtype },
        (_, false, false, false, Some(out)) if block.width % 16 == 0 && out.allows(16) => {
            Kernel::Quantised { dtype }
        }
        _ => Kernel::of_every_option(dtype),
    }
}

/// Which kernel, and with what grid, block and shared memory, on a device with these limits; sets the block's `first_block` and how
/// its rows are split.
///
/// # Errors
/// [`Unsupported::RowTooLong`].
pub(crate) fn plan(
    block: &mut fflash_norm_params,
    operands: &[Access],
    limits: Limits,
) -> Result<(Kernel, Geometry), Unsupported> {
    let width = block.width as u64;
    let (chunk, dtype) = widest(width, operands.iter());
    let long = match dtype {
        _ if chunk == 1 => Kernel::Narrow,
        Some(dtype) if 16 / dtype.size() as u64 == chunk => of_one_type(block, operands, dtype),
        _ => Kernel::Mixed { short: false },
    };
    let chunks = width / chunk;
    if chunks > long.held(limits) {
        return plan_split(block, long, limits);
    }
    let (kernel, lanes) = match long.short() {
        Some(short) if chunks <= SHORT_LANES * short.slots() => {
            // Two threads make a sector of 32 bytes.
            let least = chunks.min(2);
            let lanes = chunks.div_ceil(short.slots()).next_power_of_two();
            (short, lanes.max(least))
        }
        _ => {
            let lanes = chunks.div_ceil(long.slots()).next_multiple_of(WARP);
            (long, lanes.min(MAX_THREADS))
        }
    };
    let rows = [block.parts[0].rows, block.parts[1].rows].map(|rows| rows as u64);
    let block_rows = rows_of_block(rows[0] + rows[1], lanes);
    let blocks = rows.map(|rows| rows.div_ceil(block_rows));
    block.first_block = blocks[0] as u32;
    let geometry = Geometry {
        grid: [(blocks[0] + blocks[1]) as u32, 1, 1],
        block: [lanes as u32, block_rows as u32, 1],
        shared_bytes: shared_bytes(kernel, chunks, lanes),
    };
    Ok((kernel, geometry))
}

/// The same for rows longer than what a block of `long` keeps: in y as few blocks as keep one share it. Of x there are as many as run
/// at once, or as there are rows: launches follow until all are done.
fn plan_split(
    block: &mut fflash_norm_params,
    long: Kernel,
    limits: Limits,
) -> Result<(Kernel, Geometry), Unsupported> {
    let kernel = long.dtype().map_or(long, Kernel::of_every_option);
    let width = block.width as u64;
    let (chunk, _) = kernel.chunk();
    let most = kernel.held(limits) * chunk;
    let columns = width
        .div_ceil(width.div_ceil(most))
        .next_multiple_of(SPLIT_COLUMNS);
    let blocks = width.div_ceil(columns);
    let multiprocessors = u64::from(limits.multiprocessors);
    let sharing = multiprocessors.min(MOST_SHARING);
    if !limits.runs_at_once || blocks > sharing {
        let limit = match limits.runs_at_once {
            true => most * sharing,
            false => long.held(limits) * chunk,
        };
        return Err(Unsupported::RowTooLong {
            width: width as usize,
            limit: limit as usize,
        });
    }
    let rows = (block.parts[0].rows + block.parts[1].rows) as u64;
    block.first_block = block.parts[0].rows as u32;
    block.split_width = columns as i32;
    let at_once = rows.min(multiprocessors / blocks);
    let geometry = Geometry {
        grid: [at_once as u32, blocks as u32, 1],
        block: [MAX_THREADS as u32, 1, 1],
        shared_bytes: shared_bytes(kernel, columns / chunk, MAX_THREADS),
    };
    Ok((kernel, geometry))
}

/// Dynamic shared memory for what the registers of so many threads have no room for of so many chunks.
fn shared_bytes(kernel: Kernel, chunks: u64, lanes: u64) -> u32 {
    let (_, bytes) = kernel.chunk();
    let shared = chunks.saturating_sub(lanes * kernel.slots()) * bytes;
    shared.next_multiple_of(STEP_BYTES.into()) as u32
}

/// The same for gradients, of a block whose `count` is set.
pub(crate) fn plan_backward(
    block: &fflash_norm_backward_params,
    operands: &[Access],
) -> (BackwardKernel, Geometry) {
    let (chunk, dtype) = widest(block.width as u64, operands.iter());
    let kernel = match (chunk, dtype) {
        (8, Some(dtype)) => BackwardKernel::Half { dtype },
        (1, _) => BackwardKernel::Narrow,
        _ => BackwardKernel::Mixed,
    };
    let chunks = block.width as u64 / chunk;
    let slots = if chunk == 4 { 4 } else { 2 };
    let lanes = chunks.div_ceil(slots).next_multiple_of(WARP);
    let lanes = lanes.min(MAX_THREADS);
    let per_block = rows_of_block(block.count as u64, lanes);
    let geometry = Geometry {
        grid: [(block.count as u64).div_ceil(per_block) as u32, 1, 1],
        block: [lanes as u32, per_block as u32, 1],
        shared_bytes: 0,
    };
    (kernel, geometry)
}

/// Rows of a block: whole warps of them where a row does not span warps.
fn rows_of_block(rows: u64, lanes: u64) -> u64 {
    if lanes > WARP {
        return 1;
    }
    let in_warp = WARP / lanes;
    let warps = rows.div_ceil(in_warp) / MANY_WARPS;
    in_warp * warps.clamp(1, WARPS_OF_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::params::{fflash_norm_part, fflash_strides3};

    /// x, weight and out of one type at one address, with one stride.
    fn block(rows: [i64; 2], width: i32) -> fflash_norm_params {
        let null = std::ptr::null();
        let address = std::ptr::without_provenance_mut(256);
        let strides = fflash_strides3 {
            tokens: 0,
            heads: 0,
        };
        let part = |rows| fflash_norm_part {
            x: address,
            weight: address,
            out: address,
            x_strides: strides,
            out_strides: strides,
            rows,
            heads: 1,
        };
        fflash_norm_params {
            parts: rows.map(part),
            residual: null,
            residual_out: std::ptr::null_mut(),
            post_weight: null,
            bias: null,
            gate: null,
            scales: std::ptr::null_mut(),
            residual_row_stride: 0,
            residual_out_row_stride: 0,
            gate_row_stride: 0,
            scales_row_stride: 0,
            scales_group_stride: 0,
            first_block: 0,
            width,
            stat_width: width,
            group: 0,
            flags: 0,
            x_dtype: 0,
            residual_dtype: 0,
            weight_dtype: 0,
            post_weight_dtype: 0,
            bias_dtype: 0,
            gate_dtype: 0,
            out_dtype: 0,
            eps: 0.0,
            inverse_scale: 1.0,
            exchange: std::ptr::null_mut(),
            block_offset: 0,
            split_width: 0,
        }
    }

    fn access(dtype: DType, stride: i64, address: u64) -> Access {
        Access {
            dtype,
            address,
            strides: [stride, 0],
        }
    }

    /// Of sm_80.
    const PER_BLOCK: u32 = 163 * 1024;

    const LIMITS: Limits = Limits {
        shared_per_block: PER_BLOCK,
        multiprocessors: 108,
        runs_at_once: true,
    };

    fn plan(block: &mut fflash_norm_params, operands: &[Access]) -> (Kernel, Geometry) {
        super::plan(block, operands, LIMITS).expect("a plan")
    }

    fn of(rows: i64, width: i32, dtype: DType) -> (Kernel, Geometry) {
        plan(
            &mut block([rows, 0], width),
            &[access(dtype, width.into(), 256)],
        )
    }

    fn launch(grid: u32, block: [u32; 2], shared_bytes: u32) -> Geometry {
        Geometry {
            grid: [grid, 1, 1],
            block: [block[0], block[1], 1],
            shared_bytes,
        }
    }

    fn plain(dtype: DType, short: bool) -> Kernel {
        Kernel::Plain { dtype, short }
    }

    #[test]
    fn usual_sizes() {
        let (half, float) = (DType::BF16, DType::F32);
        let (long, short) = (plain(half, false), plain(half, true));
        assert_eq!(of(4096, 4096, half), (long, launch(4096, [64, 1], 0)));
        let f32_long = (plain(float, false), launch(4096, [256, 1], 0));
        assert_eq!(of(4096, 8192, float), f32_long);
        assert_eq!(of(1, 5120, half), (long, launch(1, [96, 1], 0)));
        // Heads of 128 and 256.
        assert_eq!(of(1 << 20, 128, half), (short, launch(1 << 14, [2, 64], 0)));
        assert_eq!(of(1 << 20, 256, half), (short, launch(1 << 15, [4, 32], 0)));
        assert_eq!(of(5, 256, half), (short, launch(1, [4, 8], 0)));
        assert_eq!(of(1, 8, half), (short, launch(1, [1, 32], 0)));
        assert_eq!(of(1, 1024, half), (short, launch(1, [16, 2], 0)));
        assert_eq!(of(1, 1032, half), (long, launch(1, [32, 1], 0)));
    }

    #[test]
    fn long_rows_continue_in_shared_memory() {
        let (half, float) = (DType::F16, DType::F32);
        let one = |kernel, shared| (kernel, launch(1, [512, 1], shared));
        assert_eq!(of(1, 32768, half), one(plain(half, false), 0));
        assert_eq!(of(1, 32776, half), one(plain(half, false), 512));
        assert_eq!(of(1, 40960, float), one(plain(float, false), 96 * 1024));
        let most = 163 * 1024 - 512;
        assert_eq!(of(1, 57984, float), one(plain(float, false), most));
        assert_eq!(of(1, 2049, half), one(Kernel::Narrow, 512));
    }

    #[test]
    fn longer_rows_are_shared_by_blocks() {
        let split = |rows, width, dtype| {
            let mut block = block([rows, 0], width);
            let (kernel, geometry) = plan(&mut block, &[access(dtype, width.into(), 256)]);
            let [x, y, _] = geometry.grid;
            (kernel, [x, y], block.split_width)
        };
        let dtype = DType::BF16;
        let half = Kernel::of_every_option(dtype);
        assert_eq!(split(1, 115_976, dtype), (half, [1, 2], 58_112));
        assert_eq!(split(1, 262_144, dtype), (half, [1, 3], 87_424));
        // 36 rows at a time fill 108 multiprocessors.
        assert_eq!(split(35, 262_144, dtype).1, [35, 3]);
        assert_eq!(split(99, 262_144, dtype).1, [36, 3]);
        let mixed = Kernel::Mixed { short: false };
        let float = split(1, 262_144, DType::F32);
        assert_eq!(float, (mixed, [1, 6], 43_776));
        let narrow = split(1, 262_143, dtype);
        assert_eq!(narrow, (Kernel::Narrow, [1, 7], 37_504));
    }

    #[test]
    fn rows_longer_than_the_device_keeps_are_refused() {
        let refused = |width: i32, limits| {
            let operands = [access(DType::BF16, width.into(), 256)];
            super::plan(&mut block([1, 0], width), &operands, limits).expect_err("too long")
        };
        let limit_of = |limits, limit| {
            let width = i32::MAX - 7;
            let error = Unsupported::RowTooLong {
                width: width as usize,
                limit,
            };
            assert_eq!(refused(width, limits), error);
        };
        limit_of(LIMITS, 32 * 99_584);
        let few = Limits {
            multiprocessors: 14,
            ..LIMITS
        };
        limit_of(few, 14 * 99_584);
        let alone = Limits {
            runs_at_once: false,
            ..LIMITS
        };
        limit_of(alone, 115_968);
    }

    #[test]
    fn everything_must_be_aligned_for_wide_accesses() {
        let kernel = |width, stride, address| {
            let operand = access(DType::F16, stride, address);
            plan(&mut block([9, 0], width), &[operand]).0
        };
        let mixed = Kernel::Mixed { short: true };
        assert_eq!(kernel(64, 64, 16), plain(DType::F16, true));
        assert_eq!(
            kernel(60, 64, 16),
            mixed,
            "the width is a number of 8 bytes"
        );
        assert_eq!(kernel(64, 68, 16), mixed, "later rows are at 8 bytes");
        assert_eq!(kernel(64, 64, 8), mixed, "the first row is at 8 bytes");
        assert_eq!(kernel(62, 64, 16), Kernel::Narrow);
        assert_eq!(kernel(64, 66, 16), Kernel::Narrow);
        assert_eq!(kernel(64, 64, 2), Kernel::Narrow);
        // Bytes of a quantised output come in eights.
        let out = |address| [access(DType::F16, 64, 16), access(DType::I8, 64, address)];
        let every = Kernel::Every {
            dtype: DType::F16,
            short: true,
        };
        assert_eq!(plan(&mut block([9, 0], 64), &out(8)).0, every);
        assert_eq!(plan(&mut block([9, 0], 64), &out(4)).0, mixed);
        assert_eq!(plan(&mut block([9, 0], 64), &out(2)).0, Kernel::Narrow);
    }

    #[test]
    fn options_and_types_choose_the_kernel() {
        let halves = [access(DType::BF16, 64, 16); 2];
        let kernel = |change: &dyn Fn(&mut fflash_norm_params), operands: &[Access]| {
            let mut block = block([9, 0], 1 << 12);
            change(&mut block);
            plan(&mut block, operands).0
        };
        let (dtype, short) = (DType::BF16, false);
        let every = Kernel::Every { dtype, short };
        let some = std::ptr::without_provenance::<std::ffi::c_void>(16);
        assert_eq!(kernel(&|_| (), &halves), plain(dtype, short));
        let add = Kernel::Add { dtype, short };
        assert_eq!(kernel(&|block| block.residual = some, &halves), add);
        assert_eq!(kernel(&|block| block.bias = some, &halves), every);
        let gated = Kernel::Gated { dtype, short };
        assert_eq!(kernel(&|block| block.gate = some, &halves), gated);
        let biased_gate = |block: &mut fflash_norm_params| (block.gate, block.bias) = (some, some);
        assert_eq!(kernel(&biased_gate, &halves), every);
        assert_eq!(kernel(&|block| block.stat_width = 5, &halves), every);
        assert_eq!(
            kernel(&|block| block.parts[0].weight = std::ptr::null(), &halves),
            every
        );
        for flag in [FFLASH_NORM_LLAMA, FFLASH_NORM_POST] {
            assert_eq!(kernel(&|block| block.flags = flag as i32, &halves), every);
        }
        let post = |block: &mut fflash_norm_params| {
            block.flags = FFLASH_NORM_POST as i32;
            (block.residual, block.post_weight) = (some, some);
        };
        assert_eq!(kernel(&post, &halves), Kernel::Post { dtype });
        let without_weight = |block: &mut fflash_norm_params| {
            post(block);
            block.post_weight = std::ptr::null();
        };
        assert_eq!(kernel(&without_weight, &halves), every);
        let layer = |change: &dyn Fn(&mut fflash_norm_params), operands: &[Access]| {
            let both = |block: &mut fflash_norm_params| {
                block.flags = FFLASH_NORM_CENTRE as i32;
                change(block);
            };
            kernel(&both, operands)
        };
        let centred = |dtype| Kernel::Layer { dtype, short };
        assert_eq!(layer(&|_| (), &halves), centred(dtype));
        assert_eq!(layer(&|block| block.bias = some, &halves), centred(dtype));
        let without = |block: &mut fflash_norm_params| block.parts[0].weight = std::ptr::null();
        assert_eq!(layer(&without, &halves), centred(dtype));
        assert_eq!(layer(&|block| block.residual = some, &halves), every);
        assert_eq!(layer(&|block| block.gate = some, &halves), every);
        assert_eq!(layer(&|block| block.stat_width = 5, &halves), every);
        let llama = (FFLASH_NORM_CENTRE | FFLASH_NORM_LLAMA) as i32;
        assert_eq!(layer(&|block| block.flags = llama, &halves), every);
        let mixed = Kernel::Mixed { short };
        let types = [halves[0], access(DType::F32, 64, 16)];
        assert_eq!(kernel(&|_| (), &types), mixed);
        let floats = [types[1]; 2];
        assert_eq!(kernel(&|_| (), &floats), plain(DType::F32, short));
        assert_eq!(kernel(&|block| block.bias = some, &floats), mixed);
        assert_eq!(layer(&|_| (), &floats), centred(DType::F32));
        assert_eq!(layer(&|_| (), &types), mixed);
    }

    #[test]
    fn quantised_rows_of_whole_accesses_have_a_kernel() {
        let kernel = |width: i32, stride, address| {
            let mut block = block([9, 0], width);
            let out = access(DType::F8E4M3, stride, address);
            plan(
                &mut block,
                &[access(DType::BF16, i64::from(width), 256), out],
            )
            .0
        };
        let dtype = DType::BF16;
        let every = Kernel::of_every_option(dtype);
        assert_eq!(kernel(4096, 4096, 16), Kernel::Quantised { dtype });
        assert_eq!(kernel(4104, 4112, 16), every, "the width is 8 more");
        assert_eq!(kernel(4096, 4104, 16), every, "later rows are at 8 bytes");
        assert_eq!(kernel(4096, 4096, 8), every, "the first row is at 8 bytes");
        // Rows inside a warp have the kernel of every option alone.
        let short = Kernel::Every { dtype, short: true };
        assert_eq!(kernel(512, 512, 16), short);
        let (_, geometry) = {
            let operands = [access(dtype, 1024, 256), access(DType::F8E4M3, 1024, 16)];
            plan(&mut block([9, 0], 1024), &operands)
        };
        assert_eq!(geometry, launch(9, [32, 1], 0));
    }

    #[test]
    fn parts_have_blocks_of_their_own() {
        let mut two = block([100, 9], 128);
        let (kernel, geometry) = plan(&mut two, &[access(DType::BF16, 128, 16)]);
        assert_eq!(kernel, plain(DType::BF16, true));
        assert_eq!(geometry, launch(7 + 1, [2, 16], 0));
        assert_eq!(two.first_block, 7);
    }

    /// What the kernel relies on, for every width up to 20,000 and some beyond.
    #[test]
    fn the_preconditions_of_the_kernel_hold() {
        let widths = (1..20_000).chain([32_768, 40_961, 81_920, 262_144, 262_147, 1 << 20]);
        for width in widths {
            for (dtype, rows, bias) in [
                (DType::F16, 1, false),
                (DType::F16, 100_003, true),
                (DType::F32, 1, true),
                (DType::F32, i64::from(i32::MAX), false),
            ] {
                let mut block = block([rows, 0], width);
                if bias {
                    block.bias = std::ptr::without_provenance(16);
                }
                let (kernel, geometry) = plan(&mut block, &[access(dtype, width.into(), 256)]);
                let [lanes, y, z] = geometry.block.map(u64::from);
                let case = format!("{rows} x {width}, {dtype}: {kernel:?}, {geometry:?}");
                assert!(lanes * y <= MAX_THREADS && z == 1, "{case}");
                assert!((lanes * y).is_multiple_of(WARP), "{case}");
                let (chunk, bytes) = kernel.chunk();
                assert!((width as u64).is_multiple_of(chunk), "{case}");
                let mut chunks = width as u64 / chunk;
                let [grid_x, blocks, _] = geometry.grid.map(u64::from);
                if blocks > 1 {
                    assert!(grid_x * blocks <= LIMITS.multiprocessors.into(), "{case}");
                    let columns = block.split_width as u64;
                    let width = width as u64;
                    assert!((blocks - 1) * columns < width, "{case}");
                    assert!(blocks * columns >= width, "{case}");
                    assert!(columns.is_multiple_of(SPLIT_COLUMNS), "{case}");
                    chunks = columns / chunk;
                } else {
                    assert!(grid_x * y >= rows as u64, "{case}");
                }
                let beyond = chunks.saturating_sub(lanes * kernel.slots()) * bytes;
                let shared = u64::from(geometry.shared_bytes);
                let most = u64::from(max_shared_bytes(PER_BLOCK));
                assert!(shared >= beyond && shared <= most, "{case}");
                assert!(shared.is_multiple_of(STEP_BYTES.into()), "{case}");
                if Some(kernel) == kernel.short() {
                    assert!(lanes.is_power_of_two() && lanes <= SHORT_LANES, "{case}");
                    assert_eq!(beyond, 0, "{case}");
                } else {
                    assert!(lanes.is_multiple_of(WARP), "{case}");
                    assert!(y == 1 || lanes == WARP, "{case}");
                    assert!(beyond == 0 || lanes == MAX_THREADS, "{case}");
                }
            }
        }
    }
}
