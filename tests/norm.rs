//! The RMSNorm family with every option, against the f64 reference, on drawn shapes, layouts, types and options.

mod common;

use common::{
    Arrangement, Host, Mode, arrangement, enter, fail, gpu, in_every_mode, indices, mode, normal,
};
use cudarc::driver::CudaSlice;
use ferroflash::reference::{self, Exact, NormInputs, NormOutputs, Rounded};
use ferroflash::{
    DType, Element, InOut, Layout, Norm, NormArgs, Operand, OperandMut, PostNorm, QkNormArgs,
    Quantized, Rounding, Scale, Statistics, TensorViewMut, WeightForm,
};
use float8::{F8E4M3, F8E5M2};
use half::{bf16, f16};
use proptest::prelude::*;

/// A tensor of a type chosen at run time, on host and device.
trait Tensor<const R: usize> {
    /// Elements in row-major order, as they were rounded to the type.
    fn values(&self) -> Vec<f64>;
    fn view(&self) -> Box<dyn Operand<R> + '_>;
    fn view_mut(&mut self) -> Box<dyn OperandMut<R> + '_>;
    /// Fresh device memory with the elements the tensor was made of.
    fn reset(&mut self);
    /// What the device has now, if nothing beside the elements changed.
    fn download(&self) -> Result<Vec<f64>, TestCaseError>;
}

struct Typed<T, const R: usize> {
    host: Host<T, R>,
    device: CudaSlice<T>,
}

impl<T: Element, const R: usize> Tensor<R> for Typed<T, R> {
    fn values(&self) -> Vec<f64> {
        let at = |index| self.host.data[self.host.layout.position(index)].to_f64();
        indices(self.host.layout.shape()).map(at).collect()
    }

    fn view(&self) -> Box<dyn Operand<R> + '_> {
        Box::new(self.host.view(&self.device))
    }

    fn view_mut(&mut self) -> Box<dyn OperandMut<R> + '_> {
        Box::new(self.host.view_mut(&mut self.device))
    }

    fn reset(&mut self) {
        self.device = self.host.upload();
    }

    fn download(&self) -> Result<Vec<f64>, TestCaseError> {
        let elements = self.host.download(&self.device)?;
        Ok(elements.into_iter().map(T::to_f64).collect())
    }
}

fn typed<T: Element, const R: usize>(
    at: &Arrangement,
    shape: [usize; R],
    between: f64,
    fill: impl FnMut() -> f64,
) -> Box<dyn Tensor<R>> {
    let host = Host::<T, R>::new(at, shape, T::from_f64(between), fill);
    let device = host.upload();
    Box::new(Typed { host, device })
}

fn tensor<const R: usize>(
    dtype: DType,
    at: &Arrangement,
    shape: [usize; R],
    between: f64,
    fill: impl FnMut() -> f64,
) -> Box<dyn Tensor<R>> {
    match dtype {
        DType::F16 => typed::<f16, R>(at, shape, between, fill),
        DType::BF16 => typed::<bf16, R>(at, shape, between, fill),
        DType::F32 => typed::<f32, R>(at, shape, between, fill),
        DType::F8E4M3 => typed::<F8E4M3, R>(at, shape, between, fill),
        DType::F8E5M2 => typed::<F8E5M2, R>(at, shape, between, fill),
        DType::I8 => typed::<i8, R>(at, shape, between, fill),
    }
}

/// What lies between the elements of outputs.
const CANARY: f64 = -80.0;

/// Which operands there are, of which types, and which outputs are in place.
#[derive(Debug, Clone)]
struct Operands {
    x: DType,
    out: DType,
    weight: Option<DType>,
    bias: Option<DType>,
    gate: Option<DType>,
    residual: Option<DType>,
    /// With a residual only.
    post: Option<Option<DType>>,
    in_place: bool,
    residual_in_place: bool,
}

#[derive(Debug, Clone)]
struct Case {
    op: Norm,
    operands: Operands,
    rows: usize,
    width: usize,
    /// Of x, out, gate, the residual before and after.
    at: Vec<Arrangement>,
    vectors: Arrangement,
    spread: f64,
    seed: u64,
}

fn float() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::FLOATS.to_vec())
}

/// Operands of one type, or each of its own.
fn operands() -> impl Strategy<Value = Operands> {
    let present = prop::collection::vec(any::<bool>(), 8);
    let types = prop_oneof![
        3 => float().prop_map(|dtype| vec![dtype; 7]),
        2 => prop::collection::vec(float(), 7),
    ];
    (present, types).prop_map(|(present, types)| {
        let some = |n: usize| present[n].then_some(types[n]);
        Operands {
            x: types[5],
            out: types[6],
            weight: (present[0] || present[7]).then_some(types[0]),
            bias: some(1).filter(|_| present[2]),
            gate: some(2).filter(|_| present[1]),
            residual: some(3),
            post: (present[3] && present[4]).then_some((present[5]).then_some(types[4])),
            in_place: present[6] && types[5] == types[6],
            residual_in_place: present[7],
        }
    })
}

