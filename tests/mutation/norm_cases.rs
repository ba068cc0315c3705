//! The cases of the RMSNorm family.

use ferroflash::norm::backward_workspace;
use ferroflash::{
    Element, Float, InOut, Norm, NormArgs, NormBackwardArgs, Operand, PostNorm, QkNormArgs,
    Quantized, RmsNorm, Rounding, Scale, Statistics, WeightForm,
};
use float8::{F8E4M3, F8E5M2};
use half::{bf16, f16};

use super::{Device, Part, Result, Tensor};

/// All of it.
pub const PARTS: &[Part] = &[
    plain::<f16>,
    plain::<bf16>,
    plain::<f32>,
    fused::<f16>,
    fused::<bf16>,
    fused::<f32>,
    quantised_alone::<f16>,
    quantised_alone::<bf16>,
    quantised_alone::<f32>,
    |device| options::<f16, f16>(device, &[40, 1032]),
    |device| options::<bf16, bf16>(device, &[40, 1032]),
    // Chunks of 4, and single elements.
    |device| options::<f32, f16>(device, &[36, 516]),
    |device| options::<bf16, f32>(device, &[36, 516]),
    |device| options::<f16, bf16>(device, &[36, 516]),
    |device| options::<f32, bf16>(device, &[133]),
    |device| options::<f16, f32>(device, &[133]),
    |device| options::<bf16, f16>(device, &[133]),
    ends_of_columns::<f16>,
    ends_of_columns::<bf16>,
    ends_of_columns::<f32>,
    |device| quantised::<f16>(device, [64, 512, 1152]),
    |device| quantised::<bf16>(device, [64, 512, 1152]),
    |device| quantised::<f32>(device, [64, 256, 1152]),
    |device| side_by_side::<f16, f16>(device, 8),
    |device| side_by_side::<bf16, bf16>(device, 8),
    |device| side_by_side::<f32, bf16>(device, 4),
    narrow_groups,
    tails,
    single_elements::<f32, bf16>,
    single_elements::<bf16, f16>,
    single_elements::<f16, f32>,
    ends,
    together,
    means,
    heads,
    backward,
];

const RMS: RmsNorm = RmsNorm {
    eps: 1e-5,
    weight: WeightForm::Plain,
};
const ONE_PLUS: RmsNorm = RmsNorm {
    weight: WeightForm::OnePlus,
    ..RMS
};

/// RMSNorm with and without a residual, and LayerNorm.
fn plain<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    let run = |op: RmsNorm, rows, width, gap, deviation| -> Result<()> {
        norm::<T>(device, &op, [rows, width], gap, deviation)?;
        add::<T>(device, &op, [rows, width], gap, deviation)?;
        layer::<T>(device, &op, [rows, width], gap, deviation)
    };
    // Rows of 2 threads, that end in each of their slots; of 4, 8 and 16 threads.
    let twos = (0..8).map(|slot| 2 * slot + 1);
    for chunks in twos.chain([24, 60, 127]) {
        run(RMS, 35, chunks * chunk, chunk, 1.0)?;
        run(ONE_PLUS, 3, chunks * chunk, 0, 1.0)?;
    }
    // Blocks whose rows all exist and fill their threads' slots, of short rows and of several warps.
    for chunks in [16, 128, 512] {
        let unit = RmsNorm { eps: 0.0, ..RMS };
        for (op, deviation) in [(RMS, 1.0), (ONE_PLUS, 1.0), (unit, 1e25), (unit, 1e-25)] {
            run(op, 32, chunks * chunk, chunk, deviation)?;
        }
        run(unit, 32, chunks * chunk, 0, 3e38)?;
    }
    // The same of 1, 2, 4, 8 and 16 threads, with a last block whose rows do not all exist.
    for chunks in [8, 16, 32, 64, 128] {
        run(RMS, 35, chunks * chunk, 0, 1.0)?;
    }
    // Of 96 threads, whose number of columns no division by it is exact for.
    run(RMS, 16, 768 * chunk, 0, 1.0)?;
    // Several warps, of which the last ends in each of its slots; what registers have no room for.
    let slots = (0..8).map(|slot| 256 + 32 * slot + 5);
    for chunks in [130, 256].into_iter().chain(slots).chain([4096 + 100]) {
        run(RMS, 1, chunks * chunk, chunk, 1.0)?;
        run(ONE_PLUS, 1, chunks * chunk, 0, 1.0)?;
    }
    // What shared memory has no room for: that of sm_80, which cusim models by default, has it for 10400 chunks.
    run(RMS, 1, (4096 + 10_400 + 700) * chunk, 0, 1.0)?;
    let tiny = |op: RmsNorm| RmsNorm { eps: 0.0, ..op };
    // So many rows that a block has several, and the last block not all; those missing count as too small.
    norm::<T>(device, &tiny(RMS), [2049, 129 * chunk], 0, 1.0)?;
    add::<T>(device, &tiny(RMS), [2049, 256 * chunk], 0, 1.0)?;
    layer::<T>(device, &tiny(RMS), [2049, 129 * chunk], 0, 1.0)?;
    layer::<T>(device, &tiny(RMS), [2049, 256 * chunk], 0, 1.0)?;
    // Such means, and means of what is left of others, of full rows.
    for chunks in [768, 1280, 1792] {
        layer::<T>(device, &RMS, [16, chunks * chunk], 0, 1.0)?;
        let x = alike::<T>(device, [1, chunks * chunk], 1e6, 7.0)?;
        launch::<T, T, T>(device, &layer_of(RMS), NOTHING, &x, 0, 1.0)?;
    }
    // Means much larger than what differs from them, of what registers and what shared memory have no room for.
    let large = if T::DTYPE == f16::DTYPE {
        (1000.0, f64::INFINITY)
    } else {
        (2e38, 4e36)
    };
    for chunks in [4096 + 100, 4096 + 10_400 + 700] {
        for (mean, deviation) in [(1000.0, 8.0), large] {
            let x = alike::<T>(device, [1, chunks * chunk], mean, deviation)?;
            launch::<T, T, T>(device, &layer_of(RMS), NOTHING, &x, 0, 1.0)?;
        }
    }
    // Squares that are too large, or too small; some infinite elements.
    for deviation in [1e25, 1e-25, 3e38] {
        for chunks in [1, 9, 24, 40, 400] {
            run(tiny(RMS), 2, chunks * chunk, 0, deviation)?;
            run(tiny(ONE_PLUS), 1, chunks * chunk, 0, deviation)?;
        }
    }
    // Of many means, some round otherwise without the last step of a division.
    for (chunks, deviation) in [(19, 1e25), (125, 1e-25)] {
        run(tiny(RMS), 16, chunks * chunk, 0, deviation)?;
    }
    Ok(())
}

