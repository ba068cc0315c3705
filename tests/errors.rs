//! Bad input gets a typed error, and nothing is launched: one test for every variant.

mod common;

use common::{gpu, view, view_mut};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaSlice, DriverError};
use ferroflash::metadata::Number;
use ferroflash::{
    Axes, CacheScale, CacheWrite, DType, Element, Error, Frequencies, Heads, InOut, InvFreq,
    KvPages, Layout, LayoutError, Mask, Norm, NormArgs, NormBackwardArgs, NormWeights, PageLayout,
    Positions, PostNorm, Prefill, PrefillArgs, PrefillOptions, QkNorm, QkNormArgs, QuantisedPages,
    RmsNorm, Rope, RopeArgs, RopeTable, Scale, Slots, Statistics, TensorView, TensorViewMut,
    Unsupported, WeightForm,
};
use float8::F8E4M3;
use half::f16;

fn zeros(len: usize) -> CudaSlice<f16> {
    gpu().stream.alloc_zeros(len).expect("memory")
}

/// Prefill on row-major tensors of these shapes.
fn prefill(
    op: &Prefill,
    q: [usize; 4],
    k: [usize; 4],
    v: [usize; 4],
    o: [usize; 4],
) -> Result<(), Error> {
    let len = |shape: [usize; 4]| shape.iter().product::<usize>().max(1);
    let (q_data, k_data, v_data) = (zeros(len(q)), zeros(len(k)), zeros(len(v)));
    let mut o_data = zeros(len(o));
    let args = PrefillArgs {
        q: view(&q_data, q),
        k: view(&k_data, k),
        v: view(&v_data, v),
        o: view_mut(&mut o_data, o),
        lse: None,
        options: PrefillOptions::default(),
    };
    gpu().kernels.prefill(&gpu().stream, op, args)
}

const Q: [usize; 4] = [1, 3, 4, 64];
const KV: [usize; 4] = [1, 5, 2, 64];

#[test]
fn prefill_names_the_operand_and_axis_that_do_not_fit() {
    let op = Prefill::default();
    let mismatch = |operand, axis, expected, found| {
        Err(Error::ShapeMismatch {
            operand,
            axis,
            expected,
            found,
        })
    };
    assert_eq!(prefill(&op, Q, KV, KV, Q), Ok(()));
    assert_eq!(
        prefill(&op, Q, [2, 5, 2, 64], KV, Q),
        mismatch("k", "batch", 1, 2)
    );
    assert_eq!(
        prefill(&op, Q, [1, 5, 2, 128], KV, Q),
        mismatch("k", "head_dim", 64, 128)
    );
    assert_eq!(
        prefill(&op, Q, KV, [1, 6, 2, 64], Q),
        mismatch("v", "seqlen", 5, 6)
    );
    assert_eq!(
        prefill(&op, Q, KV, KV, [1, 3, 2, 64]),
        mismatch("o", "heads", 4, 2)
    );
}

#[test]
fn prefill_checks_the_shape_of_lse() {
    let (q, k, v) = (zeros(768), zeros(640), zeros(640));
    let mut o = zeros(768);
    let mut lse = gpu().stream.alloc_zeros::<f32>(16).expect("memory");
    let args = PrefillArgs {
        q: view(&q, Q),
        k: view(&k, KV),
        v: view(&v, KV),
        o: view_mut(&mut o, Q),
        lse: Some(TensorViewMut::contiguous(lse.as_view_mut(), [1, 3, 4]).expect("a view")),
        options: PrefillOptions::default(),
    };
    assert_eq!(
        gpu()
            .kernels
            .prefill(&gpu().stream, &Prefill::default(), args),
        Err(Error::ShapeMismatch {
            operand: "lse",
            axis: "heads",
            expected: 4,
            found: 3
        })
    );
}

#[test]
fn query_heads_must_divide_evenly_among_kv_heads() {
    let kv = [1, 5, 3, 64];
    assert_eq!(
        prefill(&Prefill::default(), Q, kv, kv, Q),
        Err(Error::HeadsNotDivisible {
            num_qo_heads: 4,
            num_kv_heads: 3
        })
    );
    let none = [1, 5, 0, 64];
    assert_eq!(
        prefill(&Prefill::default(), Q, none, none, Q),
        Err(Error::HeadsNotDivisible {
            num_qo_heads: 4,
            num_kv_heads: 0
        })
    );
}

#[test]
fn unsupported_head_dims_are_named() {
    for (head_dim, head_dim_v, axis, limit) in [
        (84, 64, "head_dim", 576),
        (584, 64, "head_dim", 576),
        (64, 520, "head_dim_v", 512),
    ] {
        let (q, o) = ([1, 3, 4, head_dim], [1, 3, 4, head_dim_v]);
        assert_eq!(
            prefill(&Prefill::default(), q, q, o, o),
            Err(Error::Unsupported(Unsupported::HeadDim {
                op: "prefill",
                axis,
                head_dim: head_dim.max(head_dim_v),
                multiple: 8,
                limit,
            }))
        );
    }
}

