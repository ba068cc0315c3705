//! Prefill attention against the f64 reference, on drawn shapes, layouts and options.

mod common;

use common::{
    Arrangement, Host, arrangement, assert_same_bits, enter, fail, gpu, in_every_mode, mode, normal,
};
use ferroflash::reference::{self, Exact, Rounded};
use ferroflash::{DType, Float, Mask, Prefill, PrefillArgs};
use half::{bf16, f16};
use proptest::prelude::*;

/// One drawn call.
#[derive(Debug, Clone)]
struct Case {
    op: Prefill,
    batch: usize,
    seqlen_q: usize,
    seqlen_k: usize,
    kv_heads: usize,
    group_size: usize,
    head_dim: usize,
    /// Of q, k, v, o.
    arrangements: [Arrangement; 4],
    lse: Option<Arrangement>,
    /// Standard deviation of q: large ones give logits that only an online maximum survives.
    spread: f64,
    seed: u64,
}

/// Lengths around the edges of tiles.
fn seqlen() -> impl Strategy<Value = usize> {
    let edge = (
        0..=2usize,
        prop::sample::select(vec![16usize, 32, 64, 128]),
        1..=2usize,
    )
        .prop_map(|(offset, tile, count)| tile * count + offset - 1);
    prop_oneof![1 => Just(0), 1 => Just(1), 3 => edge, 3 => 2..200usize]
}

fn mask() -> impl Strategy<Value = Mask> {
    let side = prop_oneof![Just(None), (0..100u32).prop_map(Some), Just(Some(u32::MAX))];
    prop_oneof![
        2 => Just(Mask::Full),
        3 => Just(Mask::Causal),
        3 => (side.clone(), side).prop_map(|(left, right)| Mask::Window { left, right }),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let op = (
        mask(),
        prop::option::of(0.01f32..0.5),
        prop::option::weighted(0.3, 1f32..60.0),
    )
        .prop_map(|(mask, softmax_scale, softcap)| Prefill {
            mask,
            softmax_scale,
            softcap,
        });
    let shape = (
        1..=2usize,
        seqlen(),
        seqlen(),
        1..=3usize,
        prop::sample::select(vec![1usize, 2, 3, 4, 7]),
        prop::sample::select(vec![64usize, 128, 256]),
    );
    let layout = || arrangement(4, 8);
    (
        op,
        shape,
        [layout(), layout(), layout(), layout()],
        prop::option::of(arrangement(3, 1)),
        prop::sample::select(vec![1.0, 1.0, 30.0]),
        any::<u64>(),
    )
        .prop_map(|(op, shape, arrangements, lse, spread, seed)| {
            let (batch, seqlen_q, seqlen_k, kv_heads, group_size, head_dim) = shape;
            Case {
                op,
                batch,
                seqlen_q,
                seqlen_k,
                kv_heads,
                group_size,
                head_dim,
                arrangements,
                lse,
                spread,
                seed,
            }
        })
        // The reference takes a microsecond for every thousand products.
        .prop_filter("too large for a test", |case| {
            let rows = case.batch * case.kv_heads * case.group_size * case.seqlen_q;
            rows * case.seqlen_k * case.head_dim < 20_000_000
        })
}

fn passes<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let Case {
        op,
        batch,
        seqlen_q,
        seqlen_k,
        kv_heads,
        group_size,
        head_dim,
        ..
    } = *case;
    let qo_shape = [batch, seqlen_q, kv_heads * group_size, head_dim];
    let kv_shape = [batch, seqlen_k, kv_heads, head_dim];
    // What lies between the elements must never be read into a result.
    let nan = T::from_f64(f64::NAN);
    let [q_at, k_at, v_at, o_at] = &case.arrangements;
    let q = Host::new(q_at, qo_shape, nan, normal(case.seed, case.spread));
    let k = Host::new(k_at, kv_shape, nan, normal(case.seed ^ 1, 1.0));
    let v = Host::new(v_at, kv_shape, nan, normal(case.seed ^ 2, 1.0));
    let canary = T::from_f64(-77.0);
    let o = Host::new(o_at, qo_shape, canary, || 55.0);
    let lse_shape = [batch, kv_heads * group_size, seqlen_q];
    let lse = case
        .lse
        .as_ref()
        .map(|at| Host::<f32, 3>::new(at, lse_shape, -77.0, || 55.0));

    let run = || -> Result<(Vec<T>, Option<Vec<f32>>), TestCaseError> {
        let (q_data, k_data, v_data) = (q.upload(), k.upload(), v.upload());
        let mut o_data = o.upload();
        let mut lse_data = lse.as_ref().map(Host::upload);
        let args = PrefillArgs {
            q: q.view(&q_data),
            k: k.view(&k_data),
            v: v.view(&v_data),
            o: o.view_mut(&mut o_data),
            lse: lse
                .as_ref()
                .zip(lse_data.as_mut())
                .map(|(lse, data)| lse.view_mut(data)),
        };
        gpu()
            .kernels
            .prefill(&gpu().stream, &op, args)
            .map_err(fail)?;
        let lse = lse
            .as_ref()
            .zip(lse_data.as_ref())
            .map(|(lse, data)| lse.download(data));
        Ok((o.download(&o_data)?, lse.transpose()?))
    };
    let (o_got, lse_got) = run()?;
    let (o_again, lse_again) = run()?;
    assert_same_bits(&o_got, &o_again)?;
    assert_same_bits(
        lse_got.as_deref().unwrap_or_default(),
        lse_again.as_deref().unwrap_or_default(),
    )?;

    let (q, k, v) = (q.tensor(), k.tensor(), v.tensor());
    let exact = reference::prefill::<Exact, T>(&op, &q, &k, &v);
    let low = reference::prefill::<Rounded<T>, T>(&op, &q, &k, &v);
    let values: Vec<f64> = o_got.iter().map(|x| x.to_f64()).collect();
    reference::check(&values, exact.o.data(), low.o.data()).map_err(|e| fail(format!("o: {e}")))?;
    if let Some(lse_got) = lse_got {
        let values: Vec<f64> = lse_got.iter().map(|&x| f64::from(x)).collect();
        reference::check(&values, exact.lse.data(), low.lse.data())
            .map_err(|e| fail(format!("lse: {e}")))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(40), ..ProptestConfig::default() })]

    #[test]
    fn prefill_is_as_exact_as_the_rule_demands(mode in mode(), case in case(), bf16_ in any::<bool>()) {
        let _mode = enter(mode);
        match if bf16_ { DType::BF16 } else { DType::F16 } {
            DType::BF16 => passes::<bf16>(&case)?,
            _ => passes::<f16>(&case)?,
        }
    }
}

#[test]
fn prefill_is_as_exact_in_every_mode() {
    let small = case().prop_filter("for many modes", |case| {
        let rows = case.batch * case.kv_heads * case.group_size * case.seqlen_q;
        rows * case.seqlen_k * case.head_dim < 2_000_000
    });
    in_every_mode((small, any::<bool>()), |(case, bf16_)| {
        if *bf16_ {
            passes::<bf16>(case)
        } else {
            passes::<f16>(case)
        }
    });
}