/// RMSNorm with a gate, and with a norm before the residual too.
fn fused<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    let run = |op: RmsNorm, rows, chunks, gap, deviation, of_residual| -> Result<()> {
        let x = Tensor::<T, 2>::new(device, [rows, chunks * chunk], gap, deviation)?;
        launch::<T, T, T>(device, &op.into(), GATED, &x, gap, deviation)?;
        launch::<T, T, T>(device, &op.into(), POST, &x, gap, of_residual)
    };
    let ones = |op, rows, chunks, gap| run(op, rows, chunks, gap, 1.0, 1.0);
    // Rows of 2 threads, that end in each of their slots; of 4, 8 and 16 threads.
    let twos = (0..4).map(|slot| 2 * slot + 1);
    for chunks in twos.chain([12, 30, 63]) {
        ones(RMS, 35, chunks, chunk)?;
        ones(ONE_PLUS, 3, chunks, 0)?;
    }
    // Blocks whose rows all exist and fill their threads' slots, and last blocks whose rows do not all exist.
    let unit = RmsNorm { eps: 0.0, ..RMS };
    for chunks in [8, 16, 32, 64, 128, 512] {
        ones(RMS, 35, chunks, 0)?;
        ones(ONE_PLUS, 32, chunks, chunk)?;
        run(unit, 32, chunks, 0, 3e38, 3e38)?;
    }
    // Of 96 threads, whose number of columns no division by it is exact for.
    ones(RMS, 16, 384, 0)?;
    // Several warps, of which the last ends in each of its slots; what registers, and what shared memory has no room for.
    let slots = (0..4).map(|slot| 128 + 32 * slot + 5);
    for chunks in slots.chain([65, 2048 + 100, 2048 + 10_400 + 700]) {
        ones(RMS, 1, chunks, chunk)?;
        ones(ONE_PLUS, 1, chunks, 0)?;
    }
    // So many rows that a block has several, and the last block not all.
    for chunks in [65, 128] {
        run(unit, 2049, chunks, 0, 1.0, 1.0)?;
    }
    // Squares that are too large, or too small, before and after the residual is added; some infinite elements.
    for deviation in [1e25, 1e-25, 3e38] {
        for chunks in [1, 9, 24, 32, 40, 128, 400, 512, 2048 + 100] {
            for of_residual in [1.0, deviation] {
                run(unit, 2, chunks, 0, deviation, of_residual)?;
            }
            let one_plus = RmsNorm {
                eps: 0.0,
                ..ONE_PLUS
            };
            run(one_plus, 1, chunks, 0, 1.0, deviation)?;
        }
    }
    // Of many means, some round otherwise without the last step of a division.
    for (chunks, deviation) in [(19, 1e25), (125, 1e-25)] {
        run(unit, 16, chunks, 0, deviation, deviation)?;
    }
    Ok(())
}

/// Quantised RMSNorm, with a residual or without, of rows of whole accesses.
fn quantised_alone<T: Float>(device: &Device) -> Result<()> {
    quantised_rows::<T, F8E4M3>(device)?;
    quantised_rows::<T, F8E5M2>(device)?;
    quantised_rows::<T, i8>(device)
}

fn quantised_rows<T: Float, Q: Quantized>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    let of = |op: RmsNorm, scale| Norm {
        scale: Some(scale),
        ..Norm::from(op)
    };
    let all = [
        Scale::Static(0.02),
        Scale::PerRow,
        Scale::PerGroup(64),
        Scale::PerGroup(128),
    ];
    // In one warp; of several warps, of which the last ends in each of its slots; full; what registers, and what shared memory
    // has no room for.
    let slots = (0..8).map(|slot| 256 + 32 * slot + 16);
    let tails = [4096 + 80, 4096 + 96];
    for chunks in [80, 144, 512].into_iter().chain(slots).chain(tails) {
        let fits = |scale: &Scale| match scale {
            Scale::PerGroup(size) => (chunks * chunk).is_multiple_of(*size),
            _ => true,
        };
        for scale in all.into_iter().filter(fits) {
            for (op, with) in [(RMS, WEIGHT), (ONE_PLUS, ADDED)] {
                let x = Tensor::<T, 2>::new(device, [2, chunks * chunk], 16, 1.0)?;
                launch::<T, T, Q>(device, &of(op, scale), with, &x, 16, 1.0)?;
            }
        }
        peaks::<T, T, Q>(device, &of(RMS, Scale::PerRow), ADDED, [8, chunks * chunk])?;
    }
    for chunks in tails {
        let op = of(ONE_PLUS, Scale::PerRow);
        peaks::<T, T, Q>(device, &op, WEIGHT, [16, chunks * chunk])?;
    }
    // Of many means, some round otherwise without the last step of a division; of full rows too.
    for chunks in [80, 768] {
        let x = Tensor::<T, 2>::new(device, [16, chunks * chunk], 0, 1.0)?;
        launch::<T, T, Q>(device, &of(RMS, Scale::PerRow), WEIGHT, &x, 0, 1.0)?;
    }
    let far = [1, (4096 + 10_400 + 704) * chunk];
    for scale in [Scale::PerRow, Scale::PerGroup(128)] {
        peaks::<T, T, Q>(device, &of(ONE_PLUS, scale), WEIGHT, far)?;
        peaks::<T, T, Q>(device, &of(RMS, scale), ADDED, far)?;
    }
    // So many rows that a block has several, and the last block not all; those missing count as too small.
    let tiny = RmsNorm { eps: 0.0, ..RMS };
    for chunks in [128, 256] {
        let x = Tensor::<T, 2>::new(device, [2049, chunks * chunk], 0, 1.0)?;
        launch::<T, T, Q>(device, &of(tiny, Scale::PerRow), WEIGHT, &x, 0, 1.0)?;
    }
    // Squares that are too large, or too small; some infinite elements; more than a static scale has room for.
    for deviation in [1e25, 1e-25, 3e38, f64::INFINITY] {
        for (chunks, with) in [(80, ADDED), (256, WEIGHT), (512, ADDED), (4096 + 96, ADDED)] {
            let x = Tensor::<T, 2>::new(device, [1, chunks * chunk], 0, deviation)?;
            let finite = if deviation.is_finite() {
                deviation
            } else {
                1.0
            };
            for scale in [Scale::Static(0.02), Scale::PerRow] {
                launch::<T, T, Q>(device, &of(tiny, scale), with, &x, 0, finite)?;
            }
        }
    }
    Ok(())
}

