//! Gradients of RMSNorm.

use cudarc::driver::CudaStream;

use super::forward::{bind, code, same_rows};
use super::geometry::{self, Access, BackwardKernel};
use super::{RmsNorm, WeightForm};
use crate::check::{self, MAX_COUNT};
use crate::dtype::DType;
use crate::error::{Error, Unsupported};
use crate::kernels::Kernels;
use crate::launch::params::fflash_norm_backward_params;
use crate::launch::{Bound, Geometry, Launcher, optional, optional_mut};
use crate::operand::{InOut, Operand, OperandMut};
use crate::tensor::TensorViewMut;
use crate::variant::Variant;

/// Rows of which one sum is made first.
const ROWS: usize = 16;
/// The most such sums.
const MAX_SUMS: usize = 512;

/// Operands of [`Kernels::rms_norm_backward`]. Rows may be strided; the elements of a row are contiguous.
pub struct NormBackwardArgs<'a> {
    /// What was normalised, `[rows, width]`: the sum with the residual, where there was one.
    pub x: &'a dyn Operand<2>,
    /// `[width]`, where there was one.
    pub weight: Option<&'a dyn Operand<1>>,
    /// From the gradient of the output `[rows, width]` to that of `x`.
    pub gradient: InOut<'a, 2>,
    /// `[rows, width]`: what else is added to the gradient of `x`, as by later uses of the residual stream.
    pub residual_gradient: Option<&'a dyn Operand<2>>,
    /// Where the weight's gradient `[width]` goes, if it is wanted.
    pub weight_gradient: Option<&'a mut (dyn OperandMut<1> + 'a)>,
    /// Memory for partial sums, [`backward_workspace`] elements; not used without `weight_gradient`.
    pub workspace: Option<TensorViewMut<'a, f32, 1>>,
}

/// Elements of the workspace of [`Kernels::rms_norm_backward`] for the weight's gradient.
pub fn backward_workspace(rows: usize, width: usize) -> usize {
    sums(rows).saturating_mul(width)
}

/// How many partial sums are made.
fn sums(rows: usize) -> usize {
    rows.div_ceil(ROWS).min(MAX_SUMS)
}

impl Kernels {
    /// The gradients of [`Kernels::rms_norm`], and with a `residual_gradient` of [`Kernels::add_rms_norm`]: with `r = 1 /
    /// sqrt(mean(x²) + eps)`, `n = x r` and `g = dy w`
    ///
    /// `dx = (g - n mean(g n)) r + dh`, which is also the residual's, and `dw = Σ dy n` over the rows.
    ///
    /// The arithmetic is f32, rounded once at the end, in an order that depends on shapes only. Inputs up to the largest finite
    /// value of their type do not overflow where the result does not.
    ///
    /// # Errors
    /// A typed [`Error`] for shapes, strides, element types, options or contexts that do not fit; nothing is launched
    /// then.
    pub fn rms_norm_backward(
        &self,
        stream: &CudaStream,
        op: &RmsNorm,
        mut args: NormBackwardArgs<'_>,
    ) -> Result<(), Error> {
        let launcher = Launcher::new(self, stream)?;
        check_args(op, &args)?;
        let [rows, width] = args.x.layout().shape();
        let row_stride = |layout| check::stride(layout, 0);
        let [dy_layout, dx_layout] = args.gradient.layouts();
        let dh_layout = args.residual_gradient.map(|dh| *dh.layout());
        let [dy_dtype, dx_dtype] = args.gradient.dtypes();
        let dw_dtype = args.weight_gradient.as_ref().map(|dw| dw.dtype());
        let x = args.x.read(launcher, "x")?;
        let weight = match args.weight {
            Some(weight) => Some(weight.read(launcher, "weight")?),
            None => None,
        };
        let dh = match args.residual_gradient {
            Some(dh) => Some(dh.read(launcher, "residual_gradient")?),
            None => None,
        };
        let (dy, dx) = bind(launcher, args.gradient, ["gradient", "gradient_out"])?;
        let dw = match &mut args.weight_gradient {
            Some(dw) => Some(dw.write(launcher, "weight_gradient")?),
            None => None,
        };
        let partials = match &mut args.workspace {
            Some(workspace) if dw.is_some() => Some(launcher.write("workspace", workspace)?),
            _ => None,
        };
        let block = fflash_norm_backward_params {
            x: x.as_ptr(),
            dy: dy.as_ref().unwrap_or(&dx).as_ptr(),
            dh: optional(dh.as_ref()),
            weight: optional(weight.as_ref()),
            dx: dx.as_mut_ptr(),
            partials: optional_mut(partials.as_ref()),
            dw: optional_mut(dw.as_ref()),
            x_row_stride: row_stride(args.x.layout()),
            dy_row_stride: row_stride(&dy_layout),
            dh_row_stride: dh_layout.as_ref().map_or(0, row_stride),
            dx_row_stride: row_stride(&dx_layout),
            rows: check::count("x", "rows", rows, MAX_COUNT)?.into(),
            count: sums(rows) as i32,
            width: check::count("x", "width", width, MAX_COUNT)?,
            one_plus: (op.weight == WeightForm::OnePlus).into(),
            x_dtype: code(args.x.dtype()),
            dy_dtype: code(dy_dtype),
            dh_dtype: args.residual_gradient.map_or(0, |dh| code(dh.dtype())),
            weight_dtype: args.weight.map_or(0, |weight| code(weight.dtype())),
            dx_dtype: code(dx_dtype),
            dw_dtype: dw_dtype.map_or(0, code),
            eps: op.eps,
        };
        if width == 0 || (rows == 0 && dw.is_none()) {
            return Ok(());
        }
        let access = |dtype, bound: &Bound<'_>, stride| Access {
            dtype,
            address: bound.as_ptr::<u8>() as u64,
            strides: [stride, 0],
        };
        let mut accesses = vec![
            access(args.x.dtype(), &x, block.x_row_stride),
            access(dy_dtype, dy.as_ref().unwrap_or(&dx), block.dy_row_stride),
            access(dx_dtype, &dx, block.dx_row_stride),
        ];
        accesses.extend(
            (args.weight.zip(weight.as_ref())).map(|(view, at)| access(view.dtype(), at, 0)),
        );
        accesses.extend(
            (args.residual_gradient.zip(dh.as_ref()))
                .map(|(view, at)| access(view.dtype(), at, block.dh_row_stride)),
        );
        // Partial sums are accessed in chunks too.
        accesses.extend(partials.as_ref().map(|at| Access {
            dtype: args.x.dtype(),
            address: at.as_ptr::<u8>() as u64,
            strides: [0, 0],
        }));
        let operands = (x, weight, dh, dy, dx);
        if rows > 0 {
            let (kernel, geometry) = geometry::plan_backward(&block, &accesses);
            launcher.submit_all(Variant::NormBackward(kernel), geometry, &block, operands)?;
        }
        if dw.is_some() {
            let kernel = BackwardKernel::Weight;
            let geometry = Geometry {
                grid: [(width as u64).div_ceil(32) as u32, 1, 1],
                block: [32, 16, 1],
                shared_bytes: 0,
            };
            launcher.submit_all(
                Variant::NormBackward(kernel),
                geometry,
                &block,
                (partials, dw),
            )?;
        }
        Ok(())
    }
}

