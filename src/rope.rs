//! Rotary position embedding (RoPE, [arXiv 2104.09864](https://arxiv.org/abs/2104.09864)).

mod geometry;
mod turns;

use cudarc::driver::CudaStream;

use crate::check::{self, MAX_COUNT};
use crate::dtype::Float;
use crate::error::{Error, Unsupported};
use crate::kernels::Kernels;
use crate::launch::params::{FFLASH_MAX_ROTARY_PAIRS, fflash_rope_params, fflash_strides3};
use crate::launch::{Launcher, optional, optional_mut};
use crate::metadata::Positions;
use crate::tensor::{Layout, TensorView, TensorViewMut};
use crate::variant::Variant;

pub(crate) use geometry::MAX_SHARED_BYTES;
use turns::turns;

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

/// Where the angles come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Frequencies {
    /// Pair `p` turns by `position * scale * base^(-2p / rotary_dim)` radians. The kernel multiplies
    /// in 64-bit fixed point, so the angle is exact to f32 rounding at every position.
    Base {
        /// Usually 10,000; positive and finite.
        base: f64,
        /// 1, or `1 / factor` for linear position interpolation; finite.
        scale: f64,
    },
    /// Cosines and sines are read from the table given with the operands.
    Table,
}

/// RoPE on q and k, in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Which elements turn together.
    pub style: RopeStyle,
    /// Leading elements of each head that are rotated; `None` for all of them.
    pub rotary_dim: Option<usize>,
    /// Where the angles come from.
    pub frequencies: Frequencies,
}

/// Operands of [`Kernels::rope`](crate::Kernels::rope).
#[derive(Debug)]
pub struct RopeArgs<'a, T> {
    /// `[tokens, q_heads, head_dim]`, rotated in place.
    pub q: TensorViewMut<'a, T, 3>,
    /// `[tokens, k_heads, head_dim]`, rotated in place.
    pub k: Option<TensorViewMut<'a, T, 3>>,
    /// The position of every token.
    pub positions: &'a Positions,
    /// `[positions, 2, rotary_dim / 2]`: the cosines, then the sines of every position. Given exactly
    /// when the frequencies are [`Frequencies::Table`].
    pub table: Option<TensorView<'a, f32, 3>>,
}

impl Kernels {
    /// Rotates the leading `rotary_dim` elements of every head of q and, in the same launch, of k.
    ///
    /// Angles, sines, cosines and products are f32, rounded to `T` once. The rest of each head is not
    /// touched. An angle from [`Frequencies::Base`] is computed as a 64-bit fixed-point fraction of a
    /// turn, `position * turns_per_position mod 1`, so large positions lose nothing.
    ///
    /// # Errors
    /// A typed [`Error`] for shapes, strides, options, positions past the table or contexts that do not
    /// fit; nothing is launched then.
    pub fn rope<T: Float>(
        &self,
        stream: &CudaStream,
        op: &Rope,
        mut args: RopeArgs<'_, T>,
    ) -> Result<(), Error> {
        let rotary_pairs = check(op, &args)?;
        let launcher = Launcher::new(self, stream)?;
        let [tokens, q_heads, _] = args.q.shape();
        let k_heads = args.k.as_ref().map_or(0, |k| k.shape()[1]);
        let q_layout = *args.q.layout();
        let k_layout = args.k.as_ref().map(|k| *k.layout());
        let table_layout = args.table.as_ref().map(|table| *table.layout());
        let q = launcher.write("q", &mut args.q)?;
        let k = args
            .k
            .as_mut()
            .map(|k| launcher.write("k", k))
            .transpose()?;
        let positions = launcher.read_slice("positions", args.positions.device())?;
        let table = args
            .table
            .as_ref()
            .map(|table| launcher.read("table", table))
            .transpose()?;
        let block = fflash_rope_params {
            q: q.as_mut_ptr(),
            k: optional_mut(k.as_ref()),
            positions: positions.as_ptr(),
            table: optional(table.as_ref()),
            q_strides: strides(&q_layout),
            k_strides: k_layout.as_ref().map_or(NO_STRIDES, strides),
            table_position_stride: table_layout.as_ref().map_or(0, |l| check::stride(l, 0)),
            table_part_stride: table_layout.as_ref().map_or(0, |l| check::stride(l, 1)),
            tokens: check::count("q", "tokens", tokens, MAX_COUNT)?.into(),
            q_heads: check::count("q", "heads", q_heads, MAX_COUNT)?,
            k_heads: check::count("k", "heads", k_heads, MAX_COUNT)?,
            rotary_pairs: rotary_pairs as i32,
            interleaved: i32::from(op.style == RopeStyle::Interleaved),
            turns: match op.frequencies {
                Frequencies::Base { base, scale } => turns(base, scale, rotary_pairs),
                Frequencies::Table => [0; MAX_PAIRS],
            },
        };
        if tokens == 0 || q_heads + k_heads == 0 {
            return Ok(());
        }
        let (kind, geometry) = geometry::geometry(&block, size_of::<T>());
        launcher.submit(
            Variant::Rope {
                dtype: T::DTYPE,
                kind,
            },
            geometry,
            &block,
            [Some(q), k, Some(positions), table],
        )
    }
}

/// Everything that can be known without an address; returns `rotary_dim / 2`.
fn check<T: Float>(op: &Rope, args: &RopeArgs<'_, T>) -> Result<usize, Error> {
    let [tokens, _, head_dim] = args.q.shape();
    check::last_contiguous("q", args.q.layout())?;
    if let Some(k) = &args.k {
        check::extent("k", "tokens", k.shape()[0], tokens)?;
        check::extent("k", "head_dim", k.shape()[2], head_dim)?;
        check::last_contiguous("k", k.layout())?;
    }
    check::extent("positions", "tokens", args.positions.len(), tokens)?;
    let rotary_dim = op.rotary_dim.unwrap_or(head_dim);
    let limit = 2 * MAX_PAIRS;
    if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim.min(limit) {
        return Err(Unsupported::RotaryDim {
            rotary_dim,
            head_dim,
            limit,
        }
        .into());
    }
    match (op.frequencies, &args.table) {
        (Frequencies::Base { base, scale }, None) => {
            check::option("base", base, "must be finite and positive", |base| {
                base > 0.0
            })?;
            check::option("scale", scale, "must be finite", |_| true)?;
        }
        (Frequencies::Table, Some(table)) => {
            let [positions, parts, pairs] = table.shape();
            check::extent("table", "parts", parts, 2)?;
            check::extent("table", "pairs", pairs, rotary_dim / 2)?;
            check::last_contiguous("table", table.layout())?;
            args.positions.check_below(positions)?;
        }
        _ => return Err(Error::TableMismatch),
    }
    Ok(rotary_dim / 2)
}

const NO_STRIDES: fflash_strides3 = fflash_strides3 {
    tokens: 0,
    heads: 0,
};

fn strides(layout: &Layout<3>) -> fflash_strides3 {
    fflash_strides3 {
        tokens: check::stride(layout, 0),
        heads: check::stride(layout, 1),
    }
}