fn norm<T: Float>(
    device: &Device,
    op: &RmsNorm,
    [rows, width]: [usize; 2],
    gap: usize,
    deviation: f64,
) -> Result<()> {
    let x = Tensor::<T, 2>::new(device, [rows, width], gap, deviation)?;
    let weight = Tensor::<T, 1>::new(device, [width], 0, 1.0)?;
    let mut out = Tensor::<T, 2>::new(device, [rows, width], gap, 55.0)?;
    let (kernels, stream) = (&device.kernels, &device.stream);
    Ok(kernels.rms_norm(stream, op, x.view()?, weight.view()?, out.view_mut()?)?)
}

fn add<T: Float>(
    device: &Device,
    op: &RmsNorm,
    [rows, width]: [usize; 2],
    gap: usize,
    deviation: f64,
) -> Result<()> {
    let x = Tensor::<T, 2>::new(device, [rows, width], gap, deviation)?;
    let mut residual = Tensor::<T, 2>::new(device, [rows, width], 2 * gap, deviation * 0.5)?;
    let weight = Tensor::<T, 1>::new(device, [width], 0, 1.0)?;
    let mut out = Tensor::<T, 2>::new(device, [rows, width], gap, 55.0)?;
    let (kernels, stream) = (&device.kernels, &device.stream);
    let (x, residual) = (x.view()?, residual.view_mut()?);
    Ok(kernels.add_rms_norm(stream, op, x, residual, weight.view()?, out.view_mut()?)?)
}

fn layer_of(op: RmsNorm) -> Norm {
    Norm {
        statistics: Statistics::Deviation,
        ..Norm::from(op)
    }
}

fn layer<T: Float>(
    device: &Device,
    op: &RmsNorm,
    shape: [usize; 2],
    gap: usize,
    deviation: f64,
) -> Result<()> {
    let x = Tensor::<T, 2>::new(device, shape, gap, deviation)?;
    // Large rows once: what is optional matters to none of them alone.
    let is_large = size_of::<T>() * shape[0] * shape[1] > 200_000;
    let options = [(true, true), (true, false), (false, true), (false, false)];
    for (weight, bias) in options.into_iter().take(if is_large { 1 } else { 4 }) {
        let with = With {
            weight,
            bias,
            ..NOTHING
        };
        launch::<T, T, T>(device, &layer_of(*op), with, &x, gap, deviation)?;
    }
    Ok(())
}

/// What a launch of every option has beside x and out.
#[derive(Clone, Copy, Default)]
struct With {
    weight: bool,
    bias: bool,
    gate: bool,
    residual: bool,
    /// With a weight or without.
    post: Option<bool>,
}

const NOTHING: With = With {
    weight: false,
    bias: false,
    gate: false,
    residual: false,
    post: None,
};
const WEIGHT: With = With {
    weight: true,
    ..NOTHING
};

const BIASED: With = With {
    bias: true,
    ..NOTHING
};
const WEIGHTED: With = With {
    bias: true,
    ..WEIGHT
};
const GATED: With = With {
    gate: true,
    ..WEIGHT
};
const ADDED: With = With {
    residual: true,
    ..WEIGHT
};
const POST: With = With {
    post: Some(true),
    ..ADDED
};
const FULL: With = With {
    bias: true,
    gate: true,
    ..ADDED
};

/// x, residual and out of type `X`, everything else of type `Y`, out of type `O`.
fn every<X: Float, Y: Float, O: Element>(
    device: &Device,
    op: &Norm,
    with: With,
    shape: [usize; 2],
    gap: usize,
    deviation: f64,
) -> Result<()> {
    let x = Tensor::<X, 2>::new(device, shape, gap, deviation)?;
    every_of::<X, Y, O>(device, op, with, x, gap, deviation)
}

/// The same of this x. What may have kernels of its own is launched again with another rounding, to take those of every option too.
fn every_of<X: Float, Y: Float, O: Element>(
    device: &Device,
    op: &Norm,
    with: With,
    x: Tensor<X, 2>,
    gap: usize,
    deviation: f64,
) -> Result<()> {
    let has_own = match op.statistics {
        Statistics::Deviation => op.scale.is_none() && !with.gate && !with.residual,
        Statistics::RootMeanSquare => with.weight && !with.bias,
    };
    if has_own && op.columns.is_none() {
        let llama = Norm {
            rounding: Rounding::Llama,
            ..*op
        };
        launch::<X, Y, O>(device, &llama, with, &x, gap, deviation)?;
    }
    launch::<X, Y, O>(device, op, with, &x, gap, deviation)
}

fn launch<X: Float, Y: Float, O: Element>(
    device: &Device,
    op: &Norm,
    with: With,
    x: &Tensor<X, 2>,
    gap: usize,
    deviation: f64,
) -> Result<()> {
    let shape = x.layout.shape();
    let [rows, width] = shape;
    // Operands that are not given are empty.
    let rows_if = |given: bool| if given { shape } else { [0, width] };
    let width_if = |given: bool| [if given { width } else { 0 }];
    let mut out = Tensor::<O, 2>::new(device, shape, gap, 55.0)?;
    let gate = Tensor::<Y, 2>::new(device, rows_if(with.gate), gap, 2.0)?;
    let residual = Tensor::<X, 2>::new(device, rows_if(with.residual), 2 * gap, deviation)?;
    let mut sum = Tensor::<X, 2>::new(device, rows_if(with.residual), gap, 55.0)?;
    let weight = Tensor::<Y, 1>::new(device, width_if(with.weight), 0, 1.0)?;
    let bias = Tensor::<Y, 1>::new(device, width_if(with.bias), 0, 2.0)?;
    let post_weight = Tensor::<Y, 1>::new(device, width_if(with.post == Some(true)), 0, 0.5)?;
    let groups = match op.scale {
        Some(Scale::PerRow) => 1,
        Some(Scale::PerGroup(size)) => width / size,
        _ => 0,
    };
    let mut scales = Tensor::<f32, 2>::new(device, [rows, groups], 1, 55.0)?;
    let (x, gate, residual) = (x.view()?, gate.view()?, residual.view()?);
    let (weight, bias, post_weight) = (weight.view()?, bias.view()?, post_weight.view()?);
    let (mut out, mut sum) = (out.view_mut()?, sum.view_mut()?);
    let of = |wanted: bool, operand| -> Option<&dyn Operand<1>> { wanted.then_some(operand) };
    let rows = InOut::Apart {
        input: &x,
        output: &mut out,
    };
    let args = NormArgs {
        bias: of(with.bias, &bias),
        gate: with.gate.then_some(&gate as _),
        residual: if with.residual {
            Some(InOut::Apart {
                input: &residual,
                output: &mut sum,
            })
        } else {
            None
        },
        post: with.post.map(|has_weight| PostNorm {
            weight: of(has_weight, &post_weight),
        }),
        scales: if groups > 0 {
            Some(scales.view_mut()?)
        } else {
            None
        },
        ..NormArgs::new(rows, of(with.weight, &weight))
    };
    Ok(device.kernels.norm(&device.stream, op, args)?)
}

