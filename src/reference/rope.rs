//! Rotary position embedding.

use super::{HostTensor, Precision, Tensor};
use crate::dtype::Float;
use crate::rope::{Frequencies, Rope, RopeStyle};

/// Where angles come from, with the table when there is one.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// One per token.
    pub positions: &'a [i32],
    /// `[positions, 2, rotary_dim / 2]`: cosines, then sines; for [`Frequencies::Table`].
    pub table: Option<HostTensor<'a, f32, 3>>,
}

/// Rotates the leading `rotary_dim` elements of every head of `x` `[tokens, heads, head_dim]`.
///
/// # Panics
/// When the shapes do not fit each other, or the table is missing.
pub fn rope<P: Precision, T: Float>(
    op: &Rope,
    x: &HostTensor<'_, T, 3>,
    angles: &Angles<'_>,
) -> Tensor<3> {
    let [tokens, heads, head_dim] = x.shape();
    assert_eq!(angles.positions.len(), tokens);
    let rotary_dim = op.rotary_dim.unwrap_or(head_dim);
    let pairs = rotary_dim / 2;
    let mut out = Tensor::filled([tokens, heads, head_dim], 0.0);
    for token in 0..tokens {
        for head in 0..heads {
            for d in 0..head_dim {
                *out.at_mut([token, head, d]) = x.at([token, head, d]);
            }
            for pair in 0..pairs {
                let (first, second) = match op.style {
                    RopeStyle::HalfSplit => (pair, pair + pairs),
                    RopeStyle::Interleaved => (2 * pair, 2 * pair + 1),
                };
                let (cos, sin) = cos_sin(op, angles, token, pair, pairs);
                let (cos, sin) = (P::round(cos), P::round(sin));
                let (a, b) = (x.at([token, head, first]), x.at([token, head, second]));
                *out.at_mut([token, head, first]) = P::round(P::round(a * cos) - P::round(b * sin));
                *out.at_mut([token, head, second]) =
                    P::round(P::round(a * sin) + P::round(b * cos));
            }
        }
    }
    out
}

fn cos_sin(op: &Rope, angles: &Angles<'_>, token: usize, pair: usize, pairs: usize) -> (f64, f64) {
    let position = angles.positions[token];
    match op.frequencies {
        Frequencies::Base { base, scale } => {
            let frequency = scale * base.powf(-(pair as f64) / pairs as f64);
            let angle = f64::from(position) * frequency;
            (angle.cos(), angle.sin())
        }
        Frequencies::Table => {
            let table = angles
                .table
                .as_ref()
                .expect("Frequencies::Table needs a table");
            let position = position as usize;
            (table.at([position, 0, pair]), table.at([position, 1, pair]))
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;
    use crate::reference::Exact;
    use crate::tensor::Layout;

    const OP: Rope = Rope {
        style: RopeStyle::HalfSplit,
        rotary_dim: None,
        frequencies: Frequencies::Base {
            base: 10_000.0,
            scale: 1.0,
        },
    };

    /// One token with one head.
    fn run(op: &Rope, x: &[f32], position: i32) -> Vec<f64> {
        let x = HostTensor::new(x, Layout::contiguous([1, 1, x.len()])).expect("in bounds");
        let angles = Angles {
            positions: &[position],
            table: None,
        };
        rope::<Exact, f32>(op, &x, &angles).data().to_vec()
    }

    fn assert_close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert_abs_diff_eq!(*got, *want, epsilon = 1e-12);
        }
    }

    #[test]
    fn halves_turn_together() {
        // Pair 0 turns by 1 radian, pair 1 by 10000^(-1/2) = 0.01.
        let (s, c) = 1f64.sin_cos();
        let (t, d) = 0.01f64.sin_cos();
        assert_close(&run(&OP, &[1.0, 0.0, 0.0, 1.0], 1), &[c, -t, s, d]);
    }

    #[test]
    fn neighbours_turn_together() {
        let op = Rope {
            style: RopeStyle::Interleaved,
            ..OP
        };
        let (s, c) = 1f64.sin_cos();
        let (t, d) = 0.01f64.sin_cos();
        assert_close(&run(&op, &[1.0, 0.0, 0.0, 1.0], 1), &[c, s, -t, d]);
    }

    #[test]
    fn the_rest_of_a_partial_head_stays() {
        let op = Rope {
            rotary_dim: Some(2),
            ..OP
        };
        let (s, c) = 3f64.sin_cos();
        assert_close(&run(&op, &[1.0, 0.0, 5.0, 6.0], 3), &[c, s, 5.0, 6.0]);
    }

    #[test]
    fn scale_stretches_positions() {
        let op = Rope {
            frequencies: Frequencies::Base {
                base: 10_000.0,
                scale: 0.25,
            },
            ..OP
        };
        assert_close(&run(&op, &[1.0, 2.0], 4), &run(&OP, &[1.0, 2.0], 1));
    }

    #[test]
    fn a_table_gives_cosines_then_sines() {
        let table = [1.0f32, 0.5, 0.0, 0.25];
        let table = HostTensor::new(&table, Layout::contiguous([2, 2, 1])).expect("in bounds");
        let x = [2.0f32, 4.0];
        let x = HostTensor::new(&x, Layout::contiguous([1, 1, 2])).expect("in bounds");
        let op = Rope {
            frequencies: Frequencies::Table,
            ..OP
        };
        let angles = Angles {
            positions: &[1],
            table: Some(table),
        };
        // cos = 0, sin = 0.25.
        assert_close(rope::<Exact, f32>(&op, &x, &angles).data(), &[-1.0, 0.5]);
    }
}
