//! Gradients of RMSNorm against the f64 reference, on drawn shapes, layouts and types.

mod common;

use common::{
    Arrangement, Host, arrangement, assert_same_bits, enter, fail, gpu, in_every_mode, mode, normal,
};
use ferroflash::norm::backward_workspace;
use ferroflash::reference::{self, Exact, Rounded};
use ferroflash::{DType, Float, InOut, NormBackwardArgs, RmsNorm, TensorViewMut, WeightForm};
use half::{bf16, f16};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Case {
    op: RmsNorm,
    /// Of x and its gradient, and of all else.
    dtypes: [DType; 2],
    rows: usize,
    width: usize,
    /// Of x, dy, dh, dx.
    at: Vec<Arrangement>,
    weight: Option<Arrangement>,
    with_dh: bool,
    with_dw: bool,
    in_place: bool,
    seed: u64,
}

fn width() -> impl Strategy<Value = usize> {
    prop_oneof![
        2 => 1..64usize,
        3 => (1..200usize).prop_map(|n| 8 * n),
        1 => (1..300usize).prop_map(|n| 4 * n),
        1 => 1..2_000usize,
        1 => prop::sample::select(vec![2048usize, 4096, 4097, 8192, 8200, 9000]),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let float = || prop::sample::select(DType::FLOATS.to_vec());
    let dtypes = prop_oneof![float().prop_map(|dtype| [dtype; 2]), [float(), float()]];
    let unit = prop::sample::select(vec![8usize, 8, 4, 1]);
    unit.prop_flat_map(move |unit| {
        let at = prop::collection::vec(arrangement(2, unit), 4);
        let weight = prop::option::weighted(0.8, arrangement(1, unit));
        let flags = any::<[bool; 4]>();
        (
            dtypes.clone(),
            (1..70usize, width()),
            at,
            weight,
            flags,
            any::<u64>(),
        )
    })
    .prop_map(|(dtypes, (rows, width), at, weight, flags, seed)| {
        let [with_dh, with_dw, one_plus, in_place] = flags;
        Case {
            op: RmsNorm {
                eps: 1e-5,
                weight: if one_plus {
                    WeightForm::OnePlus
                } else {
                    WeightForm::Plain
                },
            },
            dtypes,
            rows: if width > 1000 { rows.min(4) } else { rows },
            width,
            at,
            weight,
            with_dh,
            with_dw,
            in_place: in_place && dtypes[0] == dtypes[1],
            seed,
        }
    })
}

/// x and dx are of type `X`, everything else of type `Y`.
fn passes<X: Float, Y: Float>(case: &Case) -> Result<(), TestCaseError> {
    let shape = [case.rows, case.width];
    let nan = Y::from_f64(f64::NAN);
    let canary = -77.0;
    let fill = |n: u64, deviation| normal(case.seed ^ n, deviation);
    let x = Host::<X, 2>::new(&case.at[0], shape, X::from_f64(f64::NAN), fill(0, 1.5));
    let between = if case.in_place {
        Y::from_f64(canary)
    } else {
        nan
    };
    let dy = Host::<Y, 2>::new(&case.at[1], shape, between, fill(1, 1.0));
    let dh = Host::<Y, 2>::new(&case.at[2], shape, nan, fill(2, 1.0));
    let dx = Host::<X, 2>::new(&case.at[3], shape, X::from_f64(canary), || 55.0);
    let weight = case
        .weight
        .as_ref()
        .map(|at| Host::<Y, 1>::new(at, [case.width], nan, fill(3, 1.0)));
    let dw = Host::<Y, 1>::new(
        case.weight.as_ref().unwrap_or(&case.at[0]),
        [case.width],
        Y::from_f64(canary),
        || 55.0,
    );
    let run = || -> Result<(Vec<f64>, Vec<Y>), TestCaseError> {
        let (x_data, dh_data, mut dx_data) = (x.upload(), dh.upload(), dx.upload());
        let (mut dy_data, mut dw_data) = (dy.upload(), dw.upload());
        let weight_data = weight.as_ref().map(|weight| weight.upload());
        let needed = backward_workspace(case.rows, case.width);
        let mut workspace = gpu()
            .stream
            .clone_htod(&vec![f32::NAN; needed])
            .map_err(fail)?;
        let weight_view = weight
            .as_ref()
            .zip(weight_data.as_ref())
            .map(|(host, data)| host.view(data));
        let dh_view = dh.view(&dh_data);
        {
            let (mut dy_mut, mut dx_mut, dy_view);
            let gradient = if case.in_place {
                dy_mut = dy.view_mut(&mut dy_data);
                InOut::InPlace(&mut dy_mut)
            } else {
                dy_view = dy.view(&dy_data);
                dx_mut = dx.view_mut(&mut dx_data);
                InOut::Apart {
                    input: &dy_view,
                    output: &mut dx_mut,
                }
            };
            let mut dw_view = dw.view_mut(&mut dw_data);
            let workspace =
                TensorViewMut::contiguous(workspace.as_view_mut(), [needed]).expect("a view");
            let args = NormBackwardArgs {
                x: &x.view(&x_data),
                weight: weight_view.as_ref().map(|view| view as _),
                gradient,
                residual_gradient: case.with_dh.then_some(&dh_view as _),
                weight_gradient: if case.with_dw {
                    Some(&mut dw_view)
                } else {
                    None
                },
                workspace: case.with_dw.then_some(workspace),
            };
            gpu()
                .kernels
                .rms_norm_backward(&gpu().stream, &case.op, args)
                .map_err(fail)?;
        }
        let dx = if case.in_place {
            dy.download(&dy_data)?.into_iter().map(Y::to_f64).collect()
        } else {
            dx.download(&dx_data)?.into_iter().map(X::to_f64).collect()
        };
        Ok((dx, dw.download(&dw_data)?))
    };
    let (dx_got, dw_got) = run()?;
    let (dx_again, dw_again) = run()?;
    prop_assert_eq!(
        dx_got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        dx_again.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    );
    assert_same_bits(&dw_got, &dw_again)?;
    let values = |host: &Host<Y, 2>| -> Vec<f64> {
        common::indices(shape)
            .map(|index| host.data[host.layout.position(index)].to_f64())
            .collect()
    };
    let x: Vec<f64> = common::indices(shape)
        .map(|index| x.data[x.layout.position(index)].to_f64())
        .collect();
    let (dy, dh) = (values(&dy), case.with_dh.then(|| values(&dh)));
    let weight: Option<Vec<f64>> = weight.map(|host| {
        (0..case.width)
            .map(|col| host.data[host.layout.position([col])].to_f64())
            .collect()
    });
    let (weight, dh) = (weight.as_deref(), dh.as_deref());
    let exact = reference::rms_norm_backward::<Exact>(&case.op, case.width, &x, weight, &dy, dh);
    let of_x =
        reference::rms_norm_backward::<Rounded<X>>(&case.op, case.width, &x, weight, &dy, dh);
    let of_w =
        reference::rms_norm_backward::<Rounded<Y>>(&case.op, case.width, &x, weight, &dy, dh);
    reference::check(&dx_got, &exact.0, &of_x.0).map_err(fail)?;
    if case.with_dw {
        let dw_got: Vec<f64> = dw_got.into_iter().map(Y::to_f64).collect();
        reference::check(&dw_got, &exact.1, &of_w.1)
            .map_err(|error| fail(format!("dw: {error}")))?;
    }
    Ok(())
}

fn case_passes(case: &Case) -> Result<(), TestCaseError> {
    use DType::{BF16, F16};
    match case.dtypes {
        [F16, F16] => passes::<f16, f16>(case),
        [F16, BF16] => passes::<f16, bf16>(case),
        [F16, _] => passes::<f16, f32>(case),
        [BF16, F16] => passes::<bf16, f16>(case),
        [BF16, BF16] => passes::<bf16, bf16>(case),
        [BF16, _] => passes::<bf16, f32>(case),
        [_, F16] => passes::<f32, f16>(case),
        [_, BF16] => passes::<f32, bf16>(case),
        _ => passes::<f32, f32>(case),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(60), ..ProptestConfig::default() })]
    #[test]
    fn gradients_are_as_exact_as_the_rule_demands(mode in mode(), case in case()) {
        let _mode = enter(mode);
        case_passes(&case)?;
    }
}

