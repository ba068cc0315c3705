//! RoPE frequencies as fixed-point fractions of a turn.

use super::MAX_PAIRS;

/// Turns per position of every pair, 0.64 fixed point: `scale * base^(-p / rotary_pairs) / 2π mod 1`.
pub(crate) fn turns(base: f64, scale: f64, rotary_pairs: usize) -> [u64; MAX_PAIRS] {
    let mut turns = [0; MAX_PAIRS];
    for (p, turn) in turns.iter_mut().enumerate().take(rotary_pairs) {
        let frequency = scale * base.powf(-(p as f64) / rotary_pairs as f64);
        let fraction = (frequency / std::f64::consts::TAU).rem_euclid(1.0);
        *turn = (fraction * 2f64.powi(64)) as u64;
    }
    turns
}
