//! The error rule: `max|out - ref| <= 2 * max|yardstick - ref| + 1e-5`.

use thiserror::Error;

/// An element of a result that is further from the reference than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[error("element {index}: got {got}, want {want} within {bound}")]
pub struct Mismatch {
    /// Row-major index.
    pub index: usize,
    /// The result.
    pub got: f64,
    /// The reference.
    pub want: f64,
    /// The allowed distance.
    pub bound: f64,
}

/// The largest distance from `reference` that a result may have, when `yardstick` is what naive
/// low-precision arithmetic gives. Elements that are not finite do not count.
pub fn error_bound(reference: &[f64], yardstick: &[f64]) -> f64 {
    let distances = reference
        .iter()
        .zip(yardstick)
        .map(|(want, low)| (low - want).abs());
    2.0 * distances
        .filter(|distance| distance.is_finite())
        .fold(0.0, f64::max)
        + 1e-5
}

/// Holds `out` to [`error_bound`] and returns its largest distance from the reference. NaN must be
/// NaN, and an infinity the same infinity.
///
/// # Errors
/// [`Mismatch`] with the worst element.
///
/// # Panics
/// When the slices differ in length.
pub fn check(out: &[f64], reference: &[f64], yardstick: &[f64]) -> Result<f64, Mismatch> {
    assert_eq!(
        out.len(),
        reference.len(),
        "a result and its reference have one shape"
    );
    assert_eq!(
        out.len(),
        yardstick.len(),
        "a result and its yardstick have one shape"
    );
    let bound = error_bound(reference, yardstick);
    let mut worst = Mismatch {
        index: 0,
        got: 0.0,
        want: 0.0,
        bound,
    };
    let mut largest = 0.0;
    for (index, (&got, &want)) in out.iter().zip(reference).enumerate() {
        let same = got == want || (got.is_nan() && want.is_nan());
        let distance = match (same, (got - want).abs()) {
            (true, _) => 0.0,
            (false, distance) if distance.is_finite() => distance,
            _ => f64::INFINITY,
        };
        if distance > largest {
            largest = distance;
            worst = Mismatch {
                index,
                got,
                want,
                bound,
            };
        }
    }
    if largest <= bound {
        Ok(largest)
    } else {
        Err(worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_yardstick_is_allowed_and_no_more() {
        let (reference, yardstick) = ([1.0, 2.0], [1.0, 2.5]);
        assert_eq!(error_bound(&reference, &yardstick), 1.0 + 1e-5);
        assert_eq!(check(&[0.0, 2.0], &reference, &yardstick), Ok(1.0));
        let mismatch = check(&[1.0, 3.5], &reference, &yardstick);
        let expected = Mismatch {
            index: 1,
            got: 3.5,
            want: 2.0,
            bound: 1.0 + 1e-5,
        };
        assert_eq!(mismatch, Err(expected));
    }

    #[test]
    fn values_that_are_not_finite_must_agree() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let reference = [nan, -inf, 1.0];
        assert_eq!(check(&[nan, -inf, 1.0], &reference, &reference), Ok(0.0));
        for wrong in [
            [0.0, -inf, 1.0],
            [nan, inf, 1.0],
            [nan, 0.0, 1.0],
            [nan, -inf, nan],
        ] {
            assert!(check(&wrong, &reference, &reference).is_err(), "{wrong:?}");
        }
        // An overflowing yardstick excuses nothing.
        assert_eq!(error_bound(&[1.0], &[inf]), 1e-5);
    }
}
