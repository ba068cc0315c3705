//! Attention, row by row.

use super::{HostTensor, Precision, Tensor};
use crate::attention::Prefill;
use crate::dtype::Float;

/// The outputs of attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// `[batch, seqlen_q, num_qo_heads, head_dim]`.
    pub o: Tensor<4>,
    /// `[batch, num_qo_heads, seqlen_q]`, natural log.
    pub lse: Tensor<3>,
}

/// What [`PrefillOptions`](crate::PrefillOptions) are on the host.
#[derive(Clone, Copy, Default)]
pub struct AttentionOptions<'a> {
    /// `[num_qo_heads]`.
    pub sinks: Option<HostTensor<'a, f32, 1>>,
    /// `[batch, num_qo_heads]`.
    pub alibi_slopes: Option<HostTensor<'a, f32, 2>>,
    /// Added to the logit of `[batch, head of q, query, key]`.
    pub bias: Option<&'a dyn Fn([usize; 4]) -> f64>,
    /// `[batch]`, for [`Mask::PrefixLm`](crate::Mask::PrefixLm).
    pub prefix_lens: &'a [usize],
    /// Whether of the keys that the mask lets a query see it sees `[batch, head of q, query, key]`.
    pub sees: Option<&'a dyn Fn([usize; 4]) -> bool>,
}

/// [`prefill_with`] without options.
///
/// # Panics
/// When the shapes do not fit each other.
pub fn prefill<P: Precision, T: Float>(
    op: &Prefill,
    q: &HostTensor<'_, T, 4>,
    k: &HostTensor<'_, T, 4>,
    v: &HostTensor<'_, T, 4>,
) -> Attention {
    prefill_with::<P, T>(op, q, k, v, &AttentionOptions::default())
}

/// `softmax(mask(logits(q kᵀ))) v` with shapes as in [`Kernels::prefill`](crate::Kernels::prefill). A query whose logits
/// are all -inf gives 0 and `lse = -inf`, or its sink.
///
/// # Panics
/// When the shapes do not fit each other.
pub fn prefill_with<P: Precision, T: Float>(
    op: &Prefill,
    q: &HostTensor<'_, T, 4>,
    k: &HostTensor<'_, T, 4>,
    v: &HostTensor<'_, T, 4>,
    options: &AttentionOptions<'_>,
) -> Attention {
    let [batch, seqlen_q, num_qo_heads, head_dim] = q.shape();
    let [_, seqlen_k, num_kv_heads, head_dim_v] = v.shape();
    assert_eq!(k.shape(), [batch, seqlen_k, num_kv_heads, head_dim]);
    assert!(num_qo_heads == 0 || num_qo_heads % num_kv_heads == 0);
    let scale = f64::from(op.scale_for(head_dim));
    let mut o = Tensor::filled([batch, seqlen_q, num_qo_heads, head_dim_v], 0.0);
    let mut lse = Tensor::filled([batch, num_qo_heads, seqlen_q], f64::NEG_INFINITY);

    for [b, head, i] in lse.indices() {
        let kv_head = head / (num_qo_heads / num_kv_heads);
        let prefix = options.prefix_lens.get(b).copied().unwrap_or(0);
        let seen = |j: &usize| {
            sees(op, i, *j, [seqlen_q, seqlen_k], prefix)
                && options.sees.is_none_or(|sees| sees([b, head, i, *j]))
        };
        let keys: Vec<usize> = (0..seqlen_k).filter(seen).collect();
        let logit = |&j: &usize| {
            let products = (0..head_dim).map(|d| q.at([b, i, head, d]) * k.at([b, j, kv_head, d]));
            let mut logit = P::round(P::round(products.sum()) * scale);
            if let Some(cap) = op.softcap.map(f64::from) {
                logit = P::round(cap * (logit / cap).tanh());
            }
            if let Some(slopes) = &options.alibi_slopes {
                let distance = (i + seqlen_k).abs_diff(j + seqlen_q) as f64;
                logit = P::round(logit - slopes.at([b, head]) * distance);
            }
            match options.bias {
                Some(bias) => P::round(logit + bias([b, head, i, j])),
                None => logit,
            }
        };
        let logits: Vec<f64> = keys.iter().map(logit).collect();
        let sink = options.sinks.map(|sinks| P::round(sinks.at([head])));
        let (weights, row_lse) = softmax(&logits, sink);
        *lse.at_mut([b, head, i]) = row_lse;
        for d in 0..head_dim_v {
            let terms = keys.iter().zip(&weights);
            let sum: f64 = terms
                .map(|(&j, &p)| P::round(p) * v.at([b, j, kv_head, d]))
                .sum();
            *o.at_mut([b, i, head, d]) = P::round(sum);
        }
    }
    Attention { o, lse }
}

