//! The RMSNorm family with every option, and its gradients. Tensors are row-major `f64`.

use super::Precision;
use crate::dtype::Quantized;
use crate::norm::{Norm, RmsNorm, Scale, Statistics, WeightForm};

/// Operands of [`norm`]: rows of `width` elements each, and vectors of `width`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NormInputs<'a> {
    /// Elements of a row.
    pub width: usize,
    /// `[rows, width]`.
    pub x: &'a [f64],
    /// `[width]`.
    pub weight: Option<&'a [f64]>,
    /// `[width]`.
    pub bias: Option<&'a [f64]>,
    /// `[rows, width]`.
    pub gate: Option<&'a [f64]>,
    /// `[rows, width]`.
    pub residual: Option<&'a [f64]>,
    /// A norm before the residual is added, with its weight `[width]`.
    pub post: Option<Option<&'a [f64]>>,
}

/// Results of [`norm`], `[rows, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct NormOutputs {
    /// What was normalised: the residual stream after the sum.
    pub residual: Vec<f64>,
    /// The output, not quantised.
    pub out: Vec<f64>,
}

/// `norm(h) * w + bias`, times `gate * sigmoid(gate)`, with `h = x` or `h = residual + x` or `h = residual + norm(x) * w`.
pub fn norm<P: Precision>(op: &Norm, inputs: &NormInputs<'_>) -> NormOutputs {
    let width = inputs.width;
    let (mut residual, mut out) = (Vec::new(), Vec::new());
    for (row, x) in inputs.x.chunks_exact(width).enumerate() {
        let at =
            |tensor: Option<&[f64]>, col: usize| tensor.map(|tensor| tensor[row * width + col]);
        let mut h = x.to_vec();
        if let Some(weight) = inputs.post {
            let plain = Norm {
                columns: None,
                ..*op
            };
            h = normalised::<P>(&plain, &h);
            (0..width).for_each(|col| h[col] = weighted::<P>(op, h[col], weight, col));
        }
        for (col, h) in h.iter_mut().enumerate() {
            *h = at(inputs.residual, col).map_or(*h, |residual| P::round(*h + residual));
        }
        let normalised = normalised::<P>(op, &h);
        for (col, &y) in normalised.iter().enumerate() {
            let mut y = weighted::<P>(op, y, inputs.weight, col);
            if let Some(bias) = inputs.bias {
                y = P::round(y + bias[col]);
            }
            if let Some(gate) = at(inputs.gate, col) {
                y = P::round(y * P::round(gate * (1.0 / (1.0 + (-gate).exp()))));
            }
            out.push(y);
        }
        residual.extend(h);
    }
    NormOutputs { residual, out }
}

fn normalised<P: Precision>(op: &Norm, h: &[f64]) -> Vec<f64> {
    let counted = &h[..op.columns.unwrap_or(h.len())];
    let mean_of =
        |f: &dyn Fn(f64) -> f64| counted.iter().map(|&h| f(h)).sum::<f64>() / counted.len() as f64;
    let mean = match op.statistics {
        Statistics::RootMeanSquare => 0.0,
        Statistics::Deviation => mean_of(&|h| h),
    };
    let mean_square = mean_of(&|h| (h - mean) * (h - mean));
    let inverse = 1.0 / (mean_square + f64::from(op.eps)).sqrt();
    h.iter().map(|&h| P::round((h - mean) * inverse)).collect()
}

fn weighted<P: Precision>(op: &Norm, y: f64, weight: Option<&[f64]>, col: usize) -> f64 {
    match (weight, op.weight) {
        (None, _) => y,
        (Some(weight), WeightForm::Plain) => P::round(y * weight[col]),
        (Some(weight), WeightForm::OnePlus) => P::round(y * P::round(1.0 + weight[col])),
    }
}

/// The scales of rows `y` of `width` elements, `[rows, groups]`, with `max` the type's largest finite value.
pub fn scales<Q: Quantized>(scale: Scale, y: &[f64], width: usize) -> Vec<f64> {
    let group = match scale {
        Scale::Static(scale) => return vec![scale.into()],
        Scale::PerRow => width,
        Scale::PerGroup(size) => size,
    };
    let larger = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
    let largest = |group: &[f64]| group.iter().fold(0.0, |most, y| larger(y.abs(), most));
    let scale = |group| {
        larger(
            largest(group) / f64::from(Q::MAX),
            f64::from(f32::MIN_POSITIVE),
        )
    };
    y.chunks_exact(group).map(scale).collect()
}

