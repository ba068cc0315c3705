//! The forward operation with everything that goes with it: checks, then one launch.

use cudarc::driver::CudaStream;

use super::geometry::{self, Access};
use super::{Norm, NormDTypes, RmsNorm, Rounding, Scale, Statistics, WeightForm};
use crate::check::{self, MAX_COUNT};
use crate::dtype::{DType, Float};
use crate::error::{Error, Unsupported};
use crate::kernels::Kernels;
use crate::launch::params::{
    FFLASH_NORM_CENTRE, FFLASH_NORM_LLAMA, FFLASH_NORM_ONE_PLUS, FFLASH_NORM_POST,
    fflash_norm_params, fflash_norm_part, fflash_strides3,
};
use crate::launch::{Bound, Geometry, Launcher};
use crate::operand::{InOut, Operand};
use crate::tensor::{Layout, TensorView, TensorViewMut};
use crate::variant::Variant;

/// Operands of [`Kernels::norm`]. All rows may be strided; the elements of a row are contiguous.
#[derive(Debug)]
pub struct NormArgs<'a> {
    /// From `x` `[rows, width]` to the output of the same shape.
    pub rows: InOut<'a, 2>,
    /// `[width]`; without it nothing is multiplied.
    pub weight: Option<&'a dyn Operand<1>>,
    /// `[width]`.
    pub bias: Option<&'a dyn Operand<1>>,
    /// `[rows, width]`: the output is multiplied by `gate * sigmoid(gate)`.
    pub gate: Option<&'a dyn Operand<2>>,
    /// `[rows, width]`: from the residual stream before to that after, `h = round(x + residual)`, which is what is normalised.
    /// Both have one element type.
    pub residual: Option<InOut<'a, 2>>,
    /// Another RMSNorm of `x`, before it is added to the residual: `h = round(residual + round(norm(x) * w))`, as after the
    /// attention of Gemma 2 and 3, whose next block's norm is then this one. Only with a residual.
    pub post: Option<PostNorm<'a>>,
    /// Where dynamic scales go ([`Scale`]).
    pub scales: Option<TensorViewMut<'a, f32, 2>>,
}

impl<'a> NormArgs<'a> {
    /// Nothing but rows and a weight.
    pub fn new(rows: InOut<'a, 2>, weight: Option<&'a dyn Operand<1>>) -> Self {
        NormArgs {
            rows,
            weight,
            bias: None,
            gate: None,
            residual: None,
            post: None,
            scales: None,
        }
    }
}

/// The norm between a block's output and the residual stream: `eps`, rounding and the form of the weight are those of the [`Norm`],
/// the result is rounded to the type of `x`.
#[derive(Clone, Copy)]
pub struct PostNorm<'a> {
    /// `[width]`; without it nothing is multiplied.
    pub weight: Option<&'a dyn Operand<1>>,
}

impl Kernels {
    /// Normalises every row of `x` `[rows, width]` into `out`, with `weight` `[width]`.
    ///
    /// Rows may be strided; within a row elements are contiguous. Rows too long for a block are shared by several, which
    /// must all run at once: such launches are cooperative. The arithmetic is f32 with one rounding at the end; inputs up
    /// to the largest finite value of their type do not overflow. NaN and infinity propagate as arithmetic has them.
    ///
    /// # Errors
    /// A typed [`Error`] for shapes, strides, options or contexts that do not fit, [`Unsupported::RowTooLong`] for rows
    /// longer than what 32 blocks keep (more than a million columns on an A100); nothing is launched then.
    pub fn rms_norm<X: Float, W: Float, O: Float>(
        &self,
        stream: &CudaStream,
        op: &RmsNorm,
        x: TensorView<'_, X, 2>,
        weight: TensorView<'_, W, 1>,
        mut out: TensorViewMut<'_, O, 2>,
    ) -> Result<(), Error> {
        let rows = InOut::Apart {
            input: &x,
            output: &mut out,
        };
        self.norm(stream, &(*op).into(), NormArgs::new(rows, Some(&weight)))
    }