#[test]
fn options_without_meaning_are_refused() {
    let run = |op: Prefill| match prefill(&op, Q, KV, KV, Q) {
        Err(Error::InvalidOption { name, .. }) => name,
        other => panic!("{op:?} gave {other:?}"),
    };
    assert_eq!(
        run(Prefill {
            softcap: Some(0.0),
            ..Prefill::default()
        }),
        "softcap"
    );
    assert_eq!(
        run(Prefill {
            softcap: Some(f32::NAN),
            ..Prefill::default()
        }),
        "softcap"
    );
    assert_eq!(
        run(Prefill {
            softmax_scale: Some(f32::INFINITY),
            ..Prefill::default()
        }),
        "softmax_scale"
    );
    assert_eq!(
        prefill(
            &Prefill {
                mask: Mask::Causal,
                ..Prefill::default()
            },
            Q,
            KV,
            KV,
            Q
        ),
        Ok(())
    );

    let x = zeros(8);
    let w = zeros(8);
    let mut out = zeros(8);
    for eps in [-1e-6, f32::NAN] {
        let op = RmsNorm {
            eps,
            weight: WeightForm::Plain,
        };
        let result = gpu().kernels.rms_norm(
            &gpu().stream,
            &op,
            view(&x, [1, 8]),
            view(&w, [8]),
            view_mut(&mut out, [1, 8]),
        );
        assert!(
            matches!(result, Err(Error::InvalidOption { name: "eps", .. })),
            "{result:?}"
        );
    }
}

#[test]
fn rows_must_be_contiguous() {
    let data = zeros(64 * 4);
    let mut out = zeros(64);
    let strided = Layout::strided([1, 1, 1, 64], [256, 256, 256, 2], 0);
    let args = PrefillArgs {
        q: view(&data, [1, 1, 1, 64]),
        k: TensorView::new(data.as_view(), strided).expect("a view"),
        v: view(&data, [1, 1, 1, 64]),
        o: view_mut(&mut out, [1, 1, 1, 64]),
        lse: None,
        options: PrefillOptions::default(),
    };
    assert_eq!(
        gpu()
            .kernels
            .prefill(&gpu().stream, &Prefill::default(), args),
        Err(Error::LastDimensionStrided {
            operand: "k",
            stride: 2
        })
    );
}

#[test]
fn addresses_and_strides_must_be_aligned_to_the_vectors() {
    let data = zeros(1024);
    let mut out = zeros(256);
    let mut run = |layout: Layout<4>| {
        let shape = layout.shape();
        let args = PrefillArgs {
            q: TensorView::new(data.as_view(), layout).expect("a view"),
            k: view(&data, shape),
            v: view(&data, shape),
            o: view_mut(&mut out, shape),
            lse: None,
            options: PrefillOptions::default(),
        };
        gpu()
            .kernels
            .prefill(&gpu().stream, &Prefill::default(), args)
    };
    let by_address = run(Layout::strided([1, 1, 1, 64], [64, 64, 64, 1], 3));
    assert!(
        matches!(by_address, Err(Error::Misaligned { operand: "q", what: "address", required: 16, found }) if found % 16 == 6),
        "{by_address:?}"
    );
    assert_eq!(
        run(Layout::strided([1, 3, 1, 64], [64, 68, 64, 1], 0)),
        Err(Error::Misaligned {
            operand: "q",
            what: "stride of seqlen",
            required: 16,
            found: 136
        })
    );
}

#[test]
fn operands_of_another_context_are_refused() {
    // A context of its own, beside the device's primary one that the suite uses.
    let other = CudaContext::new_non_primary(0, 0).expect("a second context");
    let foreign_stream = other.new_stream().expect("a stream");
    let foreign = foreign_stream.alloc_zeros::<f16>(8).expect("memory");
    gpu().context.bind_to_thread().expect("the first context");
    let (x, w) = (zeros(8), zeros(8));
    let mut out = zeros(8);
    let op = RmsNorm {
        eps: 1e-6,
        weight: WeightForm::Plain,
    };
    let mut run = |stream: &_, x: &CudaSlice<f16>, w: &CudaSlice<f16>| {
        let out = view_mut(&mut out, [1, 8]);
        gpu()
            .kernels
            .rms_norm(stream, &op, view(x, [1, 8]), view(w, [8]), out)
    };
    let mismatch = |operand| Err(Error::ContextMismatch { operand });
    assert_eq!(run(&*gpu().stream, &x, &w), Ok(()));
    assert_eq!(run(&*foreign_stream, &x, &w), mismatch("stream"));
    assert_eq!(run(&*gpu().stream, &foreign, &w), mismatch("x"));
    assert_eq!(run(&*gpu().stream, &x, &foreign), mismatch("weight"));
}

#[test]
fn sequences_beyond_the_kernels_counters_are_refused() {
    // Stride 0 makes a huge tensor of a small buffer.
    let data = zeros(64);
    let mut out = zeros(64);
    let seqlen = 1usize << 30;
    let long = Layout::strided([1, seqlen, 1, 64], [0, 0, 0, 1], 0);
    let args = PrefillArgs {
        q: view(&data, [1, 1, 1, 64]),
        k: TensorView::new(data.as_view(), long).expect("a view"),
        v: TensorView::new(data.as_view(), long).expect("a view"),
        o: view_mut(&mut out, [1, 1, 1, 64]),
        lse: None,
        options: PrefillOptions::default(),
    };
    let result = gpu()
        .kernels
        .prefill(&gpu().stream, &Prefill::default(), args);
    assert!(
        matches!(result, Err(Error::TooLarge { operand: "k", axis: "seqlen", found, .. }) if found == seqlen),
        "{result:?}"
    );
}