/// Every option with rows inside a warp and of several warps, which end in different slots.
fn options<X: Float, Y: Float>(device: &Device, widths: &[usize]) -> Result<()> {
    let rms = Norm::from(RMS);
    let one_plus = Norm::from(ONE_PLUS);
    let layer = layer_of(RMS);
    let llama = Norm {
        rounding: Rounding::Llama,
        ..rms
    };
    for &width in widths {
        let unit = if width % 8 == 0 {
            8
        } else if width % 4 == 0 {
            4
        } else {
            1
        };
        let run = |op: Norm, with| every::<X, Y, Y>(device, &op, with, [3, width], unit, 1.0);
        let part = |op: Norm, columns| Norm {
            columns: Some(columns),
            ..op
        };
        run(rms, NOTHING)?;
        run(llama, WEIGHT)?;
        run(part(rms, width - 3), WEIGHT)?;
        run(part(layer, width / 2 + 1), WEIGHT)?;
        run(layer, WEIGHTED)?;
        run(layer, BIASED)?;
        run(
            Norm {
                weight: WeightForm::OnePlus,
                ..layer
            },
            WEIGHTED,
        )?;
        run(one_plus, GATED)?;
        run(layer, ADDED)?;
        run(
            rms,
            With {
                residual: true,
                bias: true,
                ..WEIGHT
            },
        )?;
        for has_weight in [false, true] {
            let with = With {
                residual: true,
                post: Some(has_weight),
                ..WEIGHT
            };
            run(one_plus, with)?;
            run(
                Norm {
                    columns: Some(width / 3 + 1),
                    ..llama
                },
                with,
            )?;
        }
        // A slot of each number of chunks.
        for slot in 1..5 {
            let chunks = if width > 100 {
                128 + 32 * slot - 1
            } else {
                2 * slot - 1
            };
            let width = unit * chunks;
            let with = With {
                gate: true,
                residual: true,
                bias: true,
                ..WEIGHT
            };
            every::<X, Y, X>(device, &layer, with, [5, width], unit, 1.0)?;
            // Operands of the width of a row, loaded before others tell that a chunk is missing.
            let layer_one_plus = Norm {
                weight: WeightForm::OnePlus,
                ..layer
            };
            for (op, with) in [(rms, POST), (layer, BIASED), (layer_one_plus, WEIGHTED)] {
                every::<X, Y, X>(device, &op, with, [2, width], unit, 1.0)?;
            }
        }
    }
    Ok(())
}

/// Norms of the first columns that end at every element of every chunk of a thread: two threads have a row.
fn ends_of_columns<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    for chunks in [7, 5, 3, 2] {
        let width = chunk * chunks;
        // Those of the first thread; no columns end before its first element, but before the second thread's.
        let of_first = |columns: &usize| (columns / chunk).is_multiple_of(2) || *columns == chunk;
        for columns in (1..width).filter(of_first) {
            for statistics in [Statistics::RootMeanSquare, Statistics::Deviation] {
                let op = Norm {
                    statistics,
                    columns: Some(columns),
                    ..Norm::from(RMS)
                };
                let mut x = Tensor::<T, 2>::new(device, [1, width], 0, 1.0)?;
                x.set(device, |[_, at]| (at >= columns).then_some(8.0))?;
                every_of::<T, T, T>(device, &op, NOTHING, x, 0, 1.0)?;
            }
        }
    }
    // At every element of a chunk in each slot of a warp, and in the tail; of sums that must be scaled too. Single elements likewise.
    for (chunk, chunks, slots, end) in [
        (chunk, 127, 4, 5),
        (chunk, 2048 + 40, 1, 2048 + 5),
        (1, 127, 4, 5),
        (1, 2048 + 125, 4, 2048 + 5),
    ] {
        for column in
            (0..slots).flat_map(|slot| (0..chunk).map(move |i| chunk * (32 * slot + end) + i))
        {
            let rms = Norm {
                columns: Some(column),
                ..Norm::from(RMS)
            };
            let layer = Norm {
                statistics: Statistics::Deviation,
                ..rms
            };
            for (op, deviation) in [(rms, 1.0), (layer, 1.0), (layer, 3e37)] {
                let shape = [1, chunk * chunks];
                let mut x = Tensor::<T, 2>::new(device, shape, 0, deviation)?;
                x.set(device, |[_, at]| (at >= column).then_some(8.0 * deviation))?;
                every_of::<T, T, T>(device, &op, NOTHING, x, 0, deviation)?;
            }
        }
    }
    Ok(())
}

fn quantised<T: Float>(device: &Device, widths: [usize; 3]) -> Result<()> {
    for width in widths {
        for scale in [Scale::Static(0.02), Scale::PerRow, Scale::PerGroup(64)] {
            to_all::<T>(device, scale, [3, width])?;
        }
        if width % 128 == 0 {
            to_all::<T>(device, Scale::PerGroup(128), [2, width])?;
        }
    }
    Ok(())
}

/// Rows of each number of threads that lie side by side in a warp, and groups of fewer threads than they have chunks.
fn side_by_side<X: Float, Y: Float>(device: &Device, chunk: usize) -> Result<()> {
    for chunks in [1, 8, 16, 32, 40] {
        let shape = [5, chunk * chunks];
        for mean in [1000.0, 2e38] {
            if mean < 6e4 || X::DTYPE != f16::DTYPE {
                around::<X, Y, X>(device, shape, mean, mean / 64.0)?;
            }
        }
        let op = Norm {
            scale: Some(Scale::PerRow),
            ..Norm::from(RMS)
        };
        peaks::<X, Y, i8>(device, &op, NOTHING, shape)?;
        let part = Norm {
            columns: Some(shape[1] - 1),
            ..Norm::from(RMS)
        };
        every::<X, Y, X>(device, &part, NOTHING, shape, 0, 1.0)?;
    }
    for (width, group) in [(128, 64), (192, 64), (256, 64), (256, 128), (320, 64)] {
        let op = Norm {
            scale: Some(Scale::PerGroup(group)),
            ..Norm::from(RMS)
        };
        every::<X, Y, i8>(device, &op, WEIGHT, [5, width], 0, 1.0)?;
    }
    // Half a warp that has a chunk, none of whose threads has more.
    let op = Norm {
        scale: Some(Scale::PerGroup(64)),
        ..Norm::from(RMS)
    };
    every::<X, Y, i8>(device, &op, WEIGHT, [2, 1088], 0, 1.0)?;
    every::<X, Y, F8E4M3>(device, &op, WEIGHT, [2, 1088], 0, 1.0)?;
    Ok(())
}

fn to_all<T: Float>(device: &Device, scale: Scale, shape: [usize; 2]) -> Result<()> {
    to::<T, F8E4M3>(device, scale, shape)?;
    to::<T, F8E5M2>(device, scale, shape)?;
    to::<T, i8>(device, scale, shape)
}