fn op() -> impl Strategy<Value = Norm> {
    let eps = prop::sample::select(vec![1e-6f32, 1e-5, 1.0]);
    (eps, any::<[bool; 3]>()).prop_map(|(eps, [layer, one_plus, llama])| Norm {
        statistics: if layer {
            Statistics::Deviation
        } else {
            Statistics::RootMeanSquare
        },
        eps,
        weight: if one_plus {
            WeightForm::OnePlus
        } else {
            WeightForm::Plain
        },
        rounding: if llama {
            Rounding::Llama
        } else {
            Rounding::Gemma
        },
        columns: None,
        scale: None,
    })
}

/// Widths around the edges of what threads hold, aligned and not.
fn width() -> impl Strategy<Value = usize> {
    prop_oneof![
        2 => 1..64usize,
        3 => (1..80usize).prop_map(|n| 8 * n),
        2 => (1..300usize).prop_map(|n| 4 * n),
        2 => (1..12usize).prop_map(|n| 128 * n),
        1 => prop::sample::select(vec![511usize, 512, 513, 1024, 2048, 2056, 4096, 4100, 8192, 8200]),
        1 => 1..3_000usize,
    ]
}

fn case(width: impl Strategy<Value = usize>) -> impl Strategy<Value = Case> {
    let unit = prop::sample::select(vec![8usize, 8, 8, 4, 1]);
    (unit, width).prop_flat_map(|(unit, width)| {
        let columns = prop::option::weighted(0.3, 1..=width);
        let at = prop::collection::vec(arrangement(2, unit), 5);
        let spread = prop::sample::select(vec![1.0, 1.0, 1e-3, 1e3]);
        let drawn = (at, arrangement(1, unit), spread, any::<u64>());
        (op(), operands(), 1..12usize, columns, drawn).prop_map(
            move |(op, operands, rows, columns, (at, vectors, spread, seed))| {
                let is_post = operands.post.is_some();
                let rows = if width > 2000 { rows.min(3) } else { rows };
                // Few numbers may be rounded exactly by luck, and nothing is twice as good as that.
                let enough = 32usize.div_ceil(columns.unwrap_or(width));
                Case {
                    op: Norm {
                        columns,
                        statistics: if is_post {
                            Statistics::RootMeanSquare
                        } else {
                            op.statistics
                        },
                        ..op
                    },
                    operands,
                    rows: rows.max(enough),
                    width,
                    at,
                    vectors,
                    spread,
                    seed,
                }
            },
        )
    })
}

type Operand2 = Box<dyn Tensor<2>>;
type Operand1 = Box<dyn Tensor<1>>;

fn view1(tensor: &Option<Operand1>) -> Option<Box<dyn Operand<1> + '_>> {
    tensor.as_ref().map(|tensor| tensor.view())
}

/// The tensors of a case.
struct Tensors {
    x: Operand2,
    out: Operand2,
    weight: Option<Operand1>,
    bias: Option<Operand1>,
    gate: Option<Operand2>,
    residual: Option<Operand2>,
    residual_out: Option<Operand2>,
    post: Option<Option<Operand1>>,
}

impl Tensors {
    fn new(case: &Case) -> Self {
        let Case { operands, at, .. } = case;
        let shape = [case.rows, case.width];
        let rows = |dtype, n: usize, between, spread| {
            tensor::<2>(
                dtype,
                &at[n],
                shape,
                between,
                normal(case.seed ^ n as u64, spread),
            )
        };
        let vector = |dtype, n: u64| {
            let fill = normal(case.seed ^ n, 1.0);
            tensor::<1>(dtype, &case.vectors, [case.width], f64::NAN, fill)
        };
        let between = |in_place| if in_place { CANARY } else { f64::NAN };
        let stays = operands.residual_in_place;
        Tensors {
            x: rows(operands.x, 0, between(operands.in_place), case.spread),
            out: rows(operands.out, 1, CANARY, 1.0),
            weight: operands.weight.map(|dtype| vector(dtype, 11)),
            bias: operands.bias.map(|dtype| vector(dtype, 12)),
            gate: operands.gate.map(|dtype| rows(dtype, 2, f64::NAN, 2.0)),
            residual: (operands.residual).map(|dtype| rows(dtype, 3, between(stays), case.spread)),
            residual_out: (operands.residual).map(|dtype| rows(dtype, 4, CANARY, 1.0)),
            post: operands
                .post
                .map(|weight| weight.map(|dtype| vector(dtype, 13))),
        }
    }