#[test]
fn rms_norm_names_what_does_not_fit() {
    let op = RmsNorm {
        eps: 1e-6,
        weight: WeightForm::Plain,
    };
    let (x, w) = (zeros(64), zeros(64));
    let mut out = zeros(64);
    let mut run = |x_shape, w_shape: usize, out_shape| {
        let out = view_mut(&mut out, out_shape);
        gpu().kernels.rms_norm(
            &gpu().stream,
            &op,
            view(&x, x_shape),
            view(&w, [w_shape]),
            out,
        )
    };
    let mismatch = |operand, axis, expected, found| {
        Err(Error::ShapeMismatch {
            operand,
            axis,
            expected,
            found,
        })
    };
    assert_eq!(run([2, 8], 8, [2, 8]), Ok(()));
    assert_eq!(run([2, 8], 9, [2, 8]), mismatch("weight", "width", 8, 9));
    assert_eq!(run([2, 8], 8, [3, 8]), mismatch("out", "rows", 2, 3));
    assert_eq!(run([2, 8], 8, [2, 7]), mismatch("out", "width", 8, 7));
}

/// Which of the operands of a norm of `[2, 128]` are given, and of what shape.
#[derive(Default)]
struct NormShapes {
    weight: Option<usize>,
    bias: Option<usize>,
    gate: Option<[usize; 2]>,
    residual: Option<[[usize; 2]; 2]>,
    post: Option<usize>,
    scales: Option<[usize; 2]>,
}

fn norm<T: Element, O: Element>(op: &Norm, shapes: NormShapes) -> Result<(), Error> {
    let (spare, mut sums) = (zeros(2048), zeros(2048));
    let mut floats = gpu().stream.alloc_zeros::<f32>(64).expect("memory");
    let x = gpu().stream.alloc_zeros::<T>(256).expect("memory");
    let mut out = gpu().stream.alloc_zeros::<O>(256).expect("memory");
    let x = TensorView::contiguous(x.as_view(), [2, 128]).expect("a view");
    let mut out = TensorViewMut::contiguous(out.as_view_mut(), [2, 128]).expect("a view");
    let vector = |width: Option<usize>| width.map(|width| view(&spare, [width]));
    let (weight, bias, post) = (
        vector(shapes.weight),
        vector(shapes.bias),
        vector(shapes.post),
    );
    let gate = shapes.gate.map(|shape| view(&spare, shape));
    let residual_shapes = shapes.residual.unwrap_or_default();
    let residual = view(&spare, residual_shapes[0]);
    let mut sum = view_mut(&mut sums, residual_shapes[1]);
    let scales_shape = shapes.scales.unwrap_or_default();
    let scales = TensorViewMut::contiguous(floats.as_view_mut(), scales_shape).expect("a view");
    let args = NormArgs {
        rows: InOut::Apart {
            input: &x,
            output: &mut out,
        },
        weight: weight.as_ref().map(|view| view as _),
        bias: bias.as_ref().map(|view| view as _),
        gate: gate.as_ref().map(|view| view as _),
        residual: if shapes.residual.is_some() {
            Some(InOut::Apart {
                input: &residual,
                output: &mut sum,
            })
        } else {
            None
        },
        post: post.as_ref().map(|view| PostNorm { weight: Some(view) }),
        scales: shapes.scales.map(|_| scales),
    };
    gpu().kernels.norm(&gpu().stream, op, args)
}

#[test]
fn norm_names_the_operand_that_does_not_fit() {
    let op = Norm::default();
    let run = |shapes| norm::<f16, f16>(&op, shapes);
    let mismatch = |operand, axis, expected, found| {
        Err(Error::ShapeMismatch {
            operand,
            axis,
            expected,
            found,
        })
    };
    let none = NormShapes::default;
    assert_eq!(run(none()), Ok(()));
    let weight = Some(127);
    assert_eq!(
        run(NormShapes { weight, ..none() }),
        mismatch("weight", "width", 128, 127)
    );
    let bias = Some(129);
    assert_eq!(
        run(NormShapes { bias, ..none() }),
        mismatch("bias", "width", 128, 129)
    );
    let gate = Some([3, 128]);
    assert_eq!(
        run(NormShapes { gate, ..none() }),
        mismatch("gate", "rows", 2, 3)
    );
    let residual = Some([[2, 64], [2, 128]]);
    assert_eq!(
        run(NormShapes { residual, ..none() }),
        mismatch("residual", "width", 128, 64)
    );
    let residual = Some([[2, 128], [1, 128]]);
    assert_eq!(
        run(NormShapes { residual, ..none() }),
        mismatch("residual_out", "rows", 2, 1)
    );
    let (residual, post) = (Some([[2, 128]; 2]), Some(12));
    assert_eq!(
        run(NormShapes {
            residual,
            post,
            ..none()
        }),
        mismatch("post weight", "width", 128, 12)
    );
    let needed = |operand, requirement| {
        Err(Error::OperandMismatch {
            operand,
            requirement,
        })
    };
    let post = Some(128);
    assert_eq!(
        run(NormShapes { post, ..none() }),
        needed("residual", "must be given with a post-norm")
    );
    let scales = Some([2, 1]);
    let dynamic = "must be given exactly with a dynamic scale";
    assert_eq!(
        run(NormShapes { scales, ..none() }),
        needed("scales", dynamic)
    );
    let scaled = |scale| Norm {
        scale: Some(scale),
        ..op
    };
    assert_eq!(
        norm::<f16, i8>(&scaled(Scale::PerRow), none()),
        needed("scales", dynamic)
    );
    let scales = Some([2, 2]);
    assert_eq!(
        norm::<f16, i8>(&scaled(Scale::PerRow), NormShapes { scales, ..none() }),
        mismatch("scales", "groups", 1, 2)
    );
    let scales = Some([1, 2]);
    assert_eq!(
        norm::<f16, i8>(
            &scaled(Scale::PerGroup(64)),
            NormShapes { scales, ..none() }
        ),
        mismatch("scales", "rows", 2, 1)
    );
}