    /// Normalises every row of `x` `[rows, width]` in place, with `weight` `[width]`.
    ///
    /// # Errors
    /// As [`Kernels::rms_norm`].
    pub fn rms_norm_in_place<X: Float, W: Float>(
        &self,
        stream: &CudaStream,
        op: &RmsNorm,
        mut x: TensorViewMut<'_, X, 2>,
        weight: TensorView<'_, W, 1>,
    ) -> Result<(), Error> {
        let rows = InOut::InPlace(&mut x);
        self.norm(stream, &(*op).into(), NormArgs::new(rows, Some(&weight)))
    }

    /// Adds `x` `[rows, width]` to the residual stream, `residual = round(residual + x)`, and normalises the sum as it was
    /// rounded into `out`, in one pass.
    ///
    /// # Errors
    /// As [`Kernels::rms_norm`].
    pub fn add_rms_norm<X: Float, R: Float, W: Float, O: Float>(
        &self,
        stream: &CudaStream,
        op: &RmsNorm,
        x: TensorView<'_, X, 2>,
        mut residual: TensorViewMut<'_, R, 2>,
        weight: TensorView<'_, W, 1>,
        mut out: TensorViewMut<'_, O, 2>,
    ) -> Result<(), Error> {
        let rows = InOut::Apart {
            input: &x,
            output: &mut out,
        };
        let args = NormArgs {
            residual: Some(InOut::InPlace(&mut residual)),
            ..NormArgs::new(rows, Some(&weight))
        };
        self.norm(stream, &(*op).into(), args)
    }

    /// Normalises rows in one pass with everything that `args` has: weight, bias, gate, residual, a norm before the residual,
    /// quantisation. Each operand has its own element type; [`Norm::supports`] tells which there are.
    ///
    /// # Errors
    /// A typed [`Error`] for shapes, strides, element types, options or contexts that do not fit, as [`Kernels::rms_norm`];
    /// nothing is launched then.
    pub fn norm(&self, stream: &CudaStream, op: &Norm, args: NormArgs<'_>) -> Result<(), Error> {
        let launcher = Launcher::new(self, stream)?;
        check_options(op, &args)?;
        let mut scales_view = args.scales;
        let [x, out] = args.rows.layouts();
        let [rows, width] = x.shape();
        let mut form = Form::new(op, width)?;
        let [x_dtype, out_dtype] = args.rows.dtypes();
        let scales = scales_shape(op, [rows, width])?;
        same_rows("out", &out, [rows, width])?;
        let (x, out) = (planes(&x), planes(&out));
        let first = form.part(
            launcher,
            [x, out],
            [x_dtype, out_dtype],
            ["x", "out"],
            bind(launcher, args.rows, ["x", "out"])?,
            args.weight,
            "weight",
        )?;
        form.block.parts[0] = first;
        if let Some(residual) = args.residual {
            let [before, after] = residual.layouts();
            let [dtype, _] = residual.dtypes();
            same_rows("residual", &before, [rows, width])?;
            same_rows("residual_out", &after, [rows, width])?;
            let (from, to) = bind(launcher, residual, ["residual", "residual_out"])?;
            let block = &mut form.block;
            block.residual = from.as_ref().unwrap_or(&to).as_ptr();
            block.residual_out = to.as_mut_ptr();
            block.residual_row_stride = check::stride(&before, 0);
            block.residual_out_row_stride = check::stride(&after, 0);
            block.residual_dtype = code(dtype);
            form.access(
                dtype,
                from.as_ref().unwrap_or(&to),
                [form.block.residual_row_stride, 0],
            );
            form.access(dtype, &to, [form.block.residual_out_row_stride, 0]);
            form.operands.extend(from.into_iter().chain([to]));
        }
        if let Some(gate) = args.gate {
            same_rows("gate", gate.layout(), [rows, width])?;
            let bound = gate.read(launcher, "gate")?;
            form.block.gate = bound.as_ptr();
            form.block.gate_row_stride = check::stride(gate.layout(), 0);
            form.block.gate_dtype = code(gate.dtype());
            form.access(gate.dtype(), &bound, [form.block.gate_row_stride, 0]);
            form.operands.push(bound);
        }
        if let Some(post) = args.post {
            form.block.flags |= FFLASH_NORM_POST as i32;
            let (address, dtype) = form.vector(launcher, "post weight", post.weight, width)?;
            (form.block.post_weight, form.block.post_weight_dtype) = (address, dtype);
        }
        (form.block.bias, form.block.bias_dtype) =
            form.vector(launcher, "bias", args.bias, width)?;
        if let (Some(view), Some(shape)) = (&mut scales_view, scales) {
            check::extent("scales", "rows", view.shape()[0], shape[0])?;
            check::extent("scales", "groups", view.shape()[1], shape[1])?;
            form.block.scales_row_stride = check::stride(view.layout(), 0);
            form.block.scales_group_stride = check::stride(view.layout(), 1);
            let bound = launcher.write("scales", view)?;
            form.block.scales = bound.as_mut_ptr();
            form.operands.push(bound);
        }
        form.launch(launcher)
    }
}