fn to<T: Float, Q: Quantized>(device: &Device, scale: Scale, shape: [usize; 2]) -> Result<()> {
    let op = Norm {
        scale: Some(scale),
        ..Norm::from(RMS)
    };
    every::<T, T, Q>(device, &op, WEIGHT, shape, 8, 1.0)?;
    // Larger than a static scale has room for.
    let zero = Norm { eps: 0.0, ..op };
    every::<T, T, Q>(device, &zero, NOTHING, [1, shape[1]], 0, f64::INFINITY)?;
    let tiny = Norm { eps: 1e30, ..op };
    every::<T, T, Q>(device, &tiny, NOTHING, [1, shape[1]], 0, 1e-3)
}

/// Groups of rows whose addresses allow single elements only.
fn narrow_groups(device: &Device) -> Result<()> {
    for scale in [
        Scale::PerRow,
        Scale::PerGroup(64),
        Scale::PerGroup(128),
        Scale::Static(0.1),
    ] {
        for width in [128, 640, 2048 + 1152] {
            let op = Norm {
                scale: Some(scale),
                ..Norm::from(RMS)
            };
            every::<bf16, f32, F8E4M3>(device, &op, WEIGHT, [2, width], 1, 1.0)?;
            every::<f32, f32, i8>(device, &op, WEIGHT, [1, width], 1, 1.0)?;
            every::<f16, f16, F8E5M2>(device, &op, WEIGHT, [2, width], 1, 1.0)?;
        }
    }
    let scaled = |scale| Norm {
        scale: Some(scale),
        ..Norm::from(RMS)
    };
    // Two slots of a warp have no chunk.
    for width in [192, 2048 + 64] {
        let op = scaled(Scale::PerGroup(64));
        every::<f32, f32, i8>(device, &op, WEIGHT, [2, width], 1, 1.0)?;
    }
    // Rows that end in each slot.
    for width in [133, 165, 197, 229] {
        let op = scaled(Scale::PerRow);
        every::<f32, f32, F8E4M3>(device, &op, WEIGHT, [1, width], 1, 1.0)?;
    }
    // One element.
    every::<f32, f32, i8>(device, &scaled(Scale::PerRow), WEIGHT, [3, 1], 1, 1.0)?;
    Ok(())
}

/// Rows that registers, and some that shared memory has no room for.
fn tails(device: &Device) -> Result<()> {
    let layer = layer_of(RMS);
    let rms = Norm::from(ONE_PLUS);
    let post = With {
        post: Some(true),
        ..FULL
    };
    let part = Norm {
        columns: Some(5000),
        ..rms
    };
    let scaled = |scale, op| Norm {
        scale: Some(scale),
        ..op
    };
    // 2048 chunks are in registers, and 10400 in shared memory.
    let (near, far) = (2048 + 300, 2048 + 10_400 + 400);
    for (op, with, chunks) in [(layer, FULL, near), (rms, post, far), (part, FULL, near)] {
        every::<f16, f16, f16>(device, &op, with, [1, 8 * chunks], 0, 1.0)?;
        every::<bf16, bf16, bf16>(device, &op, with, [1, 8 * chunks], 0, 1.0)?;
        every::<f32, bf16, f32>(device, &op, with, [1, 4 * chunks], 0, 1.0)?;
        every::<f16, bf16, f16>(device, &op, with, [1, 4 * chunks], 0, 1.0)?;
        every::<bf16, f16, bf16>(device, &op, with, [1, 4 * chunks], 0, 1.0)?;
    }
    let llama = Norm {
        rounding: Rounding::Llama,
        ..Norm::from(RMS)
    };
    let bare = With {
        post: Some(false),
        residual: true,
        bias: true,
        ..NOTHING
    };
    for (op, with, chunks, deviation) in [
        (llama, post, near, 1.0),
        (rms, bare, near, 1.0),
        (rms, NOTHING, near, 1.0),
        (layer, BIASED, far, 3e37),
        (layer, FULL, far, 1.0),
    ] {
        every::<f16, f16, f16>(
            device,
            &op,
            with,
            [1, 8 * chunks],
            0,
            f64::min(deviation, 1.0),
        )?;
        every::<bf16, bf16, bf16>(device, &op, with, [1, 8 * chunks], 0, deviation)?;
        every::<f32, bf16, f32>(device, &op, with, [1, 4 * chunks], 0, deviation)?;
        every::<bf16, f32, bf16>(device, &op, with, [1, 4 * chunks], 0, deviation)?;
        let of_half = f64::min(deviation, 1.0);
        every::<f16, bf16, f16>(device, &op, with, [1, 4 * chunks], 0, of_half)?;
    }
    // A scale for the row, of each option: the largest element is in the tail, at each place of a chunk.
    for (op, with, rows, chunks) in [
        (llama, WEIGHT, 1, near),
        (layer, BIASED, 1, far),
        (rms, FULL, 1, near),
        (rms, NOTHING, 1, near),
        (rms, WEIGHT, 1, near),
        (rms, WEIGHTED, 8, near),
        (Norm::from(RMS), WEIGHTED, 8, near),
    ] {
        let op = scaled(Scale::PerRow, op);
        peaks::<f16, f16, F8E5M2>(device, &op, with, [rows, 8 * chunks])?;
        peaks::<bf16, bf16, i8>(device, &op, with, [rows, 8 * chunks])?;
        peaks::<f32, bf16, F8E4M3>(device, &op, with, [rows, 4 * chunks])?;
        peaks::<f16, f32, F8E5M2>(device, &op, with, [1, 4 * chunks])?;
        peaks::<bf16, f16, i8>(device, &op, with, [1, 4 * chunks])?;
    }
    let op = scaled(Scale::PerGroup(64), rms);
    every::<f16, f16, F8E4M3>(device, &op, NOTHING, [1, 8 * (2048 + 40)], 0, 1.0)?;
    every::<bf16, bf16, i8>(device, &op, NOTHING, [1, 8 * (2048 + 40)], 0, 1.0)?;
    every::<f32, f32, F8E5M2>(device, &op, NOTHING, [1, 4 * (2048 + 48)], 0, 1.0)?;
    every::<bf16, f32, f16>(device, &rms, post, [1, 4 * near], 0, 1.0)?;
    every::<f16, f32, f32>(device, &layer, FULL, [1, 4 * far], 0, 1.0)?;
    for (scale, columns) in [(Scale::PerRow, 8 * near), (Scale::PerGroup(128), 103_168)] {
        every::<f16, f16, i8>(device, &scaled(scale, layer), WEIGHT, [1, columns], 0, 1.0)?;
        every::<bf16, bf16, F8E4M3>(device, &scaled(scale, rms), WEIGHT, [1, columns], 0, 1.0)?;
        let shape = [1, columns / 2];
        every::<f32, f32, F8E5M2>(device, &scaled(scale, rms), NOTHING, shape, 0, 1.0)?;
    }
    // Single elements: 2048 in registers, and 41600 in shared memory.
    every::<f32, bf16, f32>(device, &layer, FULL, [1, 2048 + 333], 0, 1.0)?;
    every::<bf16, f32, f16>(device, &rms, post, [1, 2048 + 41_600 + 501], 0, 1.0)?;
    every::<f16, f32, f32>(device, &part, FULL, [1, 2048 + 41_600 + 503], 0, 1.0)?;
    Ok(())
}

