//! What must hold between calls: a row's bits do not depend on the batch around it; offsets past 2³¹ elements.

use crate::case::{Case, Storage, case};
use crate::common::{assert_same_bits, enter, gpu, mode};
use crate::inputs::Inputs;
use crate::run::{Output, run};
use ferroflash::{
    Bias, DType, Float, Layout, Mask, Prefill, PrefillArgs, PrefillOptions, TensorView,
    TensorViewMut,
};
use half::{bf16, f16};
use proptest::prelude::*;

/// The part of each request of a call's output.
fn requests<T: Float>(case: &Case, output: &Output<T>) -> Vec<Output<T>> {
    let (mut rows, mut parts) = (0, Vec::new());
    for [sq, _] in case.requests() {
        let heads = case.qo_heads();
        let part = |width: usize| rows * heads * width..(rows + sq) * heads * width;
        parts.push(Output {
            o: output.o[part(case.head_dim_v)].to_vec(),
            lse: output.lse.as_ref().map(|lse| lse[part(1)].to_vec()),
        });
        rows += sq;
    }
    parts
}

/// The bits of each request in a batch, in the batch in reverse with a long request more, and alone.
fn is_invariant<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let whole = Inputs::<T>::new(case);
    let together = requests(case, &run(case, &whole)?);
    let mut reversed = case.clone();
    reversed.lengths.reverse();
    reversed.lengths.push([150, 90]);
    let turned = requests(&reversed, &run(&reversed, &whole.reversed_with(&reversed))?);
    for (r, part) in together.iter().enumerate() {
        let mut alone = case.clone();
        alone.lengths = vec![case.lengths[r]];
        let alone = run(&alone, &whole.only(r))?;
        for other in [&alone, &turned[together.len() - 1 - r]] {
            assert_same_bits(&part.o, &other.o)?;
            let lse = |output: &Output<T>| output.lse.clone().unwrap_or_default();
            assert_same_bits(&lse(part), &lse(other))?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::common::cases(8), ..ProptestConfig::default() })]

    #[test]
    fn the_bits_of_a_row_do_not_depend_on_the_batch(
        mode in mode(),
        case in case(1_000_000),
        packed in any::<bool>(),
    ) {
        let mut case = case;
        // Options that belong to a place in the batch have tests of their own.
        case.options.alibi = None;
        case.options.bias = None;
        case.options.bits = None;
        case.options.blocks = None;
        if case.op.mask == Mask::PrefixLm {
            case.op.mask = Mask::Causal;
        }
        if packed || matches!(case.storage, Storage::Dense { .. }) {
            case.storage = Storage::Packed;
        }
        let _mode = enter(mode);
        match case.dtype {
            DType::F16 => is_invariant::<f16>(&case)?,
            DType::BF16 => is_invariant::<bf16>(&case)?,
            _ => is_invariant::<f32>(&case)?,
        }
    }
}

/// Axes whose strides take offsets past 2³¹ and 2³² elements, over one buffer of which little is touched.
#[test]
fn offsets_have_64_bits() {
    let stream = &gpu().stream;
    let far = (1usize << 31) + 64;
    let shape = [2, 2, 2, 64];
    // Batch, seqlen and heads far apart, one at a time, and all of it past 2³¹.
    let near = [512, 128, 64, 1];
    for axis in 0..3 {
        let mut strides = near;
        strides[axis] = far;
        let layout = Layout::strided(shape, strides, 0);
        let span = layout.span().expect("a layout");
        let Ok(mut buffer) = alloc(span) else {
            println!("no memory for {span} elements");
            return;
        };
        let row = |b: usize, s: usize, h: usize| [f16::from_f64((b * 4 + s * 2 + h) as f64); 64];
        for [b, s, h] in crate::common::indices([2, 2, 2]) {
            let at = layout.position([b, s, h, 0]);
            let mut to = buffer.slice_mut(at..at + 64);
            stream.memcpy_htod(&row(b, s, h), &mut to).expect("a copy");
        }
        let mut out = alloc(span).expect("as much again");
        let tensor = || TensorView::new(buffer.as_view(), layout).expect("a view");
        let zero = stream.alloc_zeros::<f16>(64).expect("memory");
        let still = Layout::strided(shape, [0, 0, 0, 1], 0);
        let args = PrefillArgs {
            q: tensor(),
            // Logits of 0: every row is the mean of v.
            k: TensorView::new(zero.as_view(), still).expect("a view"),
            v: tensor(),
            o: TensorViewMut::new(out.as_view_mut(), layout).expect("a view"),
            lse: None,
            options: PrefillOptions::default(),
        };
        let op = Prefill::default();
        gpu().kernels.prefill(stream, &op, args).expect("a launch");
        for [b, s, h] in crate::common::indices([2, 2, 2]) {
            let at = layout.position([b, s, h, 0]);
            let got = stream.clone_dtoh(&out.slice(at..at + 64)).expect("a copy");
            let mean = f16::from_f64((b * 4 + h) as f64 + 1.0);
            assert_eq!(got, [mean; 64], "axis {axis}, row {:?}", [b, s, h]);
        }
    }
}

/// A triangle of bias under a causal mask, in memory of which the rest was never written.
#[test]
fn the_bias_of_keys_out_of_sight_is_not_read() {
    let stream = &gpu().stream;
    for (head_dim, head_dim_v) in [(64, 64), (128, 128), (256, 256), (576, 512)] {
        let tokens = 70;
        let mut bias = alloc(tokens * tokens).expect("memory");
        for row in 0..tokens {
            let mut seen = bias.slice_mut(row * tokens..row * tokens + row + 1);
            let zeros = vec![f16::ZERO; row + 1];
            stream.memcpy_htod(&zeros, &mut seen).expect("a copy");
        }
        let ones = |width: usize| stream.clone_htod(&vec![f16::ONE; tokens * width]);
        let (qk, v) = (
            ones(head_dim).expect("memory"),
            ones(head_dim_v).expect("memory"),
        );
        let mut o = alloc(tokens * head_dim_v).expect("memory");
        let tensor = |data, width| {
            TensorView::<f16, 4>::contiguous(data, [1, tokens, 1, width]).expect("a view")
        };
        let args = PrefillArgs {
            q: tensor(qk.as_view(), head_dim),
            k: tensor(qk.as_view(), head_dim),
            v: tensor(v.as_view(), head_dim_v),
            o: TensorViewMut::contiguous(o.as_view_mut(), [1, tokens, 1, head_dim_v])
                .expect("a view"),
            lse: None,
            options: PrefillOptions {
                bias: Some(Bias::F16(
                    TensorView::contiguous(bias.as_view(), [1, 1, tokens, tokens]).expect("a view"),
                )),
                ..PrefillOptions::default()
            },
        };
        let op = Prefill {
            mask: Mask::Causal,
            ..Prefill::default()
        };
        gpu().kernels.prefill(stream, &op, args).expect("a launch");
        let got = stream.clone_dtoh(&o).expect("no report");
        assert_eq!(got, vec![f16::ONE; tokens * head_dim_v], "{head_dim}");
    }
}

/// Memory that is not touched before it is used: allocating it costs nothing on the emulator.
#[allow(unsafe_code)]
fn alloc(len: usize) -> Result<cudarc::driver::CudaSlice<f16>, cudarc::driver::DriverError> {
    // SAFETY: f16 has no invalid bits, and the caller reads only what it wrote.
    unsafe { gpu().stream.alloc(len) }
}
