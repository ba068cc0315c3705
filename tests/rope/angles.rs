//! Angles at positions where f32 arithmetic would have none left.

use ferroflash::{Layout, Position, Positions, Rope, RopeArgs};

use crate::common::{Host, gpu};

/// Vectors (1, 0) turn into (cos, sin) of each pair, for base 10,000 and 64 pairs.
fn turned<P: Position>(positions: &[P]) -> Vec<f32> {
    let pairs = 64;
    let layout = Layout::contiguous([positions.len(), 1, 2 * pairs]);
    let ones =
        (0..positions.len() * 2 * pairs).map(|i| if i % (2 * pairs) < pairs { 1.0 } else { 0.0 });
    let host = Host::<f32, 3> {
        data: ones.collect(),
        layout,
    };
    let mut data = host.upload();
    let device = Positions::new(&gpu().stream, positions).expect("valid positions");
    let args = RopeArgs::new(host.view_mut(&mut data), None, &device);
    gpu()
        .kernels
        .rope(&gpu().stream, &Rope::default(), args)
        .expect("a launch");
    host.download(&data).expect("all of it")
}

/// sin and cos of `position * 10000^(-pair / 64)`, the product taken with 2^-64 of a turn to spare: turns per position as computed
/// with 120 decimal digits, to 2^-128.
fn exact(position: f64, pair: usize) -> (f64, f64) {
    const TURNS: [(usize, u128); 3] = [
        (0, 0x28be_60db_9391_054a_7f09_d5f4_7d4d_3770),
        (1, 0x2348_55e5_5644_662e_b8f8_cd88_67f1_75c0),
        (63, 0x0001_3458_e2f5_9024_2936_c000_b86f_baba),
    ];
    let turns = TURNS
        .iter()
        .find(|(p, _)| *p == pair)
        .expect("a known pair")
        .1;
    // The position in units of 2^-26, exact for those of the tests.
    let units = (position * 2f64.powi(26)) as i128;
    let whole = units >> 26;
    let part = (units & ((1 << 26) - 1)) as u128;
    let fraction = (whole as u128)
        .wrapping_mul(turns)
        .wrapping_add((turns >> 26).wrapping_mul(part));
    let radians = (fraction >> 64) as u64 as i64 as f64 * 2f64.powi(-64) * std::f64::consts::TAU;
    radians.sin_cos()
}

fn check(positions: &[f64], got: &[f32]) {
    for (position, row) in positions.iter().zip(got.chunks(128)) {
        for pair in [0, 1, 63] {
            let (sin, cos) = exact(*position, pair);
            for (got, want) in [(row[pair], cos), (row[pair + 64], sin)] {
                // Half an ulp of values up to 1, and the ulp or two of sincospif.
                let bound = 2.0 * f64::from(f32::EPSILON);
                assert!(
                    (f64::from(got) - want).abs() <= bound,
                    "position {position}, pair {pair}: {got}, {want}"
                );
            }
        }
    }
}

#[test]
fn angles_are_exact_at_any_position() {
    let whole = [
        1,
        1000,
        999_999,
        1_000_000,
        16_777_217,
        2_000_000_000,
        i32::MAX,
    ];
    let real = whole.map(f64::from);
    check(&real, &turned(&whole));
    check(&real, &turned(&real));
    let far = [4_000_000_000i64, (1 << 36) - 1];
    check(&far.map(|x| x as f64), &turned(&far));
}

#[test]
fn angles_are_exact_between_positions() {
    let real = [
        0.25,
        -0.75,
        1000.0 + 2f64.powi(-20),
        -999_999.125,
        1_000_000.000_976_562_5,
        2_000_000_000.5,
        -2_000_000_000.062_5,
        -1e-9,
    ];
    check(&real[..7], &turned(&real[..7]));
    let narrow: Vec<f32> = vec![0.5, -3.125, 1000.25, -16_777_214.0];
    let wide: Vec<f64> = narrow.iter().map(|&x| x.into()).collect();
    check(&wide, &turned(&narrow));
    // Just below 0: its floor is -1.
    let row = turned(&real[7..]);
    assert!((row[0] - 1.0).abs() < 1e-7 && (row[64] + 1e-9).abs() < 1e-12);
}
