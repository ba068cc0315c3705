//! Rotary position embedding, the norm before it, and what the cache behind it stores.

use super::{HostTensor, Precision, Tensor};
use crate::dtype::{Float, Quantized};
use crate::norm::WeightForm;
use crate::rope::{Direction, Frequencies, QkNorm, Rope, RopeStyle};

/// Where angles come from, with the table when there is one.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// `[axes, tokens]`.
    pub positions: &'a [f64],
    /// `[positions, 2, rotary_dim / 2]`: cosines, then sines; for [`Frequencies::Table`].
    pub table: Option<&'a Tensor<3>>,
}

/// Normalises every head of `x` `[tokens, heads, head_dim]` if `op` says so, with `weight` `[head_dim]` or without, and rotates
/// `rotary_dim` of its elements.
///
/// # Panics
/// When the shapes do not fit each other, or the table is missing.
pub fn rope<P: Precision, T: Float>(
    op: &Rope,
    x: &HostTensor<'_, T, 3>,
    angles: &Angles<'_>,
    weight: Option<&HostTensor<'_, T, 1>>,
) -> Tensor<3> {
    let [tokens, heads, head_dim] = x.shape();
    let pairs = op.rotary_dim.unwrap_or(head_dim) / 2;
    let mut out = Tensor::filled([tokens, heads, head_dim], 0.0);
    for token in 0..tokens {
        for head in 0..heads {
            let mut row: Vec<f64> = (0..head_dim).map(|d| x.at([token, head, d])).collect();
            if let Some(norm) = &op.norm {
                normalise::<P, T>(norm, &mut row, weight);
            }
            for pair in 0..pairs {
                let (first, second) = match op.style {
                    RopeStyle::HalfSplit => (pair, pair + pairs),
                    RopeStyle::Interleaved => (2 * pair, 2 * pair + 1),
                };
                let (first, second) = (op.rotary_offset + first, op.rotary_offset + second);
                let (cos, sin) = cos_sin(op, angles, [token, tokens], [pair, pairs]);
                let (cos, sin) = (P::round(cos), P::round(sin));
                let (a, b) = (row[first], row[second]);
                row[first] = P::round(P::round(a * cos) - P::round(b * sin));
                row[second] = P::round(P::round(a * sin) + P::round(b * cos));
            }
            for (d, value) in row.into_iter().enumerate() {
                *out.at_mut([token, head, d]) = value;
            }
        }
    }
    out
}

fn normalise<P: Precision, T: Float>(
    norm: &QkNorm,
    row: &mut [f64],
    weight: Option<&HostTensor<'_, T, 1>>,
) {
    let squares: f64 = row.iter().map(|x| x * x).sum();
    let inverse = 1.0 / (squares / row.len() as f64 + f64::from(norm.eps)).sqrt();
    for (d, x) in row.iter_mut().enumerate() {
        let weight = match (weight, norm.weight) {
            (None, _) => 1.0,
            (Some(weight), WeightForm::Plain) => weight.at([d]),
            (Some(weight), WeightForm::OnePlus) => P::round(1.0 + weight.at([d])),
        };
        *x = P::round(P::round(*x * inverse) * weight);
    }
}

fn cos_sin(
    op: &Rope,
    angles: &Angles<'_>,
    [token, tokens]: [usize; 2],
    [pair, pairs]: [usize; 2],
) -> (f64, f64) {
    let position = angles.positions[op.axes.axis_of(pair) * tokens + token];
    let frequencies = op.axes.frequencies(&op.frequencies, pairs);
    let (cos, sin) = match (&op.frequencies, frequencies) {
        (Frequencies::Table, _) | (_, None) => {
            let table = angles.table.expect("Frequencies::Table needs a table");
            let position = position as usize;
            (table.at([position, 0, pair]), table.at([position, 1, pair]))
        }
        (_, Some(frequencies)) => {
            let radians = frequencies.radians().nth(pair).expect("a frequency");
            let (sin, cos) = (position * radians).sin_cos();
            let factor = frequencies.attention_factor();
            (factor * cos, factor * sin)
        }
    };
    match op.direction {
        Direction::Forward => (cos, sin),
        Direction::Inverse => (cos, -sin),
    }
}