#[test]
fn norm_options_without_meaning_are_refused() {
    let op = Norm::default();
    let refused = |op: Norm| match norm::<f16, f16>(&op, NormShapes::default()) {
        Err(Error::InvalidOption { name, .. }) => name,
        other => panic!("{op:?} gave {other:?}"),
    };
    assert_eq!(refused(Norm { eps: -1.0, ..op }), "eps");
    for columns in [0, 129] {
        let columns = Some(columns);
        assert_eq!(refused(Norm { columns, ..op }), "columns");
    }
    let scaled = |scale| Norm {
        scale: Some(scale),
        ..op
    };
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        let result = norm::<f16, i8>(&scaled(Scale::Static(scale)), NormShapes::default());
        assert!(
            matches!(result, Err(Error::InvalidOption { name: "scale", .. })),
            "{scale}: {result:?}"
        );
    }
    assert_eq!(
        norm::<f16, i8>(&scaled(Scale::PerGroup(32)), NormShapes::default()),
        Err(Error::Unsupported(Unsupported::GroupSize {
            size: 32,
            supported: &[64, 128]
        }))
    );
    let dtype = |op, dtype| Err(Error::Unsupported(Unsupported::DType { op, dtype }));
    assert_eq!(
        norm::<i8, f16>(&op, NormShapes::default()),
        dtype("an input of norm", DType::I8)
    );
    assert_eq!(
        norm::<f16, i8>(&op, NormShapes::default()),
        dtype("norm without a scale", DType::I8)
    );
    assert_eq!(
        norm::<f16, f16>(&scaled(Scale::Static(1.0)), NormShapes::default()),
        dtype("norm with a scale", DType::F16)
    );
    let layer = Norm {
        statistics: Statistics::Deviation,
        ..op
    };
    let sandwich = NormShapes {
        residual: Some([[2, 128]; 2]),
        post: Some(128),
        ..NormShapes::default()
    };
    assert_eq!(
        norm::<f16, f16>(&layer, sandwich),
        Err(Error::Unsupported(Unsupported::Combination {
            op: "norm",
            first: "Statistics::Deviation",
            second: "a post-norm",
        }))
    );
}

/// Groups must divide the width, whose 128 columns are a number of all of them.
#[test]
fn groups_divide_the_width() {
    let (x, mut out) = (
        zeros(96),
        gpu().stream.alloc_zeros::<i8>(96).expect("memory"),
    );
    let mut floats = gpu().stream.alloc_zeros::<f32>(8).expect("memory");
    let x = view(&x, [1, 96]);
    let mut out = TensorViewMut::contiguous(out.as_view_mut(), [1, 96]).expect("a view");
    let scales = TensorViewMut::contiguous(floats.as_view_mut(), [1, 1]).expect("a view");
    let op = Norm {
        scale: Some(Scale::PerGroup(64)),
        ..Norm::default()
    };
    let rows = InOut::Apart {
        input: &x,
        output: &mut out,
    };
    let args = NormArgs {
        scales: Some(scales),
        ..NormArgs::new(rows, None)
    };
    let result = gpu().kernels.norm(&gpu().stream, &op, args);
    assert!(
        matches!(
            result,
            Err(Error::InvalidOption {
                name: "group size",
                ..
            })
        ),
        "{result:?}"
    );
}

