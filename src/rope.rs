//! Rotary position embedding (RoPE, [arXiv 2104.09864](https://arxiv.org/abs/2104.09864)), alone or in one launch with what
//! stands next to it in a transformer layer: RMSNorm of queries and keys before it, the paged key/value cache behind it.

mod args;
mod axes;
mod bind;
mod check;
mod double;
mod frequencies;
mod geometry;
pub mod scaling;
mod support;
mod turns;

use cudarc::driver::CudaStream;

use crate::check::MAX_COUNT;
use crate::dtype::Float;
use crate::error::{Error, Unsupported};
use crate::kernels::Kernels;
use crate::launch::params::{FFLASH_MAX_ROTARY_PAIRS, fflash_rope_table_params};
use crate::launch::{Geometry, Launcher};
use crate::metadata::POSITION_LIMIT;
use crate::norm::WeightForm;
use crate::tensor::TensorViewMut;
use crate::variant::Variant;

pub use args::{
    CacheScale, CacheWrite, Heads, KvPages, NormWeights, QuantisedPages, RopeArgs, RopeTable,
};
pub use axes::Axes;
pub use frequencies::{Frequencies, InvFreq};
pub(crate) use geometry::MAX_SHARED_BYTES;
pub use support::{RopeCall, SupportRow, support_rows};

/// The parameter block has room for the frequencies of this many pairs.
const MAX_PAIRS: usize = FFLASH_MAX_ROTARY_PAIRS as usize;

/// Which elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RopeStyle {
    /// Element `p` with element `p + rotary_dim / 2` (GPT-NeoX, Llama in Hugging Face layout, Gemma).
    #[default]
    HalfSplit,
    /// Element `2p` with element `2p + 1` (GPT-J, Llama as published).
    Interleaved,
}

/// Which way pairs turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// By the angle.
    #[default]
    Forward,
    /// By minus the angle: undoes [`Direction::Forward`], and is its gradient. (With an attention factor it is the gradient, and
    /// undoes it but for the factor's square.)
    Inverse,
}

/// RMSNorm of every head before it is rotated: `x / sqrt(mean(x²) + eps) * w` over all of `head_dim`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkNorm {
    /// Added to the mean square; non-negative and finite.
    pub eps: f32,
    /// How the weight enters.
    pub weight: WeightForm,
}

/// RoPE on q and k. The default rotates whole heads, half-split, with a base of 10,000.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rope {
    /// Which elements turn together.
    pub style: RopeStyle,
    /// Elements of each head that are rotated; `None` for all of them.
    pub rotary_dim: Option<usize>,
    /// The first of them.
    pub rotary_offset: usize,
    /// How fast pairs turn.
    pub frequencies: Frequencies,
    /// Which way they turn.
    pub direction: Direction,
    /// By which of a token's positions.
    pub axes: Axes,
    /// Whether heads are normalised before.
    pub norm: Option<QkNorm>,
}

impl Kernels {
    /// Rotates `rotary_dim` elements of every head of q and, in the same launch, of k, after normalising the heads if `op` says so; k
    /// and v are then written to the pages of a cache if one is given.
    ///
    /// Angles, sines, cosines, norms and products are f32, rounded once to what is stored; the norm does not overflow for inputs up to
    /// the largest finite value of `T`. An angle that is not from a table is computed as a 64-bit fixed-point fraction of a turn,
    /// `position * turns_per_position mod 1`, so large positions lose nothing: it is exact to f32 rounding up to position
    /// 2^36, whole or fractional.
    ///
    /// Rotary dimensions are even, up to 512. Where heads are moved whole (to other memory, with a norm, or to a cache) `head_dim` is
    /// at most 2048 (`f32`) or 4096, and 512 where addresses, strides, `head_dim`, `rotary_offset` or `rotary_dim / 2` are not
    /// multiples of 16 bytes.
    ///
    /// # Errors
    /// A typed [`Error`] for shapes, strides, options, positions, slots or contexts that do not
    /// fit; nothing is launched then. Of positions and slots that the kernel checks
    /// [`IndexFaults`](crate::IndexFaults) tells.
    pub fn rope<T: Float>(
        &self,
        stream: &CudaStream,
        op: &Rope,
        mut args: RopeArgs<'_, T>,
    ) -> Result<(), Error> {
        let sizes = check::check(op, &args)?;
        let launcher = Launcher::new(self, stream)?;
        let mut call = bind::bind(launcher, op, &mut args, &sizes)?;
        let block = &mut call.block;
        if block.tokens == 0 || block.heads.iter().all(|heads| heads.heads == 0) {
            return Ok(());
        }
        let (kind, geometry) = geometry::geometry(block, size_of::<T>())?;
        let variant = Variant::Rope {
            dtype: T::DTYPE,
            kind,
            fused: geometry::is_fused(block),
        };
        launcher.submit(variant, geometry, block, call.operands)
    }

    /// Fills a table `[positions, 2, rotary_dim / 2]` for [`Frequencies::Table`]: the cosines, then the sines of the angles
    /// that `op` has at positions `first..first + positions`, times its attention factor, rounded once to `T`.
    ///
    /// Only `op.frequencies` and `op.axes` count; the direction is applied when the table is used.
    ///
    /// # Errors
    /// A typed [`Error`] for shapes, options, positions past 2^36 or contexts that do not fit; nothing is launched then.
    pub fn rope_table<T: Float>(
        &self,
        stream: &CudaStream,
        op: &Rope,
        first: usize,
        mut table: TensorViewMut<'_, T, 3>,
    ) -> Result<(), Error> {
        let [positions, parts, pairs] = table.shape();
        crate::check::extent("table", "parts", parts, 2)?;
        crate::check::last_contiguous("table", table.layout())?;
        if pairs > MAX_PAIRS {
            return Err(Unsupported::RotaryDim {
                rotary_dim: 2 * pairs,
                head_dim: 2 * pairs,
                limit: 2 * MAX_PAIRS,
            }
            .into());
        }
        op.check_options(pairs, false)?;
        let Some(frequencies) = op.axes.frequencies(&op.frequencies, pairs) else {
            return Err(Error::TableMismatch);
        };
        let end = first.saturating_add(positions);
        if end as u64 > POSITION_LIMIT as u64 {
            return Err(Error::TooLarge {
                operand: "table",
                axis: "positions",
                found: end,
                limit: POSITION_LIMIT as usize,
            });
        }
        let launcher = Launcher::new(self, stream)?;
        let layout = *table.layout();
        let bound = launcher.write("table", &mut table)?;
        let block = fflash_rope_table_params {
            table: bound.as_mut_ptr(),
            position_stride: crate::check::stride(&layout, 0),
            part_stride: crate::check::stride(&layout, 1),
            first_position: first as i64,
            positions: positions as i64,
            rotary_pairs: pairs as i32,
            factor: frequencies.attention_factor() as f32,
            turns: frequencies.turns(),
        };
        if positions == 0 || pairs == 0 {
            return Ok(());
        }
        const THREADS: usize = 256;
        let chunks = positions.saturating_mul(pairs.div_ceil(16 / size_of::<T>()));
        let blocks =
            crate::check::count("table", "chunks / 256", chunks.div_ceil(THREADS), MAX_COUNT)?;
        let geometry = Geometry {
            grid: [blocks as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
            shared_bytes: 0,
        };
        launcher.submit(
            Variant::RopeTable { dtype: T::DTYPE },
            geometry,
            &block,
            vec![Some(bound)],
        )
    }
}
