//! RoPE against the f64 reference, on drawn shapes, layouts and options.
mod common;

use common::{
    Arrangement, Host, arrangement, assert_same_bits, enter, fail, gpu, in_every_mode, mode, normal,
};
use ferroflash::reference::{self, Angles, Exact, Rounded};
use ferroflash::{DType, Float, Frequencies, Layout, Positions, Rope, RopeArgs, RopeStyle};
use half::{bf16, f16};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Positions of a drawn table.
const TABLE: i32 = 50;

/// One drawn call.
#[derive(Debug, Clone)]
struct Case {
    op: Rope,
    q_heads: usize,
    k_heads: Option<usize>,
    head_dim: usize,
    q: Arrangement,
    k: Arrangement,
    table: Arrangement,
    positions: Vec<i32>,
    seed: u64,
}

/// Even numbers up to the head dimension, whole vectors more often than not.
fn rotary_dim(head_dim: usize) -> BoxedStrategy<Option<usize>> {
    let all = if head_dim.is_multiple_of(2) {
        None
    } else {
        Some(head_dim - 1)
    };
    let drawn = (1..=head_dim / 2).prop_map(|pairs| Some(2 * pairs));
    let vectors =
        (1..=head_dim.div_ceil(16)).prop_map(move |n| Some((16 * n).min(head_dim / 2 * 2)));
    prop_oneof![2 => Just(all), 1 => drawn, 2 => vectors].boxed()
}

fn case() -> impl Strategy<Value = Case> {
    let frequencies = prop_oneof![
        1 => Just(Frequencies::Table),
        3 => (prop::sample::select(vec![1e4, 5e5, 1e6, 100.5]), prop::sample::select(vec![1.0, 0.125, 0.3]))
            .prop_map(|(base, scale)| Frequencies::Base { base, scale }),
    ];
    let head_dim = prop_oneof![
        prop::sample::select(vec![16usize, 32, 64, 80, 96, 128, 256, 512]),
        2..140usize,
    ];
    let style = prop::sample::select(vec![RopeStyle::HalfSplit, RopeStyle::Interleaved]);
    let op = (style, frequencies, head_dim).prop_flat_map(|(style, frequencies, head_dim)| {
        rotary_dim(head_dim).prop_map(move |rotary_dim| {
            (
                Rope {
                    style,
                    rotary_dim,
                    frequencies,
                },
                head_dim,
            )
        })
    });
    let heads = || prop_oneof![1 => Just(0), 3 => 1..6usize, 1 => 6..40usize];
    let shape = prop_oneof![
        5 => (1..6usize, heads(), prop::option::of(heads())),
        1 => (6..40usize, heads(), prop::option::of(heads())),
        1 => (500..1100usize, 1..3usize, Just(None)),
    ];
    let layouts = prop::sample::select(vec![8usize, 8, 8, 4, 1])
        .prop_flat_map(|unit| [arrangement(3, unit), arrangement(3, unit)]);
    let largest = prop::sample::select(vec![10, 1000, 1_000_000, i32::MAX]);
    (op, shape, layouts, arrangement(3, 1), largest, any::<u64>()).prop_map(
        |((op, head_dim), (tokens, q_heads, k_heads), [q, k], table, largest, seed)| {
            let largest = if op.frequencies == Frequencies::Table {
                TABLE - 1
            } else {
                largest
            };
            let mut rng = StdRng::seed_from_u64(seed);
            let positions = (0..tokens).map(|_| rng.random_range(0..=largest)).collect();
            Case {
                op,
                q_heads,
                k_heads,
                head_dim,
                q,
                k,
                table,
                positions,
                seed,
            }
        },
    )
}