    fn launch(
        &mut self,
        case: &Case,
        scales: Option<TensorViewMut<'_, f32, 2>>,
    ) -> Result<(), TestCaseError> {
        for tensor in [&mut self.x, &mut self.out] {
            tensor.reset();
        }
        for tensor in [&mut self.residual, &mut self.residual_out]
            .into_iter()
            .flatten()
        {
            tensor.reset();
        }
        let Operands {
            in_place,
            residual_in_place,
            ..
        } = case.operands;
        let (mut x, mut residual);
        let (x_view, mut out) = (self.x.view(), self.out.view_mut());
        let rows = if in_place {
            drop(x_view);
            x = self.x.view_mut();
            InOut::InPlace(&mut *x)
        } else {
            InOut::Apart {
                input: &*x_view,
                output: &mut *out,
            }
        };
        let residual_view = self.residual.as_mut();
        let (residual_input, mut residual_output);
        let residual = match (residual_view, &mut self.residual_out) {
            (Some(before), Some(_)) if residual_in_place => {
                residual = before.view_mut();
                Some(InOut::InPlace(&mut *residual))
            }
            (Some(before), Some(after)) => {
                residual_input = before.view();
                residual_output = after.view_mut();
                Some(InOut::Apart {
                    input: &*residual_input,
                    output: &mut *residual_output,
                })
            }
            _ => None,
        };
        let (weight, bias) = (view1(&self.weight), view1(&self.bias));
        let post = self.post.as_ref().map(view1);
        let gate = self.gate.as_ref().map(|gate| gate.view());
        let args = NormArgs {
            rows,
            weight: weight.as_deref(),
            bias: bias.as_deref(),
            gate: gate.as_deref(),
            residual,
            post: post.as_ref().map(|weight| PostNorm {
                weight: weight.as_deref(),
            }),
            scales,
        };
        gpu()
            .kernels
            .norm(&gpu().stream, &case.op, args)
            .map_err(fail)
    }

    /// Output and residual stream.
    fn results(&self, case: &Case) -> Result<(Vec<f64>, Option<Vec<f64>>), TestCaseError> {
        let out = if case.operands.in_place {
            &self.x
        } else {
            &self.out
        };
        let residual = if case.operands.residual_in_place {
            &self.residual
        } else {
            &self.residual_out
        };
        let residual = residual.as_ref().map(|tensor| tensor.download());
        Ok((out.download()?, residual.transpose()?))
    }

    /// The reference's results, exact and as if everything were stored in `low`.
    fn expected(&self, case: &Case, low: DType) -> [NormOutputs; 2] {
        let values1 = |tensor: &Option<Operand1>| tensor.as_ref().map(|tensor| tensor.values());
        let values2 = |tensor: &Option<Operand2>| tensor.as_ref().map(|tensor| tensor.values());
        let x = self.x.values();
        let (weight, bias) = (values1(&self.weight), values1(&self.bias));
        let (gate, residual) = (values2(&self.gate), values2(&self.residual));
        let post = self.post.as_ref().map(values1);
        let inputs = NormInputs {
            width: case.width,
            x: &x,
            weight: weight.as_deref(),
            bias: bias.as_deref(),
            gate: gate.as_deref(),
            residual: residual.as_deref(),
            post: post.as_ref().map(|weight| weight.as_deref()),
        };
        [
            reference::norm::<Exact>(&case.op, &inputs),
            rounded(low, &case.op, &inputs),
        ]
    }
}

/// The yardstick: the reference as if everything were stored in `low`.
fn rounded(low: DType, op: &Norm, inputs: &NormInputs<'_>) -> NormOutputs {
    match low {
        DType::F16 => reference::norm::<Rounded<f16>>(op, inputs),
        DType::BF16 => reference::norm::<Rounded<bf16>>(op, inputs),
        _ => reference::norm::<Rounded<f32>>(op, inputs),
    }
}

/// The coarsest type that something is rounded to on the way.
fn coarsest(case: &Case) -> DType {
    let Operands {
        x,
        out,
        residual,
        post,
        ..
    } = &case.operands;
    let h = residual.unwrap_or(*x);
    let rounded = [
        Some(*out),
        *residual,
        post.map(|_| *x),
        (case.op.rounding == Rounding::Llama).then_some(h),
    ];
    let order = |dtype: &DType| match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    };
    rounded
        .into_iter()
        .flatten()
        .max_by_key(order)
        .unwrap_or(*out)
}

fn same(first: &[f64], second: &[f64]) -> Result<(), TestCaseError> {
    let bits = |values: &[f64]| -> Vec<u64> { values.iter().map(|x| x.to_bits()).collect() };
    prop_assert_eq!(bits(first), bits(second), "differs between runs");
    Ok(())
}

/// What one rounding to `dtype` may cost the largest of `values`: a sample that every yardstick has. A gated output has few
/// large elements, of which the yardstick may by chance round each one well.
fn rounding_of_largest(values: &[f64], dtype: DType) -> f64 {
    let bits = match dtype {
        DType::F16 => 11,
        DType::BF16 => 8,
        _ => 24,
    };
    let finite = values.iter().filter(|value| value.is_finite());
    finite.fold(0.0f64, |most, value| most.max(value.abs())) * f64::from(-bits).exp2()
}