/// What a cache with this scale stores for `x`.
pub fn quantise<C: Quantized>(x: f64, scale: f32) -> C {
    C::from_f64(x * f64::from(1.0 / scale))
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use float8::F8E4M3;

    use super::*;
    use crate::dtype::Element;
    use crate::reference::Exact;
    use crate::rope::{Axes, InvFreq};
    use crate::tensor::Layout;

    /// One token with one head.
    fn run(op: &Rope, x: &[f32], position: i32) -> Vec<f64> {
        let x = HostTensor::new(x, Layout::contiguous([1, 1, x.len()])).expect("in bounds");
        let angles = Angles {
            positions: &[position.into()],
            table: None,
        };
        rope::<Exact, f32>(op, &x, &angles, None).data().to_vec()
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
        assert_close(
            &run(&Rope::default(), &[1.0, 0.0, 0.0, 1.0], 1),
            &[c, -t, s, d],
        );
    }

    #[test]
    fn neighbours_turn_together() {
        let op = Rope {
            style: RopeStyle::Interleaved,
            ..Rope::default()
        };
        let (s, c) = 1f64.sin_cos();
        let (t, d) = 0.01f64.sin_cos();
        assert_close(&run(&op, &[1.0, 0.0, 0.0, 1.0], 1), &[c, s, -t, d]);
    }

    #[test]
    fn the_rest_of_a_partial_head_stays() {
        let op = Rope {
            rotary_dim: Some(2),
            ..Rope::default()
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
            ..Rope::default()
        };
        assert_close(
            &run(&op, &[1.0, 2.0], 4),
            &run(&Rope::default(), &[1.0, 2.0], 1),
        );
    }

    #[test]
    fn a_table_gives_cosines_then_sines() {
        let table = Tensor {
            shape: [2, 2, 1],
            data: vec![1.0, 0.5, 0.0, 0.25],
        };
        let x = [2.0f32, 4.0];
        let x = HostTensor::new(&x, Layout::contiguous([1, 1, 2])).expect("in bounds");
        let op = Rope {
            frequencies: Frequencies::Table,
            ..Rope::default()
        };
        let angles = Angles {
            positions: &[1.0],
            table: Some(&table),
        };
        // cos = 0, sin = 0.25.
        assert_close(
            rope::<Exact, f32>(&op, &x, &angles, None).data(),
            &[-1.0, 0.5],
        );
        let back = Rope {
            direction: Direction::Inverse,
            ..op
        };
        assert_close(
            rope::<Exact, f32>(&back, &x, &angles, None).data(),
            &[1.0, -0.5],
        );
    }

    #[test]
    fn the_rotated_part_may_begin_later() {
        let op = Rope {
            rotary_dim: Some(2),
            rotary_offset: 1,
            ..Rope::default()
        };
        let (s, c) = 3f64.sin_cos();
        assert_close(&run(&op, &[7.0, 1.0, 0.0, 6.0], 3), &[7.0, c, s, 6.0]);
    }

    #[test]
    fn each_axis_turns_its_pairs() {
        let op = Rope {
            axes: Axes::Separate(vec![1, 1]),
            ..Rope::default()
        };
        let x = [1.0f32, 1.0, 0.0, 0.0];
        let x = HostTensor::new(&x, Layout::contiguous([1, 1, 4])).expect("in bounds");
        let angles = Angles {
            positions: &[2.0, 0.5],
            table: None,
        };
        let ((s, c), (t, d)) = (2f64.sin_cos(), 0.5f64.sin_cos());
        assert_close(
            rope::<Exact, f32>(&op, &x, &angles, None).data(),
            &[c, d, s, t],
        );
    }

    #[test]
    fn the_attention_factor_stretches() {
        let frequencies = InvFreq::new(&[0.5]).and_then(|f| f.with_attention_factor(2.0));
        let op = Rope {
            frequencies: Frequencies::Explicit(frequencies.expect("valid")),
            ..Rope::default()
        };
        let (s, c) = 1.5f64.sin_cos();
        assert_close(&run(&op, &[1.0, 0.0], 3), &[2.0 * c, 2.0 * s]);
    }

    #[test]
    fn heads_are_normalised_before_they_turn() {
        let op = Rope {
            norm: Some(QkNorm {
                eps: 0.0,
                weight: WeightForm::OnePlus,
            }),
            ..Rope::default()
        };
        let (x, weight) = ([3.0f32, 4.0], [1.0f32, -0.5]);
        let x = HostTensor::new(&x, Layout::contiguous([1, 1, 2])).expect("in bounds");
        let weight = HostTensor::new(&weight, Layout::contiguous([2])).expect("in bounds");
        let angles = Angles {
            positions: &[0.0],
            table: None,
        };
        let rms = 12.5f64.sqrt();
        assert_close(
            rope::<Exact, f32>(&op, &x, &angles, Some(&weight)).data(),
            &[6.0 / rms, 2.0 / rms],
        );
        assert_close(
            rope::<Exact, f32>(&op, &x, &angles, None).data(),
            &[3.0 / rms, 4.0 / rms],
        );
    }

    #[test]
    fn a_cache_stores_quotients() {
        assert_eq!(quantise::<F8E4M3>(3.0, 0.5).to_f64(), 6.0);
        assert_eq!(quantise::<F8E4M3>(-1e9, 0.5).to_f64(), -448.0);
    }
}