#[test]
fn heads_of_q_and_k_must_fit_each_other() {
    let data = zeros(512);
    let floats = gpu().stream.alloc_zeros::<f32>(512).expect("memory");
    let run = |q: [usize; 3], k: [usize; 3], weights: [Option<usize>; 2], op: Norm| {
        let (mut q_data, mut k_data) = (zeros(512), zeros(512));
        let weights = weights.map(|width| width.map(|width| view(&data, [width])));
        let args = QkNormArgs {
            q: InOut::InPlace(&mut view_mut(&mut q_data, q)),
            k: InOut::InPlace(&mut view_mut(&mut k_data, k)),
            q_weight: weights[0].as_ref().map(|view| view as _),
            k_weight: weights[1].as_ref().map(|view| view as _),
        };
        gpu().kernels.qk_norm(&gpu().stream, &op, args)
    };
    let mismatch = |operand, axis, expected, found| {
        Err(Error::ShapeMismatch {
            operand,
            axis,
            expected,
            found,
        })
    };
    let (op, none) = (Norm::default(), [None; 2]);
    let (q, k) = ([2, 3, 16], [2, 1, 16]);
    assert_eq!(run(q, k, none, op), Ok(()));
    assert_eq!(run(q, [3, 1, 16], none, op), mismatch("k", "tokens", 2, 3));
    assert_eq!(
        run(q, [2, 1, 8], none, op),
        mismatch("k", "head_dim", 16, 8)
    );
    assert_eq!(
        run(q, k, [Some(16), Some(8)], op),
        mismatch("k_weight", "width", 16, 8)
    );
    assert_eq!(
        run(q, k, [Some(16), None], op),
        Err(Error::OperandMismatch {
            operand: "k_weight",
            requirement: "must be given exactly with q_weight",
        })
    );
    let mut q_data = zeros(512);
    let other = TensorView::contiguous(floats.as_view(), k).expect("a view");
    let mut k_out = zeros(512);
    let args = QkNormArgs {
        q: InOut::InPlace(&mut view_mut(&mut q_data, q)),
        k: InOut::Apart {
            input: &other,
            output: &mut view_mut(&mut k_out, k),
        },
        q_weight: None,
        k_weight: None,
    };
    assert_eq!(
        gpu().kernels.qk_norm(&gpu().stream, &op, args),
        Err(Error::DTypeMismatch {
            operand: "k",
            expected: DType::F16,
            found: DType::F32
        })
    );
}

#[test]
fn gradients_need_their_workspace() {
    let op = RmsNorm {
        eps: 1e-6,
        weight: WeightForm::Plain,
    };
    let run = |dw: usize, workspace: Option<usize>| {
        let (x, dy, mut dx, mut dw_data) = (zeros(256), zeros(256), zeros(256), zeros(256));
        let mut floats = gpu().stream.alloc_zeros::<f32>(256).expect("memory");
        let mut dw = view_mut(&mut dw_data, [dw]);
        let args = NormBackwardArgs {
            x: &view(&x, [2, 128]),
            weight: None,
            gradient: InOut::Apart {
                input: &view(&dy, [2, 128]),
                output: &mut view_mut(&mut dx, [2, 128]),
            },
            residual_gradient: None,
            weight_gradient: Some(&mut dw),
            workspace: workspace
                .map(|len| TensorViewMut::contiguous(floats.as_view_mut(), [len]).expect("a view")),
        };
        gpu().kernels.rms_norm_backward(&gpu().stream, &op, args)
    };
    assert_eq!(run(128, Some(128)), Ok(()));
    assert_eq!(
        run(128, Some(127)),
        Err(Error::TooSmall {
            operand: "workspace",
            found: 127,
            needed: 128
        })
    );
    assert_eq!(
        run(128, None),
        Err(Error::OperandMismatch {
            operand: "workspace",
            requirement: "must be given with weight_gradient",
        })
    );
    assert_eq!(
        run(64, Some(128)),
        Err(Error::ShapeMismatch {
            operand: "weight_gradient",
            axis: "width",
            expected: 128,
            found: 64
        })
    );
}

/// RoPE of `tokens` tokens with one head of 8 elements, against a table of four positions.
fn rope(op: &Rope, positions: &[i32], table: bool) -> Result<(), Error> {
    let stream = &gpu().stream;
    let positions = Positions::with_axes(stream, op.axes.count().max(1), positions)?;
    let mut q = zeros(64);
    let angles = stream.alloc_zeros::<f32>(4 * 2 * 4).expect("memory");
    let table = table.then(|| TensorView::contiguous(angles.as_view(), [4, 2, 4]).expect("a view"));
    let args = RopeArgs {
        table: table.map(RopeTable::F32),
        ..RopeArgs::new(view_mut(&mut q, [2, 1, 8]), None, &positions)
    };
    gpu().kernels.rope(stream, op, args)
}

#[test]
fn positions_must_exist() {
    let by_table = Rope {
        frequencies: Frequencies::Table,
        ..Rope::default()
    };
    assert_eq!(rope(&by_table, &[0, 3], true), Ok(()));
    assert_eq!(
        rope(&by_table, &[0, 4], true),
        Err(Error::PositionOutOfRange {
            index: 1,
            position: Number::Whole(4),
            limit: 4
        })
    );
    assert_eq!(
        rope(&Rope::default(), &[-1, 0], false),
        Err(Error::PositionOutOfRange {
            index: 0,
            position: Number::Whole(-1),
            limit: 1 << 36
        })
    );
    assert_eq!(
        rope(&Rope::default(), &[0, 1, 2], false),
        Err(Error::ShapeMismatch {
            operand: "positions",
            axis: "tokens",
            expected: 2,
            found: 3
        })
    );
}

#[test]
fn a_table_comes_exactly_with_table_frequencies() {
    assert_eq!(
        rope(&Rope::default(), &[0, 1], true),
        Err(Error::TableMismatch)
    );
    let by_table = Rope {
        frequencies: Frequencies::Table,
        ..Rope::default()
    };
    assert_eq!(rope(&by_table, &[0, 1], false), Err(Error::TableMismatch));
}