/// [`reference::check`], with [`rounding_of_largest`] in the yardstick. Elements that overflow in it have no value to be near:
/// few columns that hardly deviate make the others as large as one likes.
fn check(out: &[f64], exact: &[f64], low: &[f64], dtype: DType) -> Result<(), TestCaseError> {
    let is_value = |&index: &usize| low[index].is_finite() || !exact[index].is_finite();
    let values = |of: &[f64]| -> Vec<f64> {
        let indices = (0..of.len()).filter(is_value);
        indices.map(|index| of[index]).collect()
    };
    let [mut out, mut exact, mut low] = [values(out), values(exact), values(low)];
    low.push(rounding_of_largest(&exact, dtype));
    out.push(0.0);
    exact.push(0.0);
    reference::check(&out, &exact, &low).map(drop).map_err(fail)
}

fn passes(case: &Case) -> Result<(), TestCaseError> {
    let mut tensors = Tensors::new(case);
    let dtype = coarsest(case);
    let [exact, low] = tensors.expected(case, dtype);
    tensors.launch(case, None)?;
    let (out, residual) = tensors.results(case)?;
    tensors.launch(case, None)?;
    let (again, residual_again) = tensors.results(case)?;
    same(&out, &again)?;
    check(&out, &exact.out, &low.out, dtype)?;
    if let (Some(residual), Some(again)) = (residual, residual_again) {
        same(&residual, &again)?;
        check(&residual, &exact.residual, &low.residual, dtype)
            .map_err(|error| fail(format!("residual: {error}")))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(120), ..ProptestConfig::default() })]
    #[test]
    fn every_option_is_as_exact_as_the_rule_demands(mode in mode(), case in case(width())) {
        let _mode = enter(mode);
        passes(&case)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(8), ..ProptestConfig::default() })]
    #[test]
    fn wide_rows_are_as_exact(mode in mode(), case in case(wide())) {
        let _mode = enter(mode);
        passes(&Case { rows: 1, ..case })?;
    }
}

/// Widths that registers, and some that a block has no room for.
fn wide() -> impl Strategy<Value = usize> {
    prop_oneof![
        2 => 8_000..40_000usize,
        2 => (1000..5000usize).prop_map(|n| 8 * n),
        1 => (5000..10_000usize).prop_map(|n| 8 * n),
        1 => (12_500..25_000usize).prop_map(|n| 8 * n),
    ]
}

/// Rows of whole accesses, of operands of one type, with a weight and nothing that only the kernels of every option have.
fn unadorned(change: fn(&mut Case, DType)) -> impl Strategy<Value = Case> {
    let chunks = prop_oneof![
        1..96usize,
        (1..13usize).prop_map(|n| 32 * n),
        1000..1200usize
    ];
    let cases = chunks.prop_flat_map(|chunks| case(Just(16 * chunks)));
    let at = prop::collection::vec(arrangement(2, 16), 5);
    (cases, float(), at, arrangement(1, 16)).prop_map(move |(mut case, dtype, at, vectors)| {
        case.op = Norm {
            eps: case.op.eps,
            weight: case.op.weight,
            ..Norm::default()
        };
        case.operands = Operands {
            x: dtype,
            out: dtype,
            weight: Some(dtype),
            bias: None,
            gate: None,
            residual: None,
            post: None,
            ..case.operands
        };
        (case.at, case.vectors) = (at, vectors);
        change(&mut case, dtype);
        case
    })
}

/// The forms that have kernels of their own beside those without options.
fn form() -> impl Strategy<Value = Case> {
    prop_oneof![
        unadorned(|case, _| case.op.statistics = Statistics::Deviation),
        unadorned(|case, dtype| case.operands.gate = Some(dtype)),
        unadorned(|case, dtype| {
            case.operands.residual = Some(dtype);
            case.operands.post = Some(Some(dtype));
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(60), ..ProptestConfig::default() })]
    #[test]
    fn forms_are_as_exact_as_the_rule_demands(mode in mode(), case in form()) {
        let _mode = enter(mode);
        passes(&case)?;
    }
}

#[test]
fn every_option_is_as_exact_in_every_mode() {
    in_every_mode(case(width()), passes);
}

/// The widest rows that are promised, and a row beyond; more rows than the device runs at a time.
#[test]
fn rows_of_262144_columns() {
    let _mode = enter(Mode::default());
    for (dtype, rows, width) in [
        (DType::BF16, 1, 262_144),
        (DType::F32, 2, 262_148),
        (DType::F16, 1, 100_001),
        // Of 16 blocks each on a device with 108 multiprocessors.
        (DType::F16, 7, 660_001),
    ] {
        let plain = || {
            let tree =
                arrangement(2, 8).new_tree(&mut proptest::test_runner::TestRunner::deterministic());
            tree.expect("an arrangement").current()
        };
        use proptest::strategy::ValueTree;
        let case = Case {
            op: Norm {
                eps: 1e-6,
                statistics: Statistics::Deviation,
                ..Norm::default()
            },
            operands: Operands {
                x: dtype,
                out: dtype,
                weight: Some(dtype),
                bias: None,
                gate: None,
                residual: Some(dtype),
                post: None,
                in_place: false,
                residual_in_place: true,
            },
            rows,
            width,
            at: (0..5).map(|_| plain()).collect(),
            vectors: {
                let tree = arrangement(1, 8)
                    .new_tree(&mut proptest::test_runner::TestRunner::deterministic());
                tree.expect("an arrangement").current()
            },
            spread: 1.0,
            seed: 7,
        };
        passes(&case).unwrap_or_else(|error| panic!("{dtype} {width}: {error}"));
    }
}

