//! Holds a drawn call to the reference.

use crate::case::{Case, Storage};
use crate::common::{Host, assert_same_bits, fail};
use crate::inputs::Inputs;
use crate::run::{Output, run};
use ferroflash::reference::{self, AttentionOptions, Exact, HostTensor, Precision, Rounded};
use ferroflash::{DType, Float, Layout};
use half::{bf16, f16};
use proptest::prelude::*;

/// The reference for every request: o and lse as [`Output`] has them.
fn expected<P: Precision, T: Float>(
    case: &Case,
    inputs: &Inputs<T>,
    round: impl Fn(f64) -> T,
) -> [Vec<f64>; 2] {
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    let mut row = 0;
    for (r, ([sq, sk], request)) in case.requests().zip(&inputs.requests).enumerate() {
        let dense = matches!(case.storage, Storage::Dense { .. });
        // Where the options have query i of this request.
        let place = |i: usize| if dense { [r, i] } else { [0, row + i] };
        let round = |data: &[T]| -> Vec<T> { data.iter().map(|x| round(x.to_f64())).collect() };
        let (q, k, v) = (round(&request.q), round(&request.k), round(&request.v));
        let view = |data, len, heads, dim| {
            HostTensor::new(data, Layout::contiguous([1, len, heads, dim])).expect("in bounds")
        };
        let bias = |[_, head, i, j]: [usize; 4]| {
            let [b, i] = place(i);
            inputs
                .bias
                .as_ref()
                .map_or(0.0, |bias| bias.at([b, head, i, j]))
        };
        let sees = |[_, head, i, j]: [usize; 4]| {
            let [b, row] = place(i);
            let bit = inputs.bits.as_ref().is_none_or(|bits| {
                bits.data[bits.layout.position([b, row, j / 8])] >> (j % 8) & 1 == 1
            });
            let kv_head = head / case.group_size;
            bit && inputs
                .blocks
                .as_ref()
                .is_none_or(|blocks| blocks.sees(r, kv_head, i, j))
        };
        let prefix_lens = inputs.prefix_lens.as_ref();
        let prefix_lens: Vec<usize> = prefix_lens
            .map(|lens| vec![(lens[r].max(0) as usize).min(sk)])
            .unwrap_or_default();
        let slopes = inputs.slopes.as_ref().map(|slopes| {
            let heads: Vec<f32> = (0..case.qo_heads())
                .map(|head| slopes.data[slopes.layout.position([r, head])])
                .collect();
            heads
        });
        let options = AttentionOptions {
            sinks: inputs.sinks.as_ref().map(Host::tensor),
            alibi_slopes: slopes.as_ref().map(|slopes| {
                HostTensor::new(slopes, Layout::contiguous([1, case.qo_heads()]))
                    .expect("in bounds")
            }),
            bias: inputs.bias.as_ref().map(|_| &bias as _),
            prefix_lens: &prefix_lens,
            sees: Some(&sees),
        };
        let attention = reference::prefill_with::<P, T>(
            &case.op,
            &view(&q, sq, case.qo_heads(), case.head_dim),
            &view(&k, sk, case.kv_heads, case.head_dim),
            &view(&v, sk, case.kv_heads, case.head_dim_v),
            &options,
        );
        o.extend_from_slice(attention.o.data());
        lse.extend_from_slice(attention.lse.data());
        row += sq;
    }
    [o, lse]
}

/// Runs a call twice, and holds the bits of both to each other and the values to the rule.
fn passes<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let inputs = Inputs::<T>::new(case);
    let got = run(case, &inputs)?;
    let again = run(case, &inputs)?;
    assert_same_bits(&got.o, &again.o)?;
    let lse = |output: &Output<T>| output.lse.clone().unwrap_or_default();
    assert_same_bits(&lse(&got), &lse(&again))?;

    // The reference is that of the rounded inputs: operands of f32 are rounded to bf16 as they are loaded.
    // They are f32 exactly; `bf16::from_f64` looks at the upper half of an f64 only.
    let rounded = |x: f64| T::from_f64(bf16::from_f32(x as f32).to_f64());
    let [exact, low] = match T::DTYPE {
        DType::F32 => [
            expected::<Exact, T>(case, &inputs, rounded),
            expected::<Rounded<bf16>, T>(case, &inputs, rounded),
        ],
        _ => [
            expected::<Exact, T>(case, &inputs, T::from_f64),
            expected::<Rounded<T>, T>(case, &inputs, T::from_f64),
        ],
    };
    let values: Vec<f64> = got.o.iter().map(|x| x.to_f64()).collect();
    reference::check(&values, &exact[0], &low[0]).map_err(|e| fail(format!("o: {e}")))?;
    if let Some(lse) = got.lse {
        let values_of_lse = lse.iter().map(|&x| f64::from(x));
        // The lse of f32 tensors is that of weights rounded to bf16, like o. One row has one such error, which by chance is
        // small in `low` and does not tell how large they get; those of o do.
        let is_f32 = T::DTYPE == DType::F32;
        let beside = |o: &[f64]| if is_f32 { o.to_vec() } else { Vec::new() };
        let values: Vec<f64> = beside(&values).into_iter().chain(values_of_lse).collect();
        let [exact, low] = [exact, low].map(|[o, lse]| [beside(&o), lse].concat());
        reference::check(&values, &exact, &low).map_err(|e| fail(format!("lse: {e}")))?;
    }
    Ok(())
}

/// [`passes`] for the case's element type.
pub fn case_passes(case: &Case) -> Result<(), TestCaseError> {
    match case.dtype {
        DType::F16 => passes::<f16>(case),
        DType::BF16 => passes::<bf16>(case),
        _ => passes::<f32>(case),
    }
}