/// A parameter block that grows, with what it holds addresses of.
pub(super) struct Form<'a> {
    pub(super) block: fflash_norm_params,
    accesses: Vec<Access>,
    operands: Vec<Bound<'a>>,
}

impl<'a> Form<'a> {
    /// The options, checked, and no operands.
    pub(super) fn new(op: &Norm, width: usize) -> Result<Self, Error> {
        check::option(
            "eps",
            op.eps.into(),
            "must be finite and not negative",
            |eps| eps >= 0.0,
        )?;
        let columns = op.columns.unwrap_or(width);
        if op.columns.is_some() && !(1..=width.max(1)).contains(&columns) {
            return Err(Error::InvalidOption {
                name: "columns",
                value: columns as f64,
                requirement: "must be from 1 to the width",
            });
        }
        let flag = |set: bool, flag: u32| if set { flag as i32 } else { 0 };
        let width = check::count("x", "width", width, MAX_COUNT)?;
        let (group, inverse_scale) = match op.scale {
            None => (0, 1.0),
            Some(Scale::Static(scale)) => (0, inverse(scale)?),
            Some(Scale::PerRow) => (width, 1.0),
            Some(Scale::PerGroup(size)) => (size as i32, 1.0),
        };
        let none = fflash_norm_part {
            x: std::ptr::null(),
            weight: std::ptr::null(),
            out: std::ptr::null_mut(),
            x_strides: fflash_strides3 {
                tokens: 0,
                heads: 0,
            },
            out_strides: fflash_strides3 {
                tokens: 0,
                heads: 0,
            },
            rows: 0,
            heads: 1,
        };
        let block = fflash_norm_params {
            parts: [none; 2],
            residual: std::ptr::null(),
            residual_out: std::ptr::null_mut(),
            post_weight: std::ptr::null(),
            bias: std::ptr::null(),
            gate: std::ptr::null(),
            scales: std::ptr::null_mut(),
            residual_row_stride: 0,
            residual_out_row_stride: 0,
            gate_row_stride: 0,
            scales_row_stride: 0,
            scales_group_stride: 0,
            first_block: 0,
            width,
            stat_width: columns as i32,
            group,
            flags: flag(op.statistics == Statistics::Deviation, FFLASH_NORM_CENTRE)
                | flag(op.weight == WeightForm::OnePlus, FFLASH_NORM_ONE_PLUS)
                | flag(op.rounding == Rounding::Llama, FFLASH_NORM_LLAMA),
            x_dtype: 0,
            residual_dtype: 0,
            weight_dtype: 0,
            post_weight_dtype: 0,
            bias_dtype: 0,
            gate_dtype: 0,
            out_dtype: 0,
            eps: op.eps,
            inverse_scale,
            exchange: std::ptr::null_mut(),
            block_offset: 0,
            split_width: width,
        };
        Ok(Form {
            block,
            accesses: Vec::new(),
            operands: Vec::new(),
        })
    }

