//! The RMSNorm family at the width of a language model.

use ferroflash::{Element, Float, InOut, Norm, NormArgs, PostNorm, QkNormArgs, Scale, Statistics};
use float8::F8E4M3;
use half::{bf16, f16};

use super::{Bars, Case, Device, Needed, Result, view, view_mut};

const WIDTH: usize = 4096;

/// The kernels are straight code with several variants of a row, of which one runs: what it executes is counted, and held to
/// what was reached (in instructions of PTX for 16 bytes; ptxas makes about half as many of them).
fn executing(instructions: f64) -> Bars {
    Bars {
        executed_per_16_bytes: Some(instructions),
        ..BARS
    }
}

/// The same of kernels without options, of which the full block that a case runs is the straightest way: `way` instructions of
/// machine code for 16 bytes.
fn straight(way: f64, executed: f64) -> Bars {
    Bars {
        straightest_way: Some(way),
        ..executing(executed)
    }
}

const BARS: Bars = Bars {
    traffic: 1.01,
    load_bytes_in_flight: Some(32 * 1024),
    ..Bars::NONE
};

/// What a form takes beside rows and a weight.
#[derive(Debug, Clone, Copy, Default)]
struct Form {
    name: &'static str,
    op: Norm,
    bias: bool,
    gate: bool,
    residual: bool,
    post: bool,
}

pub fn cases(device: &Device, cases: &mut Vec<Case<'static>>) -> Result<()> {
    let rms = Form {
        name: "rms_norm",
        op: Norm {
            eps: 1e-6,
            ..Norm::default()
        },
        ..Form::default()
    };
    let add = Form {
        name: "add_rms_norm",
        residual: true,
        ..rms
    };
    for (form, [of_f16, of_bf16, of_f32]) in [(rms, [25.5, 28.5, 13.5]), (add, [22.5, 26.0, 9.0])] {
        cases.push(case::<f16, f16>(device, form, straight(20.0, of_f16))?);
        cases.push(case::<bf16, bf16>(device, form, straight(20.0, of_bf16))?);
        cases.push(case::<f32, f32>(device, form, straight(20.0, of_f32))?);
    }
    let gated = Form {
        name: "gated norm",
        gate: true,
        ..rms
    };
    let sandwich = Form {
        name: "norm of post-norm, add, pre-norm",
        post: true,
        ..add
    };
    let layer = Form {
        name: "layer norm",
        op: Norm {
            statistics: Statistics::Deviation,
            ..rms.op
        },
        bias: true,
        ..rms
    };
    // Beyond 20 instructions of machine code by their arithmetic. For an element of 16 bits, a norm with a weight takes 5.5
    // instructions (two conversions, square, two products, half a pack) for 3 accesses; a gate adds a conversion and 6 of the
    // sigmoid for one more access; a mean adds 3, and a bias 1 for one more. A sandwich of two norms takes 14.5 for 6
    // accesses: 20.3 instructions with the accesses themselves.
    for (form, of_bf16, of_f32) in [
        (gated, straight(32.0, 42.0), straight(18.0, 21.5)),
        (sandwich, straight(20.6, 42.5), straight(11.5, 18.5)),
        (layer, executing(39.4), executing(19.4)),
    ] {
        cases.push(case::<bf16, bf16>(device, form, of_bf16)?);
        cases.push(case::<f32, f32>(device, form, of_f32)?);
    }
    let quantised = |name, scale| Form {
        name,
        op: Norm {
            scale: Some(scale),
            ..add.op
        },
        ..add
    };
    // To round to FP8 in f32 takes 11 instructions for an element on sm_80, which has no conversion to it, and what is stored is
    // one byte. The largest magnitude takes one more. The bytes of two lanes are joined by two shuffles. (The straightest way is
    // that of a static scale, to i8.)
    let row = quantised("quantised add_rms_norm, by row", Scale::PerRow);
    cases.push(case::<bf16, F8E4M3>(device, row, straight(23.5, 61.5))?);
    cases.push(case::<bf16, i8>(device, row, straight(23.5, 42.0))?);
    let group = quantised("quantised add_rms_norm, by group", Scale::PerGroup(128));
    cases.push(case::<bf16, F8E4M3>(device, group, straight(23.5, 68.0))?);
    // Of several blocks each, of which the machine code has every option.
    let long = [device.scale.pick(2, 256), 262_144];
    cases.push(case_of::<bf16, bf16>(device, rms, long, executing(87.5))?);
    cases.push(case_of::<f32, f32>(device, rms, long, executing(57.5))?);
    cases.push(qk_norm(device)?);
    Ok(())
}

