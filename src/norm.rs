//! Root-mean-square normalisation (RMSNorm, [arXiv 1910.07467](https://arxiv.org/abs/1910.07467)).

mod geometry;

use cudarc::driver::CudaStream;

use crate::check::{self, MAX_COUNT};
use crate::dtype::Float;
use crate::error::Error;
use crate::kernels::Kernels;
use crate::launch::params::fflash_rms_norm_params;
use crate::launch::{Bound, Launcher};
use crate::tensor::{Layout, TensorView, TensorViewMut};
use crate::variant::Variant;

pub(crate) use geometry::MAX_SHARED_BYTES;

/// How the weight enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightForm {
    /// Multiplies by `w` (Llama and most others).
    #[default]
    Plain,
    /// Multiplies by `1 + w` (Gemma).
    OnePlus,
}

/// RMSNorm over the last dimension: `out = x / sqrt(mean(x²) + eps) * w`, in f32, rounded once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean square; non-negative and finite.
    pub eps: f32,
    /// How the weight enters.
    pub weight: WeightForm,
}

impl Kernels {
    /// Normalises every row of `x` `[rows, width]` into `out`, with `weight` `[width]`.
    ///
    /// Rows may be strided; within a row elements are contiguous. Any width from 1. The arithmetic
    /// is f32 with one rounding at the end; inputs up to the largest finite value of `T` do not
    /// overflow. NaN and infinity propagate as arithmetic has them.
    ///
    /// # Errors
    /// A typed [`Error`] for shapes, strides, options or contexts that do not fit; nothing is launched
    /// then.
    pub fn rms_norm<T: Float>(
        &self,
        stream: &CudaStream,
        op: &RmsNorm,
        x: TensorView<'_, T, 2>,
        weight: TensorView<'_, T, 1>,
        mut out: TensorViewMut<'_, T, 2>,
    ) -> Result<(), Error> {
        let launcher = Launcher::new(self, stream)?;
        let [rows, width] = x.shape();
        check::extent("out", "rows", out.shape()[0], rows)?;
        check::extent("out", "width", out.shape()[1], width)?;
        let (x_layout, out_layout) = (*x.layout(), *out.layout());
        let x = launcher.read("x", &x)?;
        let out = launcher.write("out", &mut out)?;
        run::<T>(
            launcher,
            op,
            (x_layout, Some(x)),
            &weight,
            (out_layout, out),
        )
    }

    /// Normalises every row of `x` `[rows, width]` in place, with `weight` `[width]`.
    ///
    /// # Errors
    /// As [`Kernels::rms_norm`].
    pub fn rms_norm_in_place<T: Float>(
        &self,
        stream: &CudaStream,
        op: &RmsNorm,
        mut x: TensorViewMut<'_, T, 2>,
        weight: TensorView<'_, T, 1>,
    ) -> Result<(), Error> {
        let launcher = Launcher::new(self, stream)?;
        let layout = *x.layout();
        let x = launcher.write("x", &mut x)?;
        run::<T>(launcher, op, (layout, None), &weight, (layout, x))
    }
}

/// Checks and launches; `x` is absent where `out` is its own input.
fn run<'a, T: Float>(
    launcher: Launcher<'a>,
    op: &RmsNorm,
    (x_layout, x): (Layout<2>, Option<Bound<'a>>),
    weight: &'a TensorView<'_, T, 1>,
    (out_layout, out): (Layout<2>, Bound<'a>),
) -> Result<(), Error> {
    let [rows, width] = out_layout.shape();
    check::extent("weight", "width", weight.shape()[0], width)?;
    check::last_contiguous("x", &x_layout)?;
    check::last_contiguous("weight", weight.layout())?;
    check::last_contiguous("out", &out_layout)?;
    check::option(
        "eps",
        op.eps.into(),
        "must be finite and not negative",
        |eps| eps >= 0.0,
    )?;
    let weight = launcher.read("weight", weight)?;
    let block = fflash_rms_norm_params {
        x: x.as_ref().map_or(out.as_ptr(), Bound::as_ptr),
        weight: weight.as_ptr(),
        out: out.as_mut_ptr(),
        x_row_stride: check::stride(&x_layout, 0),
        out_row_stride: check::stride(&out_layout, 0),
        rows: check::count("x", "rows", rows, MAX_COUNT)?.into(),
        width: check::count("x", "width", width, MAX_COUNT)?,
        eps: op.eps,
        weight_offset: match op.weight {
            WeightForm::Plain => 0.0,
            WeightForm::OnePlus => 1.0,
        },
    };
    if rows == 0 || width == 0 {
        return Ok(());
    }
    let (kind, geometry) = geometry::geometry(&block, size_of::<T>());
    launcher.submit(
        Variant::RmsNorm {
            dtype: T::DTYPE,
            kind,
        },
        geometry,
        &block,
        [x, Some(weight), Some(out)],
    )
}