// ---- Quantised output ----

/// The distance from a quantised value to the next.
fn step(dtype: DType, value: f64) -> f64 {
    let exponent = |bits: i32, least: i32| {
        let exponent = value.abs().max(1e-30).log2().floor() as i32;
        f64::from(exponent.max(least) - bits).exp2()
    };
    match dtype {
        DType::F8E4M3 => exponent(3, -6),
        DType::F8E5M2 => exponent(2, -14),
        _ => 1.0,
    }
}

fn limits(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F8E4M3 => (-448.0, 448.0),
        DType::F8E5M2 => (-57344.0, 57344.0),
        _ => (-128.0, 127.0),
    }
}

fn scales(dtype: DType, scale: Scale, y: &[f64], width: usize) -> Vec<f64> {
    match dtype {
        DType::F8E4M3 => reference::scales::<F8E4M3>(scale, y, width),
        DType::F8E5M2 => reference::scales::<F8E5M2>(scale, y, width),
        _ => reference::scales::<i8>(scale, y, width),
    }
}

#[derive(Debug, Clone)]
struct QuantisedCase {
    case: Case,
    scales: Arrangement,
}

/// Of every option, and of no more than a residual.
fn quantised_case() -> impl Strategy<Value = QuantisedCase> {
    let without = unadorned(|_, _| ());
    let with = unadorned(|case, dtype| case.operands.residual = Some(dtype));
    quantised(prop_oneof![4 => case(width()), 1 => without, 1 => with])
}

fn quantised(case: impl Strategy<Value = Case>) -> impl Strategy<Value = QuantisedCase> {
    let scale = prop::sample::select(vec![
        Scale::Static(0.013),
        Scale::Static(1.0),
        Scale::PerRow,
        Scale::PerRow,
        Scale::PerGroup(64),
        Scale::PerGroup(128),
    ]);
    let out = prop::sample::select(DType::QUANTIZED.to_vec());
    (case, scale, out, arrangement(2, 1)).prop_map(|(mut case, scale, out, scales)| {
        case.op.scale = Some(scale);
        case.operands.out = out;
        case.operands.in_place = false;
        if let Scale::PerGroup(size) = scale {
            case.width = case.width.next_multiple_of(size);
            case.op.columns = None;
        }
        QuantisedCase { case, scales }
    })
}