fn case<T: Float, O: Element>(device: &Device, form: Form, bars: Bars) -> Result<Case<'static>> {
    let rows = device.scale.pick(64, 16_384);
    case_of::<T, O>(device, form, [rows, WIDTH], bars)
}

fn case_of<T: Float, O: Element>(
    device: &Device,
    form: Form,
    shape: [usize; 2],
    bars: Bars,
) -> Result<Case<'static>> {
    let [rows, width] = shape;
    let elements = rows * width;
    let x = device.data::<T>(elements, 1.0)?;
    let gate = device.data::<T>(elements, 1.0)?;
    let mut residual = device.data::<T>(elements, 1.0)?;
    let weight = device.data::<T>(width, 1.0)?;
    let mut out = device.data::<O>(elements, 1.0)?;
    let groups = match form.op.scale {
        Some(Scale::PerRow) => 1,
        Some(Scale::PerGroup(size)) => width / size,
        _ => 0,
    };
    let mut scales = device.data::<f32>((rows * groups).max(1), 1.0)?;
    let extra = |given: bool| usize::from(given);
    let read = 1 + extra(form.gate) + extra(form.residual);
    let vectors = 1 + extra(form.bias) + extra(form.post);
    // Every row reads the weights again, from L2: of a GPU's memory they ask nothing. A scale fills a sector, or two
    // groups' share one.
    let vectors = device.scale.pick(vectors, 0);
    let bytes = elements * (read + vectors + extra(form.residual)) * size_of::<T>()
        + elements * size_of::<O>()
        + rows * 32 * groups.div_ceil(2);
    Ok(Case {
        name: format!("{} {} to {} width {width}", form.name, T::DTYPE, O::DTYPE),
        needed: Needed { bytes, flops: 0 },
        bars,
        launch: Box::new(move |device| {
            let (x, gate) = (view(&x, shape)?, view(&gate, shape)?);
            let weight = view(&weight, [width])?;
            let mut residual = view_mut(&mut residual, shape)?;
            let mut out = view_mut(&mut out, shape)?;
            let input = InOut::Apart {
                input: &x,
                output: &mut out,
            };
            let scales = view_mut(&mut scales, [rows, groups])?;
            let args = NormArgs {
                bias: form.bias.then_some(&weight as _),
                gate: form.gate.then_some(&gate as _),
                residual: match form.residual {
                    true => Some(InOut::InPlace(&mut residual)),
                    false => None,
                },
                post: form.post.then_some(PostNorm {
                    weight: Some(&weight),
                }),
                scales: (groups > 0).then_some(scales),
                ..NormArgs::new(input, Some(&weight))
            };
            Ok(device.kernels.norm(&device.stream, &form.op, args)?)
        }),
    })
}

fn qk_norm(device: &Device) -> Result<Case<'static>> {
    let tokens = device.scale.pick(64, 32_768);
    let (q_heads, k_heads, head_dim) = (16, 4, 128);
    let (q_shape, k_shape) = ([tokens, q_heads, head_dim], [tokens, k_heads, head_dim]);
    let elements = tokens * (q_heads + k_heads) * head_dim;
    let mut q = device.data::<bf16>(tokens * q_heads * head_dim, 1.0)?;
    let mut k = device.data::<bf16>(tokens * k_heads * head_dim, 1.0)?;
    let weight = device.data::<bf16>(head_dim, 1.0)?;
    let op = Norm {
        eps: 1e-6,
        ..Norm::default()
    };
    Ok(Case {
        name: "qk norm bf16 head_dim 128".to_owned(),
        needed: Needed {
            // A sector of the weight serves the 16 heads of a warp, and comes from L2.
            bytes: (2 * elements + device.scale.pick(elements / 16, 0)) * size_of::<bf16>(),
            flops: 0,
        },
        bars: executing(40.0),
        launch: Box::new(move |device| {
            let weight = view(&weight, [head_dim])?;
            let args = QkNormArgs {
                q: InOut::InPlace(&mut view_mut(&mut q, q_shape)?),
                k: InOut::InPlace(&mut view_mut(&mut k, k_shape)?),
                q_weight: Some(&weight),
                k_weight: Some(&weight),
            };
            Ok(device.kernels.qk_norm(&device.stream, &op, args)?)
        }),
    })
}
