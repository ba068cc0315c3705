//! Root-mean-square normalisation.

use super::{HostTensor, Precision, Tensor};
use crate::dtype::Float;
use crate::norm::{RmsNorm, WeightForm};

/// `x / sqrt(mean(x²) + eps) * w` for every row of `x` `[rows, width]`, with `weight` `[width]`.
///
/// # Panics
/// When the shapes do not fit each other.
pub fn rms_norm<P: Precision, T: Float>(
    op: &RmsNorm,
    x: &HostTensor<'_, T, 2>,
    weight: &HostTensor<'_, T, 1>,
) -> Tensor<2> {
    let [rows, width] = x.shape();
    assert_eq!(weight.shape(), [width]);
    let mut out = Tensor::filled([rows, width], 0.0);
    for row in 0..rows {
        let squares = (0..width).map(|col| x.at([row, col]) * x.at([row, col]));
        let mean_square = squares.sum::<f64>() / width as f64;
        let inverse = 1.0 / (mean_square + f64::from(op.eps)).sqrt();
        for col in 0..width {
            let weight = match op.weight {
                WeightForm::Plain => weight.at([col]),
                WeightForm::OnePlus => P::round(1.0 + weight.at([col])),
            };
            *out.at_mut([row, col]) = P::round(P::round(x.at([row, col]) * inverse) * weight);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;
    use crate::reference::Exact;
    use crate::tensor::Layout;

    fn run(op: &RmsNorm, x: &[f32], weight: &[f32]) -> Vec<f64> {
        let width = weight.len();
        let x =
            HostTensor::new(x, Layout::contiguous([x.len() / width, width])).expect("in bounds");
        let weight = HostTensor::new(weight, Layout::contiguous([width])).expect("in bounds");
        rms_norm::<Exact, f32>(op, &x, &weight).data().to_vec()
    }

    #[test]
    fn rows_are_divided_by_their_root_mean_square() {
        // Mean squares 12.5 and 4.
        let op = RmsNorm {
            eps: 0.0,
            weight: WeightForm::Plain,
        };
        let out = run(&op, &[3.0, 4.0, 2.0, -2.0], &[1.0, 10.0]);
        let rms = 12.5f64.sqrt();
        for (got, want) in out.iter().zip([3.0 / rms, 40.0 / rms, 1.0, -10.0]) {
            assert_abs_diff_eq!(*got, want, epsilon = 1e-12);
        }
    }

    #[test]
    fn eps_is_added_to_the_mean_square() {
        let op = RmsNorm {
            eps: 5.0,
            weight: WeightForm::Plain,
        };
        assert_abs_diff_eq!(run(&op, &[2.0], &[1.0])[0], 2.0 / 3.0, epsilon = 1e-12);
        assert_eq!(run(&op, &[0.0], &[1.0]), [0.0]);
    }

    #[test]
    fn gemma_multiplies_by_one_plus_the_weight() {
        let op = RmsNorm {
            eps: 0.0,
            weight: WeightForm::OnePlus,
        };
        assert_eq!(run(&op, &[2.0], &[0.5]), [1.5]);
    }

    #[test]
    fn a_zero_row_without_eps_is_nan() {
        let op = RmsNorm {
            eps: 0.0,
            weight: WeightForm::Plain,
        };
        assert!(
            run(&op, &[0.0, 0.0], &[1.0, 1.0])
                .iter()
                .all(|x| x.is_nan())
        );
    }
}