#[test]
fn rope_options_without_meaning_are_refused() {
    for rotary_dim in [0, 3, 10] {
        let op = Rope {
            rotary_dim: Some(rotary_dim),
            ..Rope::default()
        };
        assert_eq!(
            rope(&op, &[0, 1], false),
            Err(Error::Unsupported(Unsupported::RotaryDim {
                rotary_dim,
                head_dim: 8,
                limit: 512
            }))
        );
    }
    let offset = Rope {
        rotary_dim: Some(6),
        rotary_offset: 3,
        ..Rope::default()
    };
    assert_eq!(
        rope(&offset, &[0, 1], false),
        Err(Error::Unsupported(Unsupported::RotaryOffset {
            rotary_offset: 3,
            rotary_dim: 6,
            head_dim: 8
        }))
    );
    let invalid = |op: Rope| match rope(&op, &[0, 1], false) {
        Err(Error::InvalidOption { name, .. }) => name,
        other => panic!("{op:?} gave {other:?}"),
    };
    for (base, scale, name) in [
        (0.0, 1.0, "base"),
        (f64::NAN, 1.0, "base"),
        (1e4, f64::INFINITY, "scale"),
    ] {
        let frequencies = Frequencies::Base { base, scale };
        let op = Rope {
            frequencies,
            ..Rope::default()
        };
        assert_eq!(invalid(op), name);
    }
    for eps in [-1e-6, f32::NAN] {
        let norm = Some(QkNorm {
            eps,
            weight: WeightForm::Plain,
        });
        let op = Rope {
            norm,
            ..Rope::default()
        };
        assert_eq!(invalid(op), "eps");
    }
}

#[test]
fn rope_frequencies_and_axes_must_fit_the_pairs() {
    let mismatch = |op: Rope, positions: &[i32]| match rope(&op, positions, false) {
        Err(Error::ShapeMismatch { operand, axis, .. }) => (operand, axis),
        other => panic!("{op:?} gave {other:?}"),
    };
    let three = InvFreq::new(&[1.0; 3]).expect("finite");
    let op = Rope {
        frequencies: Frequencies::Explicit(three),
        ..Rope::default()
    };
    assert_eq!(mismatch(op, &[0, 1]), ("inv_freq", "pairs"));
    let by = |axes| Rope {
        axes,
        ..Rope::default()
    };
    let short = by(Axes::Sections(vec![1, 2]));
    assert_eq!(mismatch(short, &[0; 4]), ("sections", "pairs"));
    assert_eq!(
        rope(&by(Axes::Sections(vec![1, 3])), &[0; 4], false),
        Ok(())
    );
    let too_many = rope(&by(Axes::Sections(vec![0, 1, 1, 1, 1])), &[0; 10], false);
    assert!(
        matches!(too_many, Err(Error::InvalidOption { name: "axes", .. })),
        "{too_many:?}"
    );
    // One position for each token, and two axes.
    let stream = &gpu().stream;
    let positions = Positions::new(stream, &[0, 1]).expect("valid positions");
    let mut q = zeros(64);
    let args = RopeArgs::new(view_mut(&mut q, [2, 1, 8]), None, &positions);
    let two = by(Axes::Sections(vec![2, 2]));
    assert_eq!(
        gpu().kernels.rope(stream, &two, args),
        Err(Error::ShapeMismatch {
            operand: "positions",
            axis: "axes",
            expected: 2,
            found: 1
        })
    );
}

#[test]
fn real_positions_go_with_frequencies_below_half_a_turn() {
    let stream = &gpu().stream;
    let positions = Positions::new(stream, &[0.5, 1.5]).expect("valid positions");
    let run = |frequencies| {
        let mut q = zeros(64);
        let op = Rope {
            frequencies,
            ..Rope::default()
        };
        let args = RopeArgs::new(view_mut(&mut q, [2, 1, 8]), None, &positions);
        gpu().kernels.rope(stream, &op, args)
    };
    let base = |scale| Frequencies::Base { base: 1e4, scale };
    assert_eq!(run(base(3.0)), Ok(()));
    let fast = run(base(3.2));
    assert!(
        matches!(
            fast,
            Err(Error::InvalidOption {
                name: "inv_freq",
                ..
            })
        ),
        "{fast:?}"
    );
    let table = Unsupported::Combination {
        op: "rope",
        first: "real positions",
        second: "Frequencies::Table",
    };
    assert_eq!(run(Frequencies::Table), Err(table.into()));
}

/// RoPE of two tokens with one head of 8 elements each for q and k, with a cache of two pages of one token.
fn fused(
    change: impl for<'a> FnOnce(&mut RopeArgs<'a, f16>, &mut Rope, &'a CudaSlice<f16>),
) -> Result<(), Error> {
    let stream = &gpu().stream;
    let positions = Positions::range(0, 2).expect("positions");
    let slots = Slots::new(stream, &[Some(1), None]).expect("slots");
    let (mut q, k, v, other) = (zeros(16), zeros(16), zeros(16), zeros(64));
    let (mut k_pages, mut v_pages) = (zeros(16), zeros(16));
    let mut op = Rope::default();
    let mut args = RopeArgs {
        k: Some(Heads::ToCache(view(&k, [2, 1, 8]))),
        cache: Some(CacheWrite {
            v: view(&v, [2, 1, 8]),
            pages: KvPages::Same {
                k: view_mut(&mut k_pages, [2, 1, 1, 8]),
                v: view_mut(&mut v_pages, [2, 1, 1, 8]),
            },
            layout: PageLayout::Nhd,
            slots: &slots,
        }),
        ..RopeArgs::new(view_mut(&mut q, [2, 1, 8]), None, &positions)
    };
    change(&mut args, &mut op, &other);
    gpu().kernels.rope(stream, &op, args)
}