fn quantised_passes(
    QuantisedCase { case, scales: at }: &QuantisedCase,
) -> Result<(), TestCaseError> {
    let scale = case.op.scale.expect("a quantised case");
    let groups = match scale {
        Scale::Static(_) => 0,
        Scale::PerRow => 1,
        Scale::PerGroup(size) => case.width / size,
    };
    let mut tensors = Tensors::new(case);
    let low = coarsest(&Case {
        operands: Operands {
            out: DType::F32,
            ..case.operands.clone()
        },
        ..case.clone()
    });
    let [exact, yardstick] = tensors.expected(case, low);
    // What is computed in f32 from inputs of 16 bits uses approximations of 16 bits.
    let bound = reference::error_bound(&exact.out, &yardstick.out)
        .max(2.0 * rounding_of_largest(&exact.out, low))
        + exact.out.iter().fold(0.0f64, |most, y| most.max(y.abs())) * 1e-6;
    let host = Host::<f32, 2>::new(at, [case.rows, groups], CANARY as f32, || 55.0);
    let mut device = host.upload();
    let run = |tensors: &mut Tensors, device: &mut CudaSlice<f32>| {
        let view = (groups > 0).then(|| host.view_mut(device));
        tensors.launch(case, view)?;
        let scales: Vec<f64> = host.download(device)?.into_iter().map(f64::from).collect();
        Ok::<_, TestCaseError>((tensors.results(case)?.0, scales))
    };
    let (out, found) = run(&mut tensors, &mut device)?;
    let (again, found_again) = run(&mut tensors, &mut device)?;
    same(&out, &again)?;
    same(&found, &found_again)?;
    let dtype = case.operands.out;
    let want = scales(dtype, scale, &exact.out, case.width);
    let (least, most) = limits(dtype);
    let group = case.width.checked_div(groups).unwrap_or(exact.out.len());
    for (index, (&q, &y)) in out.iter().zip(&exact.out).enumerate() {
        let at = index / group;
        let scale = if groups == 0 { want[0] } else { found[at] };
        let distance = (scale - want[at.min(want.len() - 1)]).abs();
        prop_assert!(
            distance <= bound / most + want[at.min(want.len() - 1)] * 1e-6,
            "scale {at}: {scale}, want {}",
            want[at]
        );
        let y = y.clamp(least * scale, most * scale);
        let allowed = bound + step(dtype, q) * scale;
        prop_assert!(
            (q * scale - y).abs() <= allowed,
            "element {index}: {q} * {scale}, want {y} within {allowed}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(100), ..ProptestConfig::default() })]
    #[test]
    fn quantised_outputs_are_within_a_step(mode in mode(), case in quantised_case()) {
        let _mode = enter(mode);
        quantised_passes(&case)?;
    }
}

#[test]
fn quantised_outputs_are_within_a_step_in_every_mode() {
    in_every_mode(quantised_case(), quantised_passes);
}

/// Launches on row-major x and weight of f32; the output and the scales of a dynamic scale.
fn row_major<Q: Element>(
    op: &Norm,
    x: &[f32],
    weight: &[f32],
    groups: usize,
) -> (Vec<Q>, Vec<f32>) {
    let width = weight.len();
    let rows = x.len() / width;
    let stream = &gpu().stream;
    let upload = |data: &[f32]| stream.clone_htod(data).expect("upload");
    let (x, weight) = (upload(x), upload(weight));
    let mut out = stream.alloc_zeros::<Q>(rows * width).expect("memory");
    let mut scales = stream
        .alloc_zeros::<f32>((rows * groups).max(1))
        .expect("memory");
    let x = ferroflash::TensorView::contiguous(x.as_view(), [rows, width]).expect("a view");
    let weight = ferroflash::TensorView::contiguous(weight.as_view(), [width]).expect("a view");
    let mut view = TensorViewMut::contiguous(out.as_view_mut(), [rows, width]).expect("a view");
    let scales_view =
        TensorViewMut::contiguous(scales.as_view_mut(), [rows, groups]).expect("a view");
    let rows = InOut::Apart {
        input: &x,
        output: &mut view,
    };
    let args = NormArgs {
        scales: (groups > 0).then_some(scales_view),
        ..NormArgs::new(rows, Some(&weight))
    };
    gpu().kernels.norm(stream, op, args).expect("a launch");
    let download = stream.clone_dtoh(&out).expect("download");
    (download, stream.clone_dtoh(&scales).expect("download"))
}

/// Every value of a type, what lies in the middle between two, the neighbours of all these, and what is out of range.
fn difficult<Q: Quantized>(all: impl Iterator<Item = Q>) -> Vec<f32> {
    let mut values: Vec<f32> = all
        .map(|q| q.to_f64() as f32)
        .filter(|x| x.is_finite())
        .collect();
    values.sort_by(f32::total_cmp);
    let middles: Vec<f32> = values
        .windows(2)
        .map(|pair| (pair[0] + pair[1]) / 2.0)
        .collect();
    values.extend(middles);
    let near: Vec<f32> = values
        .iter()
        .flat_map(|x| [x.next_up(), x.next_down()])
        .collect();
    values.extend(near);
    values.extend([
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e-40,
        -1e-40,
        3e-30,
    ]);
    values.extend([Q::MAX * 1.03, Q::MAX * 1.1, Q::MAX * 2.0, 1e10, -1e30]);
    values.resize(values.len().next_multiple_of(4), f32::NAN);
    values
}

/// Rows of ones are normalised to ones, so that out is the weight: in chunks of 4 and one by one.
fn rounds_exactly<Q: Quantized>(all: impl Iterator<Item = Q>) {
    let values = difficult(all);
    let op = Norm {
        scale: Some(Scale::Static(1.0)),
        ..Norm::default()
    };
    for skip in [0, 1] {
        let values = &values[skip..];
        let (out, _) = row_major::<Q>(&op, &vec![1.0; values.len()], values, 0);
        for (&value, q) in values.iter().zip(out) {
            let want = Q::from_f64(value.into());
            let both_nan = want.to_f64().is_nan() && q.to_f64().is_nan();
            assert!(
                both_nan || q == want,
                "{value:e} became {q:?}, not {want:?}"
            );
        }
    }
}

#[test]
fn every_number_is_rounded_to_the_nearest() {
    let _mode = enter(Mode::default());
    rounds_exactly((0..=u8::MAX).map(F8E4M3::from_bits));
    rounds_exactly((0..=u8::MAX).map(F8E5M2::from_bits));
    rounds_exactly(i8::MIN..=i8::MAX);
}

/// Bit for bit what is written down at [`Scale`], of what the same kernel gives in f32.
fn scales_are_exact<Q: Quantized>() {
    for (rows, width, groups) in [
        (3, 256, 1),
        (2, 256, 4),
        (2, 384, 3),
        (2, 1024, 1),
        (1, 2432, 38),
        (2, 259, 1),
    ] {
        let mut fill = normal(width as u64, 1.0);
        let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| fill() as f32).collect() };
        let (mut x, weight) = (values(rows * width), values(width));
        if rows == 3 {
            // A row of zeros, and one with a NaN.
            x[width..2 * width].fill(0.0);
            x[2 * width + 7] = f32::NAN;
        }
        // Rounding f32 to f32 changes nothing, but has the kernel with every option add in its order.
        let op = Norm {
            rounding: Rounding::Llama,
            eps: 1e-6,
            ..Norm::default()
        };
        let (y, _) = row_major::<f32>(&op, &x, &weight, 0);
        let scale = if groups == 1 {
            Scale::PerRow
        } else {
            Scale::PerGroup(width / groups)
        };
        let op = Norm {
            scale: Some(scale),
            ..op
        };
        let (out, scales) = row_major::<Q>(&op, &x, &weight, groups);
        let group = width / groups;
        for (at, (y, out)) in y.chunks(group).zip(out.chunks(group)).enumerate() {
            let is_nan = y.iter().any(|y| y.is_nan());
            let largest = y.iter().fold(0.0f32, |most, y| most.max(y.abs()));
            let scale = (largest / Q::MAX).max(f32::MIN_POSITIVE);
            if is_nan {
                assert!(
                    scales[at].is_nan(),
                    "{rows} x {width}: scale {at} is {}",
                    scales[at]
                );
                let nan = Q::from_f64(f64::NAN).to_f64().to_bits();
                assert!(
                    out.iter()
                        .all(|q| q.to_f64().to_bits() == nan || q.to_f64().is_nan())
                );
                continue;
            }
            assert_eq!(scales[at], scale, "{rows} x {width}, scale {at}");
            let inverse = 1.0 / scale;
            for (y, &q) in y.iter().zip(out) {
                assert_eq!(q, Q::from_f64((y * inverse).into()), "{y} by {scale}");
            }
        }
    }
}