/// Single elements of rows that end in each slot of a step of the tail.
fn single_elements<X: Float, Y: Float>(device: &Device) -> Result<()> {
    let rms = Norm::from(RMS);
    let one_plus = Norm::from(ONE_PLUS);
    let layer = layer_of(ONE_PLUS);
    let llama = Norm {
        rounding: Rounding::Llama,
        columns: Some(2050),
        ..rms
    };
    let per_row = |op| Norm {
        scale: Some(Scale::PerRow),
        ..op
    };
    let bare = With {
        post: Some(false),
        ..POST
    };
    let added = With {
        gate: false,
        ..FULL
    };
    let is_half = X::DTYPE == f16::DTYPE;
    // The last element decides the scale.
    let rows = |shape: [usize; 2], deviation| -> Result<Tensor<X, 2>> {
        let mut x = Tensor::new(device, shape, 0, deviation)?;
        x.set(device, |[_, at]| {
            (at + 1 == shape[1]).then_some(600.0 * deviation)
        })?;
        Ok(x)
    };
    for end in [21, 53, 85, 117] {
        let near = [1, 2048 + end];
        let x = || rows(near, 1.0);
        every_of::<X, Y, i8>(device, &per_row(layer), FULL, x()?, 0, 1.0)?;
        every_of::<X, Y, F8E4M3>(device, &per_row(llama), POST, x()?, 0, 1.0)?;
        every_of::<X, Y, F8E5M2>(device, &per_row(one_plus), WEIGHT, x()?, 0, 1.0)?;
        every_of::<X, Y, i8>(device, &per_row(rms), BIASED, x()?, 0, 1.0)?;
        every_of::<X, Y, i8>(device, &per_row(rms), WEIGHTED, x()?, 0, 1.0)?;
        every_of::<X, Y, i8>(device, &per_row(rms), GATED, x()?, 0, 1.0)?;
        // Nothing is in registers yet that another pass has loaded.
        for with in [POST, BIASED, FULL] {
            every::<X, Y, X>(device, &one_plus, with, near, 0, 1.0)?;
        }
        // Past what shared memory has room for. Sums that must be scaled too; those of f16 only where one is infinite.
        let far = [1, 2048 + 41_600 + end];
        let deviation = if is_half { 1.0 } else { 3e35 };
        let x = rows(far, deviation)?;
        every_of::<X, Y, i8>(device, &per_row(layer), added, x, 0, deviation)?;
        every::<X, Y, f32>(device, &one_plus, bare, far, 0, 1.0)?;
        let large = if is_half {
            (1.0, f64::INFINITY)
        } else {
            (2e38, 4e36)
        };
        for (mean, deviation) in [(1000.0, 8.0), large] {
            for shape in [near, far] {
                let x = alike(device, shape, mean, deviation)?;
                every_of::<X, Y, f32>(device, &layer, NOTHING, x, 0, 1.0)?;
            }
        }
    }
    Ok(())
}

/// LayerNorms of rows whose sum is too large, though that of no warp is.
fn together(device: &Device) -> Result<()> {
    let layer = layer_of(RMS);
    fn two<X: Float>(device: &Device, width: usize) -> Result<Tensor<X, 2>> {
        let mut x = Tensor::new(device, [1, width], 0, 1.0)?;
        x.set(device, |[_, at]| {
            (at == 3 || at + 2 == width).then_some(3e38)
        })?;
        Ok(x)
    }
    every_of::<bf16, bf16, bf16>(device, &layer, NOTHING, two(device, 1032)?, 0, 1.0)?;
    every_of::<f32, bf16, f32>(device, &layer, NOTHING, two(device, 516)?, 0, 1.0)?;
    every_of::<f32, bf16, f32>(device, &layer, NOTHING, two(device, 133)?, 0, 1.0)?;
    // All alike, with a mean that is rounded: what is past the end differs from it, and has no part in the scale.
    let to_bytes = Norm {
        scale: Some(Scale::PerRow),
        ..layer
    };
    for end in [5, 37, 69, 101] {
        for (chunk, start) in [(1, 128), (1, 2048), (4, 128), (4, 2048)] {
            let shape = [1, chunk * (start + end)];
            let x = alike::<f32>(device, shape, 16_776_455.0, 0.0)?;
            every_of::<f32, f32, i8>(device, &to_bytes, NOTHING, x, 0, 1.0)?;
        }
    }
    // What is infinite is past what shared memory has room for.
    around::<f16, bf16, f16>(device, [1, 4 * (2048 + 10_400 + 421)], 1.0, f64::INFINITY)
}

/// Rows that have one large element, one further on than that of the row before.
fn peaks<X: Float, Y: Float, Q: Quantized>(
    device: &Device,
    op: &Norm,
    with: With,
    shape: [usize; 2],
) -> Result<()> {
    let mut x = Tensor::<X, 2>::new(device, shape, 0, 1.0)?;
    let first = shape[1].saturating_sub(16);
    x.set(device, |[row, column]| {
        (column == first + row).then_some(1000.0)
    })?;
    every_of::<X, Y, Q>(device, op, with, x, 0, 1.0)
}