#[test]
fn fused_rope_names_what_does_not_fit() {
    let mismatch = |operand, axis, expected, found| {
        Err(Error::ShapeMismatch {
            operand,
            axis,
            expected,
            found,
        })
    };
    assert_eq!(fused(|_, _, _| ()), Ok(()));
    let v = fused(|args, _, other| {
        if let Some(cache) = &mut args.cache {
            cache.v = view(other, [2, 2, 8]);
        }
    });
    assert_eq!(v, mismatch("v", "heads", 1, 2));
    let pages = fused(|args, _, _| {
        if let Some(cache) = &mut args.cache {
            cache.layout = PageLayout::Hnd;
        }
    });
    // Axes of one element each may change places.
    assert_eq!(pages, Ok(()));
    let k = fused(|args, _, other| {
        args.k = Some(Heads::ToCache(view(other, [2, 4, 8])));
    });
    assert_eq!(k, mismatch("v", "heads", 4, 1));
    let weight = |op: &mut Rope, norm: bool| {
        op.norm = norm.then_some(QkNorm {
            eps: 1e-6,
            weight: WeightForm::Plain,
        });
    };
    let short = fused(|args, op, other| {
        weight(op, true);
        args.weights = Some(NormWeights {
            q: Some(view(other, [7])),
            k: None,
        });
    });
    assert_eq!(short, mismatch("q weight", "head_dim", 8, 7));
    let unused = fused(|args, op, other| {
        weight(op, false);
        args.weights = Some(NormWeights {
            q: None,
            k: Some(view(other, [8])),
        });
    });
    assert_eq!(
        unused,
        Err(Error::OperandUnused {
            operand: "k weight",
            option: "no norm is asked for"
        })
    );
    let missing = |operand, option| Err(Error::OperandMissing { operand, option });
    let no_cache = fused(|args, _, _| args.cache = None);
    assert_eq!(no_cache, missing("cache", "k goes there only"));
    let no_k = fused(|args, _, _| args.k = None);
    assert_eq!(no_k, missing("k", "the cache is written"));
    let no_q = fused(|args, _, other| args.q = Heads::ToCache(view(other, [2, 1, 8])));
    assert_eq!(no_q, missing("q out", "queries are not cached"));
}

#[test]
fn scales_must_divide() {
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-45] {
        let stream = &gpu().stream;
        let positions = Positions::range(0, 1).expect("positions");
        let slots = Slots::new(stream, &[Some(0)]).expect("slots");
        let (mut q, k) = (zeros(8), zeros(8));
        let pages = || stream.alloc_zeros::<F8E4M3>(8).expect("memory");
        let (mut k_pages, mut v_pages) = (pages(), pages());
        let of = |data| TensorViewMut::contiguous(data, [1, 1, 1, 8]).expect("a view");
        let args = RopeArgs {
            k: Some(Heads::ToCache(view(&k, [1, 1, 8]))),
            cache: Some(CacheWrite {
                v: view(&k, [1, 1, 8]),
                pages: KvPages::E4M3(QuantisedPages {
                    k: of(k_pages.as_view_mut()),
                    v: of(v_pages.as_view_mut()),
                    k_scale: CacheScale::Tensor(1.0),
                    v_scale: CacheScale::Tensor(scale),
                }),
                layout: PageLayout::Nhd,
                slots: &slots,
            }),
            ..RopeArgs::new(view_mut(&mut q, [1, 1, 8]), None, &positions)
        };
        let result = gpu().kernels.rope(stream, &Rope::default(), args);
        assert!(
            matches!(
                result,
                Err(Error::InvalidOption {
                    name: "v scale",
                    ..
                })
            ),
            "{scale}: {result:?}"
        );
    }
}

#[test]
fn heads_too_long_to_move_whole_are_refused() {
    let stream = &gpu().stream;
    let positions = Positions::range(0, 1).expect("positions");
    let (x, mut out) = (zeros(4104), zeros(4104));
    let op = Rope {
        rotary_dim: Some(64),
        ..Rope::default()
    };
    let shape = [1, 1, 4104];
    let heads = Heads::Into {
        x: view(&x, shape),
        out: view_mut(&mut out, shape),
    };
    let args = RopeArgs::new(heads, None, &positions);
    assert_eq!(
        gpu().kernels.rope(stream, &op, args),
        Err(Error::Unsupported(Unsupported::HeadTooLong {
            op: "rope",
            head_dim: 4104,
            limit: 4096
        }))
    );
    let args = RopeArgs::new(view_mut(&mut out, shape), None, &positions);
    assert_eq!(gpu().kernels.rope(stream, &op, args), Ok(()));
}