fn passes<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let Case {
        op, head_dim, seed, ..
    } = *case;
    let tokens = case.positions.len();
    let canary = T::from_f64(-77.0);
    let q = Host::<T, 3>::new(
        &case.q,
        [tokens, case.q_heads, head_dim],
        canary,
        normal(seed, 1.0),
    );
    let k = case.k_heads.map(|heads| {
        Host::<T, 3>::new(
            &case.k,
            [tokens, heads, head_dim],
            canary,
            normal(seed ^ 1, 1.0),
        )
    });
    let pairs = op.rotary_dim.unwrap_or(head_dim) / 2;
    let table = (op.frequencies == Frequencies::Table).then(|| {
        let shape = [TABLE as usize, 2, pairs];
        Host::<f32, 3>::new(&case.table, shape, f32::NAN, normal(seed ^ 2, 0.7))
    });
    let positions = Positions::new(&gpu().stream, &case.positions).map_err(fail)?;

    let run = || -> Result<Vec<Vec<T>>, TestCaseError> {
        let mut q_data = q.upload();
        let mut k_data = k.as_ref().map(Host::upload);
        let table_data = table.as_ref().map(Host::upload);
        let args = RopeArgs {
            q: q.view_mut(&mut q_data),
            k: k.as_ref()
                .zip(k_data.as_mut())
                .map(|(k, data)| k.view_mut(data)),
            positions: &positions,
            table: table
                .as_ref()
                .zip(table_data.as_ref())
                .map(|(table, data)| table.view(data)),
        };
        gpu().kernels.rope(&gpu().stream, &op, args).map_err(fail)?;
        let mut out = vec![q.download(&q_data)?];
        if let (Some(k), Some(k_data)) = (&k, &k_data) {
            out.push(k.download(k_data)?);
        }
        Ok(out)
    };
    let (first, second) = (run()?, run()?);
    let table = table.as_ref().map(Host::tensor);
    let angles = Angles {
        positions: &case.positions,
        table,
    };
    for ((host, got), again) in [Some(&q), k.as_ref()]
        .into_iter()
        .flatten()
        .zip(&first)
        .zip(&second)
    {
        assert_same_bits(got, again)?;
        let exact = reference::rope::<Exact, T>(&op, &host.tensor(), &angles);
        let low = reference::rope::<Rounded<T>, T>(&op, &host.tensor(), &angles);
        let values: Vec<f64> = got.iter().map(|x| x.to_f64()).collect();
        reference::check(&values, exact.data(), low.data()).map_err(fail)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(150), ..ProptestConfig::default() })]
    #[test]
    fn rope_is_as_exact_as_the_rule_demands(mode in mode(), case in case(), dtype in prop::sample::select(DType::ALL.to_vec())) {
        let _mode = enter(mode);
        match dtype {
            DType::BF16 => passes::<bf16>(&case)?,
            DType::F16 => passes::<f16>(&case)?,
            _ => passes::<f32>(&case)?,
        }
    }
}

#[test]
fn rope_is_as_exact_in_every_mode() {
    let dtype = prop::sample::select(DType::ALL.to_vec());
    in_every_mode((case(), dtype), |(case, dtype)| match dtype {
        DType::BF16 => passes::<bf16>(case),
        DType::F16 => passes::<f16>(case),
        _ => passes::<f32>(case),
    });
}

/// The angle at a position of a million and beyond, against f64: sines of f32 angles would be off by whole
/// hundredths there. Vectors (1, 0) turn into (cos, sin).
#[test]
fn angles_are_exact_at_any_position() {
    let (pairs, positions) = (
        64,
        [
            1,
            1000,
            999_999,
            1_000_000,
            16_777_217,
            2_000_000_000,
            i32::MAX,
        ],
    );
    let (base, scale) = (10_000.0, 1.0);
    let op = Rope {
        style: RopeStyle::HalfSplit,
        rotary_dim: None,
        frequencies: Frequencies::Base { base, scale },
    };
    let layout = Layout::contiguous([positions.len(), 1, 2 * pairs]);
    let ones =
        (0..positions.len() * 2 * pairs).map(|i| if i % (2 * pairs) < pairs { 1.0 } else { 0.0 });
    let host = Host::<f32, 3> {
        data: ones.collect(),
        layout,
    };
    let mut data = host.upload();
    let device = Positions::new(&gpu().stream, &positions).expect("valid positions");
    let args = RopeArgs {
        q: host.view_mut(&mut data),
        k: None,
        positions: &device,
        table: None,
    };
    gpu()
        .kernels
        .rope(&gpu().stream, &op, args)
        .expect("a launch");
    let got = host.download(&data).expect("all of it");
    for (position, row) in positions.iter().zip(got.chunks(2 * pairs)) {
        for pair in 0..pairs {
            let angle = f64::from(*position) * f64::powf(base, -(pair as f64) / pairs as f64);
            for (got, want) in [(row[pair], angle.cos()), (row[pair + pairs], angle.sin())] {
                // Half an ulp of values up to 1, the ulp or two of sincospif, and f64's own error in the
                // frequency, 2^-53 relative, which counts at large positions.
                let bound = 2.0 * f64::from(f32::EPSILON) + angle * f64::EPSILON;
                assert!(
                    (f64::from(got) - want).abs() <= bound,
                    "position {position}, pair {pair}: {got}, {want}"
                );
            }
        }
    }
}