#[test]
fn gradients_are_as_exact_in_every_mode() {
    in_every_mode(case(), case_passes);
}

/// So many rows that each partial sum has several, in blocks of several rows; and rows of several warps beyond registers.
#[test]
fn many_and_wide_rows() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let plain = case().new_tree(&mut runner).expect("a case").current();
    for (dtype, rows, width) in [
        (DType::BF16, 9000, 16),
        (DType::F32, 1100, 40),
        (DType::F16, 40, 8200),
        (DType::F32, 20, 8196),
        (DType::BF16, 20, 1030),
        (DType::F16, 33, 2049),
    ] {
        let case = Case {
            dtypes: [dtype; 2],
            rows,
            width,
            with_dw: true,
            with_dh: true,
            in_place: false,
            ..plain.clone()
        };
        case_passes(&case).unwrap_or_else(|error| panic!("{dtype}, {rows} x {width}: {error}"));
    }
}

/// Squares at the ends of bf16 and f32 leave the range of f32.
#[test]
fn gradients_of_huge_and_tiny_rows() {
    for (width, scale) in [(64, 1e25), (200, 1e30), (1032, 1e22), (77, 3e25)] {
        let op = RmsNorm {
            eps: 0.0,
            weight: WeightForm::Plain,
        };
        let contiguous = ferroflash::Layout::contiguous([1, width]);
        let host = |n, deviation| {
            let mut fill = normal(n, deviation);
            Host::<f32, 2> {
                data: (0..width).map(|_| fill() as f32).collect(),
                layout: contiguous,
            }
        };
        let (x, dy) = (host(1, scale), host(2, scale.sqrt()));
        let (x_data, dy_data, mut dx_data) = (x.upload(), dy.upload(), x.upload());
        let args = NormBackwardArgs {
            x: &x.view(&x_data),
            weight: None,
            gradient: InOut::Apart {
                input: &dy.view(&dy_data),
                output: &mut x.view_mut(&mut dx_data),
            },
            residual_gradient: None,
            weight_gradient: None,
            workspace: None,
        };
        gpu()
            .kernels
            .rms_norm_backward(&gpu().stream, &op, args)
            .expect("a launch");
        let got: Vec<f64> = x
            .download(&dx_data)
            .expect("dx")
            .into_iter()
            .map(f64::from)
            .collect();
        let wide = |host: &Host<f32, 2>| -> Vec<f64> {
            host.data.iter().copied().map(f64::from).collect()
        };
        let (want, _) =
            reference::rms_norm_backward::<Exact>(&op, width, &wide(&x), None, &wide(&dy), None);
        let most = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= most * 1e-5, "{got:e}, not {want:e}");
        }
    }
}