#[test]
fn rows_longer_than_the_device_keeps_are_refused() {
    let stream = &gpu().stream;
    // Of an odd width, so that single elements are accessed: of those no GPU keeps as many.
    let width = (1 << 24) + 1;
    let (x, weight, mut out) = (zeros(width), zeros(width), zeros(width));
    let op = RmsNorm {
        eps: 1e-6,
        weight: WeightForm::Plain,
    };
    let result = gpu().kernels.rms_norm(
        stream,
        &op,
        view(&x, [1, width]),
        view(&weight, [width]),
        view_mut(&mut out, [1, width]),
    );
    let Err(Error::Unsupported(Unsupported::RowTooLong {
        width: found,
        limit,
    })) = result
    else {
        panic!("{result:?}");
    };
    assert_eq!(found, width);
    assert!((262_144..width).contains(&limit), "{limit}");
}

#[test]
fn views_outside_their_buffer_cannot_be_made() {
    let mut data = zeros(10);
    let read = TensorView::new(data.as_view(), Layout::strided([2, 4], [6, 1], 1)).map(|_| ());
    assert_eq!(
        read,
        Err(LayoutError::OutOfBounds {
            span: 11,
            buffer: 10
        })
    );
    let huge = Layout::strided([usize::MAX, 4], [usize::MAX / 2, 1], 1);
    assert_eq!(
        TensorView::new(data.as_view(), huge).map(|_| ()),
        Err(LayoutError::Overflow)
    );
    let overlapping = Layout::strided([2, 4], [3, 1], 0);
    assert!(
        TensorView::new(data.as_view(), overlapping).is_ok(),
        "reading twice is fine"
    );
    assert_eq!(
        TensorViewMut::new(data.as_view_mut(), overlapping).map(|_| ()),
        Err(LayoutError::Overlapping {
            shape: vec![2, 4],
            strides: vec![3, 1]
        })
    );
    let layout_error: Error = LayoutError::Overflow.into();
    assert_eq!(layout_error.to_string(), LayoutError::Overflow.to_string());
}

#[test]
fn driver_errors_are_passed_on() {
    let refused = gpu()
        .stream
        .alloc_zeros::<u8>(1 << 50)
        .map(|_| ())
        .map_err(Error::from);
    let out_of_memory = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(refused, Err(Error::Driver(out_of_memory)));
}

#[test]
fn nothing_to_do_is_no_error() {
    let op = Prefill::default();
    let none = |qo: [usize; 4], kv: [usize; 4]| prefill(&op, qo, kv, kv, qo);
    assert_eq!(none([0, 3, 4, 64], [0, 5, 2, 64]), Ok(()), "no batch");
    assert_eq!(none([1, 0, 4, 64], KV), Ok(()), "no queries");
    assert_eq!(none([1, 3, 0, 64], [1, 5, 0, 64]), Ok(()), "no heads");
    assert_eq!(none([1, 3, 0, 64], KV), Ok(()), "no query heads");

    let op = RmsNorm {
        eps: 1e-6,
        weight: WeightForm::Plain,
    };
    for (rows, width) in [(0, 8), (8, 0), (0, 0)] {
        let (x, w) = (zeros(1), zeros(8));
        let mut out = zeros(1);
        let out = view_mut(&mut out, [rows, width]);
        let result = gpu().kernels.rms_norm(
            &gpu().stream,
            &op,
            view(&x, [rows, width]),
            view(&w, [width]),
            out,
        );
        assert_eq!(result, Ok(()), "{rows} rows of {width}");
    }

    for (tokens, heads) in [(0, 1), (2, 0)] {
        let positions = Positions::new(&gpu().stream, &vec![5; tokens]).expect("valid positions");
        let mut q = zeros(1);
        let args = RopeArgs::new(view_mut(&mut q, [tokens, heads, 8]), None, &positions);
        let result = gpu().kernels.rope(&gpu().stream, &Rope::default(), args);
        assert_eq!(result, Ok(()), "{tokens} tokens of {heads} heads");
    }
}

/// A query without keys is not nothing: its row is zero, and its log-sum-exp -inf.
#[test]
fn queries_without_keys_give_zero() {
    let shape = [1, 3, 4, 64];
    let (q, kv) = (zeros(768), zeros(1));
    let mut o = gpu().stream.clone_htod(&[f16::ONE; 768]).expect("memory");
    let mut lse = gpu().stream.alloc_zeros::<f32>(12).expect("memory");
    let args = PrefillArgs {
        q: view(&q, shape),
        k: view(&kv, [1, 0, 2, 64]),
        v: view(&kv, [1, 0, 2, 64]),
        o: view_mut(&mut o, shape),
        lse: Some(TensorViewMut::contiguous(lse.as_view_mut(), [1, 4, 3]).expect("a view")),
        options: PrefillOptions::default(),
    };
    gpu()
        .kernels
        .prefill(&gpu().stream, &Prefill::default(), args)
        .expect("a launch");
    let o = gpu().stream.clone_dtoh(&o).expect("download");
    let lse = gpu().stream.clone_dtoh(&lse).expect("download");
    assert!(o.iter().all(|&x| x == f16::ZERO));
    assert!(lse.iter().all(|&x| x == f32::NEG_INFINITY));
}