fn check_args(op: &RmsNorm, args: &NormBackwardArgs<'_>) -> Result<(), Error> {
    let shape = args.x.layout().shape();
    let requirement = "must be finite and not negative";
    check::option("eps", op.eps.into(), requirement, |eps| eps >= 0.0)?;
    let [dy, dx] = args.gradient.dtypes();
    let dtypes = [
        Some(args.x.dtype()),
        Some(dy),
        Some(dx),
        args.weight.map(|weight| weight.dtype()),
        args.residual_gradient.map(|dh| dh.dtype()),
        args.weight_gradient.as_ref().map(|dw| dw.dtype()),
    ];
    let mut dtypes = dtypes.into_iter().flatten();
    if let Some(dtype) = dtypes.find(|dtype| !DType::FLOATS.contains(dtype)) {
        let op = "rms_norm_backward";
        return Err(Unsupported::DType { op, dtype }.into());
    }
    same_rows("x", args.x.layout(), shape)?;
    let [dy, dx] = args.gradient.layouts();
    same_rows("gradient", &dy, shape)?;
    same_rows("gradient_out", &dx, shape)?;
    if let Some(dh) = args.residual_gradient {
        same_rows("residual_gradient", dh.layout(), shape)?;
    }
    if let Some(weight) = args.weight {
        check::extent("weight", "width", weight.layout().shape()[0], shape[1])?;
        check::last_contiguous("weight", weight.layout())?;
    }
    if let Some(dw) = &args.weight_gradient {
        check::extent("weight_gradient", "width", dw.layout().shape()[0], shape[1])?;
        check::last_contiguous("weight_gradient", dw.layout())?;
        let needed = backward_workspace(shape[0], shape[1]);
        match &args.workspace {
            Some(workspace) => {
                check::last_contiguous("workspace", workspace.layout())?;
                let found = workspace.shape()[0];
                if found < needed {
                    return Err(Error::TooSmall {
                        operand: "workspace",
                        found,
                        needed,
                    });
                }
            }
            None if needed == 0 => {}
            None => {
                return Err(Error::OperandMismatch {
                    operand: "workspace",
                    requirement: "must be given with weight_gradient",
                });
            }
        }
    }
    Ok(())
}

impl std::fmt::Debug for NormBackwardArgs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NormBackwardArgs")
            .field("x", &self.x)
            .field("gradient", &self.gradient)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sum_has_a_row() {
        assert_eq!(sums(0), 0);
        for rows in (1..3000).chain([1 << 20]) {
            assert!((1..=rows.min(MAX_SUMS)).contains(&sums(rows)), "{rows}");
        }
        assert_eq!(backward_workspace(4096, 1000), 256_000);
    }
}