/// Gradients of RMSNorm: of `x` (plus `dh`) and of the weight, from that of the output `dy`.
pub fn rms_norm_backward<P: Precision>(
    op: &RmsNorm,
    width: usize,
    x: &[f64],
    weight: Option<&[f64]>,
    dy: &[f64],
    dh: Option<&[f64]>,
) -> (Vec<f64>, Vec<f64>) {
    let (mut dx, mut dw) = (Vec::new(), vec![0.0; width]);
    for (row, (x, dy)) in x
        .chunks_exact(width)
        .zip(dy.chunks_exact(width))
        .enumerate()
    {
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
        let inverse = 1.0 / (mean_square + f64::from(op.eps)).sqrt();
        let n: Vec<f64> = x.iter().map(|x| P::round(x * inverse)).collect();
        let g: Vec<f64> = (0..width)
            .map(|col| match (weight, op.weight) {
                (None, _) => dy[col],
                (Some(weight), WeightForm::Plain) => P::round(dy[col] * weight[col]),
                (Some(weight), WeightForm::OnePlus) => P::round(dy[col] * (1.0 + weight[col])),
            })
            .collect();
        let mean = (0..width).map(|col| g[col] * n[col]).sum::<f64>() / width as f64;
        for col in 0..width {
            let gradient = P::round((g[col] - n[col] * mean) * inverse);
            dx.push(dh.map_or(gradient, |dh| P::round(gradient + dh[row * width + col])));
            dw[col] += P::round(dy[col] * n[col]);
        }
    }
    (dx, dw.into_iter().map(P::round).collect())
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use float8::F8E4M3;

    use super::*;
    use crate::reference::Exact;

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert_abs_diff_eq!(*got, *want, epsilon = 1e-12);
        }
    }

    fn run(op: &Norm, inputs: &NormInputs<'_>) -> NormOutputs {
        norm::<Exact>(op, inputs)
    }

    #[test]
    fn layer_norm_subtracts_the_mean_first() {
        let op = Norm {
            statistics: Statistics::Deviation,
            ..Norm::default()
        };
        // Mean 3, deviations -1, 0 and 1: variance 2 / 3.
        let inputs = NormInputs {
            width: 3,
            x: &[2.0, 3.0, 4.0],
            weight: Some(&[1.0, 1.0, 2.0]),
            bias: Some(&[0.0, 5.0, 1.0]),
            ..NormInputs::default()
        };
        let one = 1.5f64.sqrt();
        close(&run(&op, &inputs).out, &[-one, 5.0, 2.0 * one + 1.0]);
    }

    #[test]
    fn partial_statistics_count_the_first_columns() {
        let op = Norm {
            columns: Some(2),
            ..Norm::default()
        };
        let inputs = NormInputs {
            width: 3,
            x: &[2.0, -2.0, 10.0],
            ..NormInputs::default()
        };
        close(&run(&op, &inputs).out, &[1.0, -1.0, 5.0]);
    }

    #[test]
    fn a_residual_is_added_before_and_kept() {
        let inputs = NormInputs {
            width: 2,
            x: &[1.0, -5.0],
            residual: Some(&[2.0, 1.0]),
            weight: Some(&[1.0, 3.0]),
            ..NormInputs::default()
        };
        let got = run(&Norm::default(), &inputs);
        let rms = 12.5f64.sqrt();
        close(&got.residual, &[3.0, -4.0]);
        close(&got.out, &[3.0 / rms, -12.0 / rms]);
    }

    #[test]
    fn a_post_norm_comes_before_the_residual() {
        let op = Norm {
            weight: WeightForm::OnePlus,
            ..Norm::default()
        };
        // x has a root mean square of 2; 1 + w is 3.
        let inputs = NormInputs {
            width: 2,
            x: &[2.0, -2.0],
            residual: Some(&[0.0, -1.0]),
            post: Some(Some(&[2.0, 2.0])),
            ..NormInputs::default()
        };
        let got = run(&op, &inputs);
        close(&got.residual, &[3.0, -4.0]);
        close(&got.out, &[3.0 / 12.5f64.sqrt(), -4.0 / 12.5f64.sqrt()]);
    }

    #[test]
    fn a_gate_multiplies_by_its_silu() {
        let inputs = NormInputs {
            width: 2,
            x: &[2.0, 2.0],
            gate: Some(&[0.0, 1.0]),
            ..NormInputs::default()
        };
        let silu = 1.0 / (1.0 + (-1.0f64).exp());
        close(&run(&Norm::default(), &inputs).out, &[0.0, silu]);
    }

    #[test]
    fn a_scale_makes_the_largest_element_the_largest_number() {
        let y = [0.0, -896.0, 44.8, 4.48];
        assert_eq!(scales::<F8E4M3>(Scale::PerRow, &y, 4), [2.0]);
        let zeros = scales::<F8E4M3>(Scale::PerRow, &[0.0; 2], 2);
        assert_eq!(zeros, [f64::from(f32::MIN_POSITIVE)]);
        let nan = scales::<F8E4M3>(Scale::PerRow, &[1.0, f64::NAN, 2.0], 3);
        assert!(nan[0].is_nan());
    }

    /// Gradients are slopes: of the sum of out * dy, by central differences.
    #[test]
    fn gradients_are_slopes() {
        let op = RmsNorm {
            eps: 0.1,
            weight: WeightForm::OnePlus,
        };
        let (x, dy) = (
            [0.5, -1.0, 2.0, 1.5, 0.25, -0.75],
            [1.0, 2.0, -0.5, 0.3, -1.0, 0.7],
        );
        let weight = [0.5, -0.25, 1.0];
        let loss = |x: &[f64], weight: &[f64]| -> f64 {
            let inputs = NormInputs {
                width: 3,
                x,
                weight: Some(weight),
                ..NormInputs::default()
            };
            let out = run(&op.into(), &inputs).out;
            out.iter().zip(dy).map(|(y, dy)| y * dy).sum()
        };
        let (dx, dw) = rms_norm_backward::<Exact>(&op, 3, &x, Some(&weight), &dy, None);
        let step = 1e-5;
        let slope = |of: &[f64], at: usize, loss: &dyn Fn(&[f64]) -> f64| {
            let (mut up, mut down) = (of.to_vec(), of.to_vec());
            up[at] += step;
            down[at] -= step;
            (loss(&up) - loss(&down)) / (2.0 * step)
        };
        for (at, dx) in dx.iter().enumerate() {
            assert_abs_diff_eq!(*dx, slope(&x, at, &|x| loss(x, &weight)), epsilon = 1e-8);
        }
        for (at, dw) in dw.iter().enumerate() {
            assert_abs_diff_eq!(*dw, slope(&weight, at, &|w| loss(&x, w)), epsilon = 1e-8);
        }
        let (with, _) = rms_norm_backward::<Exact>(&op, 3, &x, Some(&weight), &dy, Some(&x));
        let sums: Vec<f64> = dx.iter().zip(x).map(|(dx, dh)| dx + dh).collect();
        close(&with, &sums);
    }
}