    /// One tensor of rows: x and out as `[tokens, heads, width]`, their names and types, and what they are bound to.
    #[expect(clippy::too_many_arguments, reason = "pairs of x and out")]
    pub(super) fn part(
        &mut self,
        launcher: Launcher<'a>,
        layouts: [Layout<3>; 2],
        dtypes: [DType; 2],
        names: [&'static str; 2],
        (x, out): (Option<Bound<'a>>, Bound<'a>),
        weight: Option<&'a dyn Operand<1>>,
        weight_name: &'static str,
    ) -> Result<fflash_norm_part, Error> {
        let [tokens, heads, width] = layouts[0].shape();
        check::last_contiguous(names[0], &layouts[0])?;
        check::last_contiguous(names[1], &layouts[1])?;
        let strides = layouts.map(|layout| fflash_strides3 {
            tokens: check::stride(&layout, 0),
            heads: check::stride(&layout, 1),
        });
        let rows = tokens.saturating_mul(heads);
        let (weight, weight_dtype) = self.vector(launcher, weight_name, weight, width)?;
        let part = fflash_norm_part {
            x: x.as_ref().unwrap_or(&out).as_ptr(),
            weight,
            out: out.as_mut_ptr(),
            x_strides: strides[0],
            out_strides: strides[1],
            rows: check::count(names[0], "rows", rows, MAX_COUNT)?.into(),
            heads: check::count(names[0], "heads", heads, MAX_COUNT)?,
        };
        self.block.weight_dtype = weight_dtype;
        self.block.x_dtype = code(dtypes[0]);
        self.block.out_dtype = code(dtypes[1]);
        for (dtype, bound, strides) in [
            (dtypes[0], x.as_ref().unwrap_or(&out), strides[0]),
            (dtypes[1], &out, strides[1]),
        ] {
            self.access(dtype, bound, [strides.tokens, strides.heads]);
        }
        self.operands.extend(x.into_iter().chain([out]));
        Ok(part)
    }

    /// Address and type of an operand `[width]`.
    fn vector(
        &mut self,
        launcher: Launcher<'a>,
        name: &'static str,
        vector: Option<&'a dyn Operand<1>>,
        width: usize,
    ) -> Result<(*const std::ffi::c_void, i32), Error> {
        let Some(vector) = vector else {
            return Ok((std::ptr::null(), 0));
        };
        check::extent(name, "width", vector.layout().shape()[0], width)?;
        check::last_contiguous(name, vector.layout())?;
        let bound = vector.read(launcher, name)?;
        let address = bound.as_ptr();
        self.access(vector.dtype(), &bound, [0, 0]);
        self.operands.push(bound);
        Ok((address, code(vector.dtype())))
    }

    fn access(&mut self, dtype: DType, bound: &Bound<'_>, strides: [i64; 2]) {
        self.accesses.push(Access {
            dtype,
            address: bound.as_ptr::<u8>() as u64,
            strides,
        });
    }

    pub(super) fn launch(mut self, launcher: Launcher<'a>) -> Result<(), Error> {
        if self.block.width == 0 || self.block.parts.iter().all(|part| part.rows == 0) {
            return Ok(());
        }
        let limits = launcher.limits();
        let (kernel, geometry) = geometry::plan(&mut self.block, &self.accesses, limits)?;
        let variant = Variant::Norm(kernel);
        let [at_once, sharing, _] = geometry.grid;
        if sharing == 1 {
            return launcher.submit_all(variant, geometry, &self.block, self.operands);
        }
        let rows = self.block.parts.iter().map(|part| part.rows as u32).sum();
        for first in (0..rows).step_by(at_once as usize) {
            let rows = at_once.min(rows - first);
            let [arrivals, partials] = [rows, 4 * rows * sharing].map(|words| words as usize);
            let exchange = launcher.scratch::<u32>(arrivals, partials)?;
            self.block.exchange = exchange.as_mut_ptr();
            self.block.block_offset = first;
            let geometry = Geometry {
                grid: [rows, sharing, 1],
                ..geometry
            };
            launcher.submit_at_once(variant, geometry, &self.block, (&self.operands, exchange))?;
        }
        Ok(())
    }
}

/// What an element type is called in parameter blocks.
pub(super) fn code(dtype: DType) -> i32 {
    use crate::launch::params;
    let code = match dtype {
        DType::F16 => params::FFLASH_DTYPE_F16,
        DType::BF16 => params::FFLASH_DTYPE_BF16,
        DType::F32 => params::FFLASH_DTYPE_F32,
        DType::F8E4M3 => params::FFLASH_DTYPE_E4M3,
        DType::F8E5M2 => params::FFLASH_DTYPE_E5M2,
        DType::I8 => params::FFLASH_DTYPE_I8,
    };
    code as i32
}

/// Input, where it is apart, and output.
pub(super) fn bind<'a, 'b: 'a, const R: usize>(
    launcher: Launcher<'a>,
    tensors: InOut<'b, R>,
    [input_name, output_name]: [&'static str; 2],
) -> Result<(Option<Bound<'a>>, Bound<'a>), Error> {
    match tensors {
        InOut::InPlace(tensor) => Ok((None, tensor.write(launcher, input_name)?)),
        InOut::Apart { input, output } => Ok((
            Some(input.read(launcher, input_name)?),
            output.write(launcher, output_name)?,
        )),
    }
}

/// Rows as `[rows, 1, width]`.
fn planes(layout: &Layout<2>) -> Layout<3> {
    let ([rows, width], [row, last]) = (layout.shape(), layout.strides());
    Layout::strided([rows, 1, width], [row, 0, last], 0)
}

pub(super) fn same_rows(
    name: &'static str,
    layout: &Layout<2>,
    [rows, width]: [usize; 2],
) -> Result<(), Error> {
    check::extent(name, "rows", layout.shape()[0], rows)?;
    check::extent(name, "width", layout.shape()[1], width)?;
    check::last_contiguous(name, layout)
}

/// 1 / scale in f32.
fn inverse(scale: f32) -> Result<f32, Error> {
    let inverse = 1.0 / scale;
    let requirement = "must be positive and finite, and so must be its inverse";
    check::option("scale", scale.into(), requirement, |scale| {
        scale > 0.0 && inverse.is_finite()
    })?;
    Ok(inverse)
}

/// Types and combinations, and that operands are there exactly when they are needed.
fn check_options(op: &Norm, args: &NormArgs<'_>) -> Result<(), Error> {
    let dtype = |vector: Option<&dyn Operand<1>>| vector.map(|vector| vector.dtype());
    let [x, out] = args.rows.dtypes();
    let residual = args.residual.as_ref().map(InOut::dtypes);
    op.supports(&NormDTypes {
        x,
        weight: dtype(args.weight),
        bias: dtype(args.bias),
        gate: args.gate.map(|gate| gate.dtype()),
        residual: residual.map(|[before, _]| before),
        post_weight: dtype(args.post.and_then(|post| post.weight)),
        out,
    })?;
    if let Some([before, after]) = residual
        && before != after
    {
        return Err(Error::DTypeMismatch {
            operand: "residual_out",
            expected: before,
            found: after,
        });
    }
    if args.post.is_some() && op.statistics == Statistics::Deviation {
        return Err(Error::Unsupported(Unsupported::Combination {
            op: "norm",
            first: "Statistics::Deviation",
            second: "a post-norm",
        }));
    }
    let needed = |operand, requirement| {
        Err(Error::OperandMismatch {
            operand,
            requirement,
        })
    };
    if args.post.is_some() && args.residual.is_none() {
        return needed("residual", "must be given with a post-norm");
    }
    let is_dynamic = matches!(op.scale, Some(Scale::PerRow | Scale::PerGroup(_)));
    if is_dynamic != args.scales.is_some() {
        return needed("scales", "must be given exactly with a dynamic scale");
    }
    Ok(())
}

/// The shape of dynamic scales.
fn scales_shape(op: &Norm, [rows, width]: [usize; 2]) -> Result<Option<[usize; 2]>, Error> {
    match op.scale {
        None | Some(Scale::Static(_)) => Ok(None),
        Some(Scale::PerRow) => Ok(Some([rows, 1])),
        Some(Scale::PerGroup(size)) if width.is_multiple_of(size) => Ok(Some([rows, width / size])),
        Some(Scale::PerGroup(size)) => Err(Error::InvalidOption {
            name: "group size",
            value: size as f64,
            requirement: "must divide the width",
        }),
    }
}

impl std::fmt::Debug for PostNorm<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostNorm")
            .field("has_weight", &self.weight.is_some())
            .finish()
    }
}

impl std::fmt::Debug for dyn Operand<1> + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.dtype(), self.layout())
    }
}

impl std::fmt::Debug for dyn Operand<2> + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.dtype(), self.layout())
    }
}