#[test]
fn scales_are_those_of_the_largest_element() {
    let _mode = enter(Mode::default());
    scales_are_exact::<F8E4M3>();
    scales_are_exact::<F8E5M2>();
    scales_are_exact::<i8>();
}

// ---- Queries and keys ----

#[derive(Debug, Clone)]
struct QkCase {
    op: Norm,
    dtypes: [DType; 3],
    tokens: usize,
    heads: [usize; 2],
    head_dim: usize,
    at: Vec<Arrangement>,
    weights: Option<Arrangement>,
    in_place: bool,
    seed: u64,
}

fn qk_case() -> impl Strategy<Value = QkCase> {
    let unit = prop::sample::select(vec![8usize, 8, 4, 1]);
    unit.prop_flat_map(|unit| {
        let head_dim = prop_oneof![
            3 => prop::sample::select(vec![64usize, 80, 96, 128, 256, 512, 1024]),
            1 => 1..140usize,
        ];
        let dtypes = prop_oneof![
            float().prop_map(|dtype| [dtype; 3]),
            [float(), float(), float()]
        ];
        let at = prop::collection::vec(arrangement(3, unit), 4);
        let weights = prop::option::weighted(0.8, arrangement(1, unit));
        let shape = (0..6usize, [0..7usize, 0..4usize], head_dim);
        (
            op(),
            dtypes,
            shape,
            at,
            weights,
            any::<bool>(),
            any::<u64>(),
        )
    })
    .prop_map(
        |(op, dtypes, (tokens, heads, head_dim), at, weights, in_place, seed)| QkCase {
            op,
            dtypes,
            tokens,
            heads,
            head_dim,
            at,
            weights,
            in_place: in_place && dtypes[0] == dtypes[2],
            seed,
        },
    )
}

fn launch_qk<'a>(
    case: &QkCase,
    q: InOut<'a, 3>,
    k: InOut<'a, 3>,
    [q_weight, k_weight]: [&'a Option<Box<dyn Operand<1> + 'a>>; 2],
) -> Result<(), TestCaseError> {
    let args = QkNormArgs {
        q,
        k,
        q_weight: q_weight.as_deref(),
        k_weight: k_weight.as_deref(),
    };
    gpu()
        .kernels
        .qk_norm(&gpu().stream, &case.op, args)
        .map_err(fail)
}