/// Squares and sums that are too large, or too small, and what is not finite.
fn ends(device: &Device) -> Result<()> {
    let rms = Norm {
        eps: 0.0,
        ..Norm::default()
    };
    let layer = Norm {
        statistics: Statistics::Deviation,
        ..rms
    };
    for op in [rms, layer] {
        // The last makes some elements infinite, of f16 too.
        for (deviation, of_half) in [(1e25, 1e25), (1e-25, 1e-25), (3e37, 3e37), (3e38, 5e4)] {
            for width in [40, 1000] {
                every::<bf16, bf16, bf16>(device, &op, WEIGHT, [1, width], 0, deviation)?;
                every::<bf16, bf16, bf16>(device, &op, NOTHING, [1, width], 0, deviation)?;
                every::<f32, f32, f32>(device, &op, NOTHING, [1, width], 0, deviation)?;
            }
            every::<f32, f32, f32>(device, &op, WEIGHT, [3, 2048 + 77], 0, deviation)?;
            every::<f16, f16, f16>(device, &op, NOTHING, [3, 1000], 0, of_half)?;
            every::<f16, f16, f16>(device, &op, NOTHING, [3, 40], 0, of_half)?;
        }
    }
    for op in [rms, layer] {
        every::<bf16, bf16, bf16>(device, &op, WEIGHT, [1, 2048 * 8 + 800], 0, 1e25)?;
        every::<f32, f32, f32>(device, &op, WEIGHT, [1, 2048 * 4 + 800], 0, 1e-25)?;
    }
    // LayerNorms of rows that are loaded again and end in each slot. Those of f16 are constant.
    for slot in 1..5 {
        for chunks in [2 * slot - 1, 128 + 32 * slot - 1, 2048 + 32 * slot - 1] {
            for (size, width) in [(1, chunks), (4, 4 * chunks)] {
                let shape = [3, width];
                every::<f32, bf16, f32>(device, &layer, NOTHING, shape, size, 1e-25)?;
                every::<bf16, f32, bf16>(device, &layer, NOTHING, shape, size, 1e-25)?;
                let constant = alike::<f16>(device, shape, 1.0, 0.0)?;
                every_of::<f16, bf16, f16>(device, &layer, NOTHING, constant, size, 1.0)?;
            }
        }
    }
    zeros::<f16>(device)?;
    zeros::<bf16>(device)?;
    zeros::<f32>(device)?;
    // So many rows that a block has several, and the last block not all.
    every::<bf16, bf16, bf16>(device, &rms, NOTHING, [2051, 8 * 33], 0, 1.0)?;
    every::<f32, f32, f32>(device, &rms, NOTHING, [2051, 4 * 33], 0, 1.0)?;
    every::<f16, f16, f16>(device, &rms, NOTHING, [2051, 8 * 33], 0, 1.0)?;
    // The same of rows of a warp.
    every::<f16, f16, f16>(device, &rms, NOTHING, [2051, 8 * 65], 0, 1.0)?;
    every::<bf16, bf16, bf16>(device, &rms, NOTHING, [2051, 8 * 65], 0, 1.0)?;
    every::<f32, f32, bf16>(device, &rms, NOTHING, [2051, 4 * 65], 0, 1.0)
}

/// Rows whose mean square is 0 though not all of their elements are: infinities.
fn zeros<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    for width in [chunk * 5, chunk * (2048 + 40), 7, 2048 + 41] {
        let shape = [1, width];
        let rows = || -> Result<Tensor<T, 2>> {
            let mut x = Tensor::new(device, shape, 0, 1.0)?;
            x.set(device, |[_, column]| (column < 3).then_some(0.0))?;
            Ok(x)
        };
        let op = Norm {
            eps: 0.0,
            columns: Some(3),
            ..Norm::default()
        };
        every_of::<T, T, T>(device, &op, NOTHING, rows()?, 0, 1.0)?;
        let to_bytes = Norm {
            scale: Some(Scale::PerRow),
            ..op
        };
        every_of::<T, T, i8>(device, &to_bytes, NOTHING, rows()?, 0, 1.0)?;
    }
    Ok(())
}

/// LayerNorms of rows whose mean is much larger than their deviation: errors of it show.
fn means(device: &Device) -> Result<()> {
    // Such that the last bit of what is left of a mean shows.
    for width in (68..168)
        .step_by(8)
        .chain([100, 1100, 1200, 8192 + 1200, 301, 303])
    {
        around::<f32, f32, f32>(device, [1, width], 1e6, 7.0)?;
    }
    for (mean, deviation) in [(1000.0, 8.0), (2e38, 4e36)] {
        // Rows inside a warp, of several warps, and with a tail.
        for chunks in [40, 300, 2048 + 300] {
            if mean < 6e4 {
                around::<f16, f16, f16>(device, [1, 8 * chunks], mean, deviation)?;
            }
            around::<bf16, bf16, bf16>(device, [1, 8 * chunks], mean, deviation)?;
            around::<f32, bf16, f32>(device, [1, 4 * chunks], mean, deviation)?;
            around::<f32, f32, f32>(device, [1, chunks + 1], mean, deviation)?;
        }
    }
    Ok(())
}

/// A row whose elements are all alike but one, near the end.
fn alike<X: Float>(
    device: &Device,
    shape: [usize; 2],
    mean: f64,
    deviation: f64,
) -> Result<Tensor<X, 2>> {
    let mut x = Tensor::new(device, shape, 0, 1.0)?;
    x.set(device, |[_, column]| {
        let is_other = column + 3 == shape[1];
        Some(if is_other { mean + deviation } else { mean })
    })?;
    Ok(x)
}

fn around<X: Float, Y: Float, Z: Float>(
    device: &Device,
    shape: [usize; 2],
    mean: f64,
    deviation: f64,
) -> Result<()> {
    let layer = layer_of(RMS);
    let rows = || alike(device, shape, mean, deviation);
    every_of::<X, Y, Z>(device, &layer, WEIGHT, rows()?, 0, deviation)?;
    let to_bytes = Norm {
        scale: Some(Scale::PerRow),
        ..layer
    };
    every_of::<X, Y, i8>(device, &to_bytes, WEIGHT, rows()?, 0, deviation)
}

/// Heads of two tensors.
fn heads(device: &Device) -> Result<()> {
    heads_of::<f16>(device)?;
    heads_of::<bf16>(device)?;
    heads_of::<f32>(device)?;
    heads_at::<f16>(device, &Norm::from(RMS), [1025, 1, 1], 33, 0)
}

fn heads_of<T: Float>(device: &Device) -> Result<()> {
    let rms = Norm::from(RMS);
    let llama = Norm {
        rounding: Rounding::Llama,
        ..rms
    };
    for op in [rms, llama, layer_of(RMS)] {
        for (head_dim, gap) in [(64, 8), (1096, 8), (100, 4), (77, 1), (1100, 4)] {
            heads_at::<T>(device, &op, [3, 5, 2], head_dim, gap)?;
            heads_at::<T>(device, &op, [1, 2, 1], head_dim, gap)?;
        }
    }
    // So many that a block has several heads, of which the last block of q and that of k each have one.
    let chunk = 16 / size_of::<T>();
    heads_at::<T>(device, &llama, [1025, 1, 1], 65 * chunk, 0)?;
    heads_at::<T>(device, &rms, [1025, 1, 1], 256 * chunk, 0)?;
    heads_at::<T>(device, &layer_of(RMS), [1025, 1, 1], 256 * chunk, 0)
}

