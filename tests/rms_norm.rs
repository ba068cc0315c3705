//! RMSNorm against the f64 reference, on drawn shapes, layouts and options.

mod common;

use common::{
    Arrangement, Host, arrangement, assert_same_bits, enter, fail, gpu, in_every_mode, mode, normal,
};
use ferroflash::reference::{self, Exact, Rounded};
use ferroflash::{DType, Float, Layout, RmsNorm, WeightForm};
use half::{bf16, f16};
use proptest::prelude::*;

/// One drawn call; without `out` it is in place.
#[derive(Debug, Clone)]
struct Case {
    op: RmsNorm,
    rows: usize,
    width: usize,
    x: Arrangement,
    weight: Arrangement,
    out: Option<Arrangement>,
    spread: f64,
    seed: u64,
}

/// Widths around the edges of what threads hold, aligned and not.
fn width() -> impl Strategy<Value = usize> {
    let edge = (
        0..=2usize,
        prop::sample::select(vec![
            8usize, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
        ]),
        1..=2usize,
    )
        .prop_map(|(offset, unit, count)| unit * count + offset - 1);
    prop_oneof![
        2 => 1..64usize,
        2 => (1..64usize).prop_map(|n| 8 * n),
        3 => (1..512usize).prop_map(|n| 8 * n),
        2 => edge,
        1 => 1..20_000usize,
        1 => (1000..2600usize).prop_map(|n| 8 * n),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let op = (
        prop::sample::select(vec![0.0f32, 1e-6, 1e-5, 1.0]),
        any::<bool>(),
    )
        .prop_map(|(eps, one)| RmsNorm {
            eps,
            weight: if one {
                WeightForm::OnePlus
            } else {
                WeightForm::Plain
            },
        });
    let unit = prop::sample::select(vec![8usize, 8, 8, 4, 1]);
    unit.prop_flat_map(move |unit| {
        (
            op.clone(),
            1..20usize,
            width(),
            arrangement(2, unit),
            arrangement(1, unit),
            prop::option::of(arrangement(2, unit)),
            prop::sample::select(vec![1.0, 1.0, 1e-4, 1e4, 1e-3]),
            any::<u64>(),
        )
    })
    .prop_map(|(op, rows, width, x, weight, out, spread, seed)| Case {
        op,
        rows: if width > 4096 { rows.min(3) } else { rows },
        width,
        x,
        weight,
        out,
        spread,
        seed,
    })
}

fn passes<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let shape = [case.rows, case.width];
    let nan = T::from_f64(f64::NAN);
    let mut x = Host::<T, 2>::new(&case.x, shape, nan, normal(case.seed, case.spread));
    if case.out.is_none() {
        // The gaps are canaries then, and NaN is not equal to itself.
        x.data
            .iter_mut()
            .filter(|x| x.to_f64().is_nan())
            .for_each(|x| *x = T::from_f64(-77.0));
    }
    let weight = Host::<T, 1>::new(&case.weight, [case.width], nan, normal(case.seed ^ 1, 1.0));
    let out = case
        .out
        .as_ref()
        .map(|at| Host::<T, 2>::new(at, shape, T::from_f64(-77.0), || 55.0));
    let run = || -> Result<Vec<T>, TestCaseError> {
        let mut x_data = x.upload();
        let w_data = weight.upload();
        match &out {
            Some(out) => {
                let mut o_data = out.upload();
                gpu()
                    .kernels
                    .rms_norm(
                        &gpu().stream,
                        &case.op,
                        x.view(&x_data),
                        weight.view(&w_data),
                        out.view_mut(&mut o_data),
                    )
                    .map_err(fail)?;
                out.download(&o_data)
            }
            None => {
                gpu()
                    .kernels
                    .rms_norm_in_place(
                        &gpu().stream,
                        &case.op,
                        x.view_mut(&mut x_data),
                        weight.view(&w_data),
                    )
                    .map_err(fail)?;
                x.download(&x_data)
            }
        }
    };
    let got = run()?;
    assert_same_bits(&got, &run()?)?;
    let exact = reference::rms_norm::<Exact, T>(&case.op, &x.tensor(), &weight.tensor());
    let low = reference::rms_norm::<Rounded<T>, T>(&case.op, &x.tensor(), &weight.tensor());
    let values: Vec<f64> = got.iter().map(|x| x.to_f64()).collect();
    reference::check(&values, exact.data(), low.data()).map_err(fail)?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(80), ..ProptestConfig::default() })]
    #[test]
    fn rms_norm_is_as_exact_as_the_rule_demands(mode in mode(), case in case(), dtype in prop::sample::select(DType::ALL.to_vec())) {
        let _mode = enter(mode);
        match dtype {
            DType::BF16 => passes::<bf16>(&case)?,
            DType::F16 => passes::<f16>(&case)?,
            _ => passes::<f32>(&case)?,
        }
    }
}