fn qk_passes(case: &QkCase) -> Result<(), TestCaseError> {
    let [x_dtype, weight_dtype, out_dtype] = case.dtypes;
    let shape = |n: usize| [case.tokens, case.heads[n % 2], case.head_dim];
    let rows = |dtype, n: usize, between| {
        tensor::<3>(
            dtype,
            &case.at[n],
            shape(n),
            between,
            normal(case.seed ^ n as u64, 1.0),
        )
    };
    let between = if case.in_place { CANARY } else { f64::NAN };
    let [mut q, mut k] = [0, 1].map(|n| rows(x_dtype, n, between));
    let [mut q_out, mut k_out] = [2, 3].map(|n| rows(out_dtype, n, CANARY));
    let [q_weight, k_weight] = [5, 6].map(|n| {
        let make = |at| {
            tensor::<1>(
                weight_dtype,
                at,
                [case.head_dim],
                f64::NAN,
                normal(case.seed ^ n, 1.0),
            )
        };
        case.weights.as_ref().map(make)
    });
    let inputs = [q.values(), k.values()];
    let (q_view, k_view) = (view1(&q_weight), view1(&k_weight));
    if case.in_place {
        let (mut q, mut k) = (q.view_mut(), k.view_mut());
        launch_qk(
            case,
            InOut::InPlace(&mut *q),
            InOut::InPlace(&mut *k),
            [&q_view, &k_view],
        )?;
    } else {
        let (q, k) = (q.view(), k.view());
        let (mut q_out, mut k_out) = (q_out.view_mut(), k_out.view_mut());
        let q = InOut::Apart {
            input: &*q,
            output: &mut *q_out,
        };
        let k = InOut::Apart {
            input: &*k,
            output: &mut *k_out,
        };
        launch_qk(case, q, k, [&q_view, &k_view])?;
    }
    let outputs = if case.in_place {
        [&q, &k]
    } else {
        [&q_out, &k_out]
    };
    let weights =
        [&q_weight, &k_weight].map(|weight| weight.as_ref().map(|weight| weight.values()));
    for ((x, weight), out) in inputs.iter().zip(&weights).zip(outputs) {
        let inputs = NormInputs {
            width: case.head_dim,
            x,
            weight: weight.as_deref(),
            ..NormInputs::default()
        };
        let exact = reference::norm::<Exact>(&case.op, &inputs).out;
        let coarse =
            |dtype| out_dtype == dtype || (case.op.rounding == Rounding::Llama && x_dtype == dtype);
        let dtype = match coarse {
            _ if coarse(DType::BF16) => DType::BF16,
            _ if coarse(DType::F16) => DType::F16,
            _ => DType::F32,
        };
        let low = rounded(dtype, &case.op, &inputs);
        check(&out.download()?, &exact, &low.out, dtype)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(60), ..ProptestConfig::default() })]
    #[test]
    fn heads_of_q_and_k_are_as_exact_as_the_rule_demands(mode in mode(), case in qk_case()) {
        let _mode = enter(mode);
        qk_passes(&case)?;
    }
}

#[test]
fn heads_of_q_and_k_are_as_exact_in_every_mode() {
    in_every_mode(qk_case(), qk_passes);
}

// ---- What is not finite, and what is at the ends ----

/// LayerNorm and a residual of rows at the ends of f32 and bf16: nothing may overflow on the way.
#[test]
fn deviations_at_the_ends_of_a_type() {
    let _mode = enter(Mode::default());
    for width in [1usize, 3, 8, 64, 200, 1032, 5001] {
        let row = |f: &dyn Fn(usize) -> f32| -> Vec<f32> { (0..width).map(f).collect() };
        let max = f32::MAX;
        let rows = [
            row(&|i| if i % 2 == 0 { max } else { -max / 2.0 }),
            row(&|i| if i % 3 == 0 { max } else { 1.0 }),
            row(&|i| [max, -max, -max, 0.0][i % 4]),
            row(&|i| max / (1 + i % 5) as f32),
            row(&|i| 1e-30 * (i % 7) as f32),
            row(&|i| f32::from_bits(1 + (i % 9) as u32)),
            row(&|i| 1e4 + (i % 11) as f32),
            row(&|_| 1000.1),
            row(&|_| 0.0),
            row(&|i| if i == width / 2 { f32::NAN } else { 1.0 }),
            row(&|i| if i == width / 2 { f32::INFINITY } else { 1.0 }),
        ];
        for (eps, columns) in [
            (1e-5f32, None),
            (0.0, None),
            (1e-5, Some(width.div_ceil(2))),
        ] {
            let op = Norm {
                statistics: Statistics::Deviation,
                eps,
                columns,
                ..Norm::default()
            };
            for (index, x) in rows.iter().enumerate() {
                // Where nothing deviates, 0 / 0 is what rounding makes of it.
                let counted = &x[..columns.unwrap_or(width)];
                if eps == 0.0 && counted.iter().all(|x| *x == counted[0]) && counted[0] != 0.0 {
                    continue;
                }
                let (got, _) = row_major::<f32>(&op, x, &vec![0.75; width], 0);
                let got: Vec<f64> = got.into_iter().map(f64::from).collect();
                let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
                let weight = vec![0.75; width];
                let inputs = NormInputs {
                    width,
                    x: &x,
                    weight: Some(&weight),
                    ..NormInputs::default()
                };
                let exact = reference::norm::<Exact>(&op, &inputs).out;
                let low = reference::norm::<Rounded<f32>>(&op, &inputs).out;
                if let Err(mismatch) = reference::check(&got, &exact, &low) {
                    panic!("row {index} of width {width}, {op:?}: {mismatch}");
                }
            }
        }
    }
}

#[test]
fn no_rows_are_no_error() {
    let x = gpu().stream.alloc_zeros::<f32>(8).expect("memory");
    let mut out = gpu().stream.alloc_zeros::<f32>(8).expect("memory");
    let x = ferroflash::TensorView::new(x.as_view(), Layout::contiguous([0, 8])).expect("a view");
    let mut out = TensorViewMut::contiguous(out.as_view_mut(), [0, 8]).expect("a view");
    let rows = InOut::Apart {
        input: &x,
        output: &mut out,
    };
    let args = NormArgs::new(rows, None);
    assert_eq!(
        gpu().kernels.norm(&gpu().stream, &Norm::default(), args),
        Ok(())
    );
}