fn heads_at<T: Float>(
    device: &Device,
    op: &Norm,
    [tokens, q_heads, k_heads]: [usize; 3],
    head_dim: usize,
    gap: usize,
) -> Result<()> {
    let q = Tensor::<T, 3>::new(device, [tokens, q_heads, head_dim], gap, 1.0)?;
    let mut q_out = Tensor::<T, 3>::new(device, [tokens, q_heads, head_dim], 2 * gap, 1.0)?;
    let mut k = Tensor::<T, 3>::new(device, [tokens, k_heads, head_dim], gap, 1.0)?;
    let q_weight = Tensor::<T, 1>::new(device, [head_dim], 0, 1.0)?;
    let k_weight = Tensor::<T, 1>::new(device, [head_dim], 0, 3.0)?;
    let args = QkNormArgs {
        q: InOut::Apart {
            input: &q.view()?,
            output: &mut q_out.view_mut()?,
        },
        k: InOut::InPlace(&mut k.view_mut()?),
        q_weight: Some(&q_weight.view()?),
        k_weight: Some(&k_weight.view()?),
    };
    Ok(device.kernels.qk_norm(&device.stream, op, args)?)
}

fn backward(device: &Device) -> Result<()> {
    // Rows inside a warp, in blocks of several; of several warps; beyond registers, with sums of two rows.
    let sizes = [
        (37, 40),
        (2, 8),
        (20, 1000),
        (3, 520),
        (1, 8192 + 800),
        (2, 8192 + 5696),
    ];
    for (rows, width) in sizes {
        gradients::<f16, f16, f16>(device, [rows, width], 8, 1.0)?;
        gradients::<bf16, bf16, bf16>(device, [rows, width], 8, 1.0)?;
        gradients::<f32, bf16, f16>(device, [rows, width], 4, 1.0)?;
        gradients::<f16, f32, bf16>(device, [rows, width], 1, 1.0)?;
        gradients::<bf16, f16, f32>(device, [rows, width - 3], 1, 1.0)?;
        gradients::<f16, f32, bf16>(device, [rows, width], 4, 1.0)?;
        gradients::<bf16, f16, f32>(device, [rows, width], 4, 1.0)?;
        gradients::<f32, bf16, f16>(device, [rows, width - 1], 0, 1.0)?;
    }
    // Rows that fill the slots of all threads.
    gradients::<f32, bf16, f16>(device, [3, 64], 1, 1.0)?;
    // Chunks of 4 that end in the second and in the third slot.
    for width in [4 * 45, 4 * 75] {
        gradients::<f32, bf16, f16>(device, [3, width], 4, 1.0)?;
        gradients::<f16, f32, bf16>(device, [3, width], 4, 1.0)?;
        gradients::<bf16, f16, f32>(device, [3, width], 4, 1.0)?;
    }
    // So many rows that a partial sum has several, and that sums are added in each way.
    for rows in [1120, 1500] {
        gradients::<f16, f16, f16>(device, [rows, 8], 0, 1.0)?;
        gradients::<bf16, bf16, bf16>(device, [rows, 8], 0, 1.0)?;
        gradients::<f32, f32, f32>(device, [rows, 4], 0, 1.0)?;
        gradients::<f32, f32, f32>(device, [rows, 1], 0, 1.0)?;
    }
    // So many partial sums that a thread that adds them has 4, and 8.
    for rows in [800, 2048] {
        gradients::<f32, f32, f32>(device, [rows, 1], 0, 1.0)?;
    }
    for deviation in [1e25, 1e-25] {
        for width in [40, 1000, 77] {
            gradients::<bf16, bf16, bf16>(device, [2, width], 0, deviation)?;
            gradients::<f32, f32, f32>(device, [2, width], 0, deviation)?;
        }
    }
    // Some infinite elements of x, and sums with dy that become infinite.
    for (deviation, of_dy) in [(3e38, 1.0), (1.0, 2e38)] {
        gradients_of::<bf16, bf16, bf16>(device, [20, 8], 0, deviation, of_dy)?;
        gradients_of::<f32, f32, f32>(device, [20, 8], 0, deviation, of_dy)?;
        gradients_of::<f32, bf16, f32>(device, [20, 5], 0, deviation, of_dy)?;
    }
    // Columns whose elements are finite, in rows where others are not; some infinite elements of dy of f16.
    gradients_of::<f16, f16, f16>(device, [3, 8], 0, 5e4, 1.0)?;
    gradients_of::<bf16, bf16, bf16>(device, [3, 8], 0, 3e38, 1.0)?;
    gradients_of::<f32, f32, f32>(device, [3, 8], 0, 3e38, 1.0)?;
    gradients_of::<f32, bf16, f32>(device, [3, 5], 0, 3e38, 1.0)?;
    gradients_of::<f16, f16, f16>(device, [20, 8], 0, 1.0, 3.5e4)?;
    Ok(())
}

fn gradients<X: Float, Y: Float, Z: Float>(
    device: &Device,
    shape: [usize; 2],
    gap: usize,
    deviation: f64,
) -> Result<()> {
    gradients_of::<X, Y, Z>(device, shape, gap, deviation, deviation.sqrt())
}

fn gradients_of<X: Float, Y: Float, Z: Float>(
    device: &Device,
    [rows, width]: [usize; 2],
    gap: usize,
    deviation: f64,
    of_dy: f64,
) -> Result<()> {
    for (op, is_full) in [(RMS, true), (ONE_PLUS, true), (RMS, false)] {
        let op = if deviation == 1.0 {
            op
        } else {
            RmsNorm { eps: 0.0, ..op }
        };
        let x = Tensor::<X, 2>::new(device, [rows, width], gap, deviation)?;
        let dy = Tensor::<Y, 2>::new(device, [rows, width], gap, of_dy)?;
        let dh = Tensor::<Z, 2>::new(device, [rows, width], gap, 0.5)?;
        let mut dx = Tensor::<X, 2>::new(device, [rows, width], gap, 55.0)?;
        let weight = Tensor::<Y, 1>::new(device, [width], 0, 1.0)?;
        let mut dw = Tensor::<Z, 1>::new(device, [width], 0, 55.0)?;
        let needed = backward_workspace(rows, width);
        let mut workspace = Tensor::<f32, 1>::new(device, [needed], 0, 55.0)?;
        let (dh, weight, mut dw) = (dh.view()?, weight.view()?, dw.view_mut()?);
        let args = NormBackwardArgs {
            x: &x.view()?,
            weight: is_full.then_some(&weight as _),
            gradient: InOut::Apart {
                input: &dy.view()?,
                output: &mut dx.view_mut()?,
            },
            residual_gradient: is_full.then_some(&dh as _),
            weight_gradient: if is_full { Some(&mut dw) } else { None },
            workspace: if is_full {
                Some(workspace.view_mut()?)
            } else {
                None
            },
        };
        device
            .kernels
            .rms_norm_backward(&device.stream, &op, args)?;
    }
    Ok(())
}
