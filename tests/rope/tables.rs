//! Tables that our own kernel fills.

use ferroflash::rope::scaling;
use ferroflash::{
    Axes, Float, Frequencies, Layout, Positions, Rope, RopeArgs, RopeTable, TensorViewMut,
};
use half::{bf16, f16};

use crate::common::gpu;
use crate::common::{Arrangement, Host, arrangement, normal};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

fn op(rotary_dim: usize) -> Rope {
    let yarn = scaling::yarn(1e4, rotary_dim, &scaling::Yarn::new(16.0, 4096));
    Rope {
        frequencies: Frequencies::Explicit(yarn.expect("valid")),
        ..Rope::default()
    }
}

/// Entries against f64, for widths with and without whole chunks, at the start and far out.
fn entries_are_exact<T: Float>() {
    let stream = &gpu().stream;
    let mut runner = TestRunner::deterministic();
    for (pairs, positions, first) in [(64, 5, 0), (3, 9, 1000), (20, 3, 2_000_000_000)] {
        let drawn = arrangement(3, 1).new_tree(&mut runner).expect("a layout");
        let arrangement: Arrangement = drawn.current();
        let shape = [positions, 2, pairs];
        let host = Host::<T, 3>::new(&arrangement, shape, T::from_f64(-7.0), || 0.5);
        let mut data = host.upload();
        let op = op(2 * pairs);
        gpu()
            .kernels
            .rope_table(stream, &op, first, host.view_mut(&mut data))
            .expect("a launch");
        let got = host.download(&data).expect("only the table");
        let Frequencies::Explicit(frequencies) = &op.frequencies else {
            unreachable!()
        };
        for (index, got) in got.iter().enumerate() {
            let (pair, part) = (index % pairs, index / pairs % 2);
            let position = first + index / (2 * pairs);
            let radians = frequencies.radians().nth(pair).expect("a pair");
            let angle = position as f64 * radians;
            let value = if part == 0 { angle.cos() } else { angle.sin() };
            let want = frequencies.attention_factor() * value;
            // One rounding to T, a few of f32, and what f64 does to the angle.
            let (got, rounded) = (got.to_f64(), T::from_f64(want).to_f64());
            let step = (T::from_f64(want * 1.01 + 1e-6).to_f64() - rounded)
                .abs()
                .min(0.02);
            let bound = 4e-7 + angle * f64::EPSILON + if size_of::<T>() == 4 { 0.0 } else { step };
            assert!(
                (got - want).abs() <= bound,
                "{position} {pair}: {got}, {want}"
            );
        }
    }
}

#[test]
fn tables_are_exact() {
    entries_are_exact::<f32>();
    entries_are_exact::<f16>();
    entries_are_exact::<bf16>();
}

/// Reading an f32 table is computing the angles, bit for bit.
#[test]
fn a_table_gives_what_computing_gives() {
    let stream = &gpu().stream;
    let (positions, dim) = (40, 32);
    let base = op(dim);
    let mut table = stream.alloc_zeros::<f32>(positions * dim).expect("memory");
    let shape = [positions, 2, dim / 2];
    let view = TensorViewMut::contiguous(table.as_view_mut(), shape).expect("a view");
    gpu()
        .kernels
        .rope_table(stream, &base, 0, view)
        .expect("a launch");
    let mut draw = normal(5, 1.0);
    let x: Vec<f32> = (0..positions * dim).map(|_| draw() as f32).collect();
    let range = Positions::range(0, positions).expect("positions");
    let run = |op: &Rope, table: Option<RopeTable<'_>>| {
        let mut q = stream.clone_htod(&x).expect("memory");
        let view = TensorViewMut::contiguous(q.as_view_mut(), [positions, 1, dim]);
        let args = RopeArgs {
            table,
            ..RopeArgs::new(view.expect("a view"), None, &range)
        };
        gpu().kernels.rope(stream, op, args).expect("a launch");
        stream.clone_dtoh(&q).expect("download")
    };
    let by_table = Rope {
        frequencies: Frequencies::Table,
        ..base.clone()
    };
    let layout = Layout::contiguous(shape);
    let view = ferroflash::TensorView::new(table.as_view(), layout).expect("a view");
    assert_eq!(run(&base, None), run(&by_table, Some(view.into())));
}

#[test]
fn tables_that_cannot_be_made_are_refused() {
    use ferroflash::{Error, Unsupported};
    let stream = &gpu().stream;
    let mut data = stream.alloc_zeros::<f32>(4096).expect("memory");
    let mut run = |op: &Rope, first, shape| {
        let view = TensorViewMut::contiguous(data.as_view_mut(), shape).expect("a view");
        gpu().kernels.rope_table(stream, op, first, view)
    };
    let plain = Rope::default();
    assert_eq!(run(&plain, 0, [3, 2, 8]), Ok(()));
    assert_eq!(run(&plain, 0, [0, 2, 8]), Ok(()));
    let parts = run(&plain, 0, [3, 1, 8]);
    assert!(
        matches!(parts, Err(Error::ShapeMismatch { axis: "parts", .. })),
        "{parts:?}"
    );
    let wide = run(&plain, 0, [1, 2, 300]);
    assert!(
        matches!(wide, Err(Error::Unsupported(Unsupported::RotaryDim { .. }))),
        "{wide:?}"
    );
    let far = run(&plain, 1 << 36, [1, 2, 8]);
    assert!(matches!(far, Err(Error::TooLarge { .. })), "{far:?}");
    let table = Rope {
        frequencies: Frequencies::Table,
        ..Rope::default()
    };
    assert_eq!(run(&table, 0, [3, 2, 8]), Err(Error::TableMismatch));
    let axes = Rope {
        axes: Axes::Sections(vec![3, 4]),
        ..Rope::default()
    };
    let sections = run(&axes, 0, [3, 2, 8]);
    assert!(
        matches!(
            sections,
            Err(Error::ShapeMismatch {
                operand: "sections",
                ..
            })
        ),
        "{sections:?}"
    );
}