/// Whether the mask lets query `i` see key `j`; the last query is aligned with the last key.
fn sees(op: &Prefill, i: usize, j: usize, [seqlen_q, seqlen_k]: [usize; 2], prefix: usize) -> bool {
    let diagonal = i as i64 + seqlen_k as i64 - seqlen_q as i64;
    let key = j as i64;
    let (left, right) = op.mask.window();
    let mut behind = left.is_some_and(|left| key < diagonal - i64::from(left));
    let mut ahead = right.is_some_and(|right| key > diagonal + i64::from(right));
    if let Some(size) = op.mask.chunk().map(|size| i64::from(size.get())) {
        behind |= key.div_euclid(size) < diagonal.div_euclid(size);
        ahead |= key.div_euclid(size) > diagonal.div_euclid(size);
    }
    if j < prefix {
        return true;
    }
    !ahead && (!behind || j < op.sink_tokens as usize)
}

/// Probabilities, and the natural log of the sum of exponentials. Nothing but -inf has probability 0.
fn softmax(logits: &[f64], sink: Option<f64>) -> (Vec<f64>, f64) {
    let all = || logits.iter().copied().chain(sink);
    let max = all().fold(f64::NEG_INFINITY, f64::max);
    if all().all(|x| x == f64::NEG_INFINITY) {
        return (vec![0.0; logits.len()], f64::NEG_INFINITY);
    }
    let exponentials: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = all().map(|x| (x - max).exp()).sum();
    (
        exponentials.iter().map(|e| e / sum).collect(),
        max + sum.ln(),
    )
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;
    use crate::attention::Mask;
    use crate::reference::{Exact, Rounded};
    use crate::tensor::Layout;
    use half::f16;

    /// One head of head_dim 1 with q = 1: the logits are the keys.
    fn run(op: &Prefill, seqlen_q: usize, k: &[f32], v: &[f32]) -> Attention {
        let q = vec![1.0f32; seqlen_q];
        let tensor = |data| {
            HostTensor::new(data, Layout::contiguous([1, data.len(), 1, 1])).expect("in bounds")
        };
        prefill::<Exact, f32>(op, &tensor(&q), &tensor(k), &tensor(v))
    }

    const LN2: f32 = std::f32::consts::LN_2;

    #[test]
    fn weights_are_exponentials_of_logits() {
        // Logits 0, ln 2, ln 2: weights 1/5, 2/5, 2/5.
        let out = run(&Prefill::default(), 1, &[0.0, LN2, LN2], &[10.0, 20.0, 5.0]);
        assert_abs_diff_eq!(out.o.data()[0], 12.0, epsilon = 1e-6);
        assert_abs_diff_eq!(out.lse.data()[0], 5f64.ln(), epsilon = 1e-6);
    }

    #[test]
    fn masks_are_aligned_at_the_end() {
        let (k, v) = ([0.0; 4], [1.0, 2.0, 3.0, 4.0]);
        let mean = |mask, seqlen_q| {
            run(
                &Prefill {
                    mask,
                    ..Prefill::default()
                },
                seqlen_q,
                &k,
                &v,
            )
            .o
            .data()
            .to_vec()
        };
        assert_eq!(mean(Mask::Full, 2), [2.5, 2.5]);
        assert_eq!(mean(Mask::Causal, 2), [2.0, 2.5]);
        assert_eq!(
            mean(
                Mask::Window {
                    left: Some(1),
                    right: Some(0)
                },
                2
            ),
            [2.5, 3.5]
        );
        assert_eq!(
            mean(
                Mask::Window {
                    left: Some(0),
                    right: Some(1)
                },
                2
            ),
            [3.5, 4.0]
        );
        // More queries than keys: the first two see nothing.
        assert_eq!(mean(Mask::Causal, 6), [0.0, 0.0, 1.0, 1.5, 2.0, 2.5]);
    }

    #[test]
    fn a_query_without_keys_gives_zero_and_minus_infinity() {
        let out = run(&Prefill::default(), 2, &[], &[]);
        assert_eq!(out.o.data(), [0.0, 0.0]);
        assert_eq!(out.lse.data(), [f64::NEG_INFINITY; 2]);
    }

    #[test]
    fn scale_comes_before_softcap() {
        let op = Prefill {
            softmax_scale: Some(2.0),
            softcap: Some(3.0),
            ..Prefill::default()
        };
        let out = run(&op, 1, &[6.0], &[1.0]);
        assert_abs_diff_eq!(out.lse.data()[0], 3.0 * 4f64.tanh(), epsilon = 1e-12);
    }

    #[test]
    fn heads_share_keys_in_groups() {
        let (q, k) = ([1.0f32; 4], [0.0f32; 2]);
        let q = HostTensor::new(&q, Layout::contiguous([1, 1, 4, 1])).expect("in bounds");
        let k = HostTensor::new(&k, Layout::contiguous([1, 1, 2, 1])).expect("in bounds");
        let v = [7.0f32, 8.0];
        let v = HostTensor::new(&v, Layout::contiguous([1, 1, 2, 1])).expect("in bounds");
        let out = prefill::<Exact, f32>(&Prefill::default(), &q, &k, &v);
        assert_eq!(out.o.data(), [7.0, 7.0, 8.0, 8.0]);
    }

    #[test]
    fn the_yardstick_rounds_what_is_stored() {
        let one = [f16::from_f64(1.0); 3];
        let v = [1.0, 0.0, 0.0].map(f16::from_f64);
        let q = HostTensor::new(&one[..1], Layout::contiguous([1, 1, 1, 1])).expect("in bounds");
        let k = HostTensor::new(&one, Layout::contiguous([1, 3, 1, 1])).expect("in bounds");
        let v = HostTensor::new(&v, Layout::contiguous([1, 3, 1, 1])).expect("in bounds");
        let exact = prefill::<Exact, f16>(&Prefill::default(), &q, &k, &v);
        let rounded = prefill::<Rounded<f16>, f16>(&Prefill::default(), &q, &k, &v);
        assert_abs_diff_eq!(exact.o.data()[0], 1.0 / 3.0, epsilon = 1e-15);
        assert_eq!(rounded.o.data()[0], f16::from_f64(1.0 / 3.0).to_f64());
    }

    /// As `run`, with options.
    fn run_with(
        op: &Prefill,
        seqlen_q: usize,
        v: &[f32],
        options: &AttentionOptions<'_>,
    ) -> Attention {
        let (q, k) = (vec![1.0f32; seqlen_q], vec![0.0f32; v.len()]);
        let tensor = |data| {
            HostTensor::new(data, Layout::contiguous([1, data.len(), 1, 1])).expect("in bounds")
        };
        prefill_with::<Exact, f32>(op, &tensor(&q), &tensor(&k), &tensor(v), options)
    }

    const V: [f32; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];

    #[test]
    fn chunks_see_themselves_only() {
        let mean = |causal, seqlen_q| {
            let size = 4.try_into().expect("not 0");
            let mask = Mask::Chunked { size, causal };
            let op = Prefill {
                mask,
                ..Prefill::default()
            };
            run_with(&op, seqlen_q, &V, &AttentionOptions::default())
                .o
                .data()
                .to_vec()
        };
        // Keys 0 to 3 and 4, 5; the queries stand at keys 3, 4, 5.
        assert_eq!(mean(false, 3), [3.75, 24.0, 24.0]);
        assert_eq!(mean(true, 3), [3.75, 16.0, 24.0]);
        // The first of seven stands before all keys.
        assert_eq!(mean(false, 7)[..2], [0.0, 3.75]);
    }

    #[test]
    fn a_prefix_is_seen_by_all_and_the_rest_is_causal() {
        let op = Prefill {
            mask: Mask::PrefixLm,
            ..Prefill::default()
        };
        let options = AttentionOptions {
            prefix_lens: &[2],
            ..AttentionOptions::default()
        };
        let out = run_with(&op, 6, &V, &options);
        assert_abs_diff_eq!(
            out.o.data(),
            [1.5, 1.5, 7.0 / 3.0, 3.75, 6.2, 10.5].as_slice(),
            epsilon = 1e-12
        );
    }

    #[test]
    fn sink_tokens_stay_beside_a_window() {
        let window = Mask::Window {
            left: Some(1),
            right: Some(0),
        };
        let op = Prefill {
            mask: window,
            sink_tokens: 2,
            ..Prefill::default()
        };
        let out = run_with(&op, 6, &V, &AttentionOptions::default());
        // Query 4 sees keys 0, 1 and 3, 4.
        assert_abs_diff_eq!(
            out.o.data(),
            [1.0, 1.5, 7.0 / 3.0, 3.75, 6.75, 12.75].as_slice(),
            epsilon = 1e-12
        );
    }

    #[test]
    fn slopes_are_subtracted_by_distance() {
        let slopes = [LN2];
        let slopes = HostTensor::new(&slopes, Layout::contiguous([1, 1])).expect("in bounds");
        let options = AttentionOptions {
            alibi_slopes: Some(slopes),
            ..AttentionOptions::default()
        };
        let out = run_with(&Prefill::default(), 2, &V[..3], &options);
        // Query 0 stands at key 1: weights 1/2, 1, 1/2; query 1 at key 2: 1/4, 1/2, 1.
        assert_abs_diff_eq!(out.o.data()[0], (0.5 + 2.0 + 2.0) / 2.0, epsilon = 1e-6);
        assert_abs_diff_eq!(out.o.data()[1], (0.25 + 1.0 + 4.0) / 1.75, epsilon = 1e-6);
    }

    #[test]
    fn a_bias_is_added_and_hides_keys() {
        let bias = |[_, _, i, j]: [usize; 4]| match (i, j) {
            (0, 0) => 3f64.ln(),
            (1, _) => f64::NEG_INFINITY,
            _ => 0.0,
        };
        let options = AttentionOptions {
            bias: Some(&bias),
            ..AttentionOptions::default()
        };
        let out = run_with(&Prefill::default(), 2, &V[..2], &options);
        assert_abs_diff_eq!(out.o.data()[0], 1.25, epsilon = 1e-12);
        assert_eq!(out.o.data()[1], 0.0);
        assert_eq!(out.lse.data()[1], f64::NEG_INFINITY);
    }

    #[test]
    fn masks_by_bit_or_block_hide_keys() {
        let sees = |[_, _, i, j]: [usize; 4]| (i + j) % 2 == 1;
        let options = AttentionOptions {
            sees: Some(&sees),
            ..AttentionOptions::default()
        };
        let out = run_with(&Prefill::default(), 2, &V[..4], &options);
        assert_eq!(out.o.data(), [5.0, 2.5]);
    }

    #[test]
    fn a_sink_takes_weight_and_gives_nothing() {
        let sinks = [LN2];
        let sinks = HostTensor::new(&sinks, Layout::contiguous([1])).expect("in bounds");
        let options = AttentionOptions {
            sinks: Some(sinks),
            ..AttentionOptions::default()
        };
        // Weights 1, 1 and 2 of the sink.
        let op = Prefill {
            mask: Mask::Causal,
            ..Prefill::default()
        };
        let out = run_with(&op, 3, &V[..2], &options);
        assert_eq!(out.o.data()[0], 0.0);
        assert_abs_diff_eq!(out.lse.data()[0], 2f64.ln(), epsilon = 1e-6);
        assert_abs_diff_eq!(out.o.data()[2], 0.75, epsilon = 1e-6);
        assert_abs_diff_eq!(out.lse.data()[2], 4f64.ln(), epsilon = 1e-6);
    }
}