#[test]
fn rms_norm_is_as_exact_in_every_mode() {
    let dtype = prop::sample::select(DType::ALL.to_vec());
    in_every_mode((case(), dtype), |(case, dtype)| match dtype {
        DType::BF16 => passes::<bf16>(case),
        DType::F16 => passes::<f16>(case),
        _ => passes::<f32>(case),
    });
}

/// One call on row-major rows that are all of one width, held to the rule.
fn rows_pass<T: Float>(op: &RmsNorm, rows: &[Vec<f64>]) {
    let width = rows[0].len();
    let x: Vec<T> = rows.iter().flatten().map(|&x| T::from_f64(x)).collect();
    let weight = vec![T::from_f64(0.75); width];
    let (x_layout, weight_layout) = (
        Layout::contiguous([rows.len(), width]),
        Layout::contiguous([width]),
    );
    let x = Host {
        data: x,
        layout: x_layout,
    };
    let weight = Host {
        data: weight,
        layout: weight_layout,
    };
    let (x_data, weight_data) = (x.upload(), weight.upload());
    let mut out_data = x.upload();
    let (x_view, weight_view) = (x.view(&x_data), weight.view(&weight_data));
    let out = x.view_mut(&mut out_data);
    gpu()
        .kernels
        .rms_norm(&gpu().stream, op, x_view, weight_view, out)
        .expect("a launch");
    let got = x.download(&out_data).expect("nothing beside the output");
    let got: Vec<f64> = got.iter().map(|x| x.to_f64()).collect();
    let exact = reference::rms_norm::<Exact, T>(op, &x.tensor(), &weight.tensor());
    let low = reference::rms_norm::<Rounded<T>, T>(op, &x.tensor(), &weight.tensor());
    if let Err(mismatch) = reference::check(&got, exact.data(), low.data()) {
        panic!("{} of width {width}, {op:?}: {mismatch}", T::DTYPE);
    }
}

/// Rows at the ends of what a type can hold: nothing may overflow or vanish on the way, and what is not
/// finite must come out as arithmetic has it.
fn extremes_pass<T: Float>(max: f64, smallest: f64) {
    for width in [1usize, 3, 8, 64, 200, 1032, 4099, 33000] {
        // The large value stands in several columns: the yardstick needs more than one sample.
        let row = |large: f64, rest: f64| -> Vec<f64> {
            let rest = |i: usize| rest * (1.0 - 0.5 * (i % 3) as f64);
            (0..width)
                .map(|i| {
                    if i % 7 == width / 2 % 7 {
                        large
                    } else {
                        rest(i)
                    }
                })
                .collect()
        };
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        let rows = [
            row(max, max),
            row(max, 1.0),
            row(max / 3.0, 0.0),
            row(1.0, 1.0),
            row(1e-5, 1e-5),
            row(smallest * 64.0, smallest * 128.0),
            row(smallest, smallest),
            row(0.0, 0.0),
            row(nan, 1.0),
            row(inf, 1.0),
            row(-inf, max),
        ];
        for (eps, weight) in [
            (0.0, WeightForm::Plain),
            (1e-6, WeightForm::OnePlus),
            (1e-40, WeightForm::Plain),
            (f32::MAX, WeightForm::OnePlus),
        ] {
            rows_pass::<T>(&RmsNorm { eps, weight }, &rows);
        }
    }
}

#[test]
fn rows_at_the_ends_of_f16() {
    extremes_pass::<f16>(65504.0, f16::MIN_POSITIVE_SUBNORMAL.to_f64());
}

#[test]
fn rows_at_the_ends_of_bf16() {
    extremes_pass::<bf16>(bf16::MAX.to_f64(), bf16::MIN_POSITIVE_SUBNORMAL.to_f64());
}

#[test]
fn rows_at_the_ends_of_f32() {
    extremes_pass::<f32>(f32::MAX.into(), f32::from_bits(1).into());
}
