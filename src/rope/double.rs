//! Double-double arithmetic, for frequencies.

/// The unevaluated sum of two f64 that do not overlap: about 106 significant bits. T. J. Dekker, "A
/// floating-point technique for extending the available precision" (Numer. Math. 18, 1971).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DoubleDouble {
    pub(crate) hi: f64,
    pub(crate) lo: f64,
}

impl From<f64> for DoubleDouble {
    fn from(hi: f64) -> Self {
        Self { hi, lo: 0.0 }
    }
}

impl DoubleDouble {
    /// `a + b`, exactly.
    pub(crate) fn sum(a: f64, b: f64) -> Self {
        let hi = a + b;
        let of_b = hi - a;
        let lo = (a - (hi - of_b)) + (b - of_b);
        Self { hi, lo }
    }

    /// `a * b`, exactly unless it over- or underflows. Fused multiply-add would be shorter, but is a
    /// slow library call on processors that are not known to have it.
    fn product(a: f64, b: f64) -> Self {
        let split = |x: f64| {
            let scaled = x * 134_217_729.0; // 2^27 + 1
            let hi = scaled - (scaled - x);
            (hi, x - hi)
        };
        let hi = a * b;
        let ((a_hi, a_lo), (b_hi, b_lo)) = (split(a), split(b));
        let lo = ((a_hi * b_hi - hi) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo;
        Self { hi, lo }
    }

    pub(crate) fn plus(self, x: f64) -> Self {
        let sum = Self::sum(self.hi, x);
        Self::sum(sum.hi, sum.lo + self.lo)
    }

    pub(crate) fn add(self, other: Self) -> Self {
        let sum = Self::sum(self.hi, other.hi);
        Self::sum(sum.hi, sum.lo + (self.lo + other.lo))
    }

    /// `self / x`, with the rest divided again.
    pub(crate) fn over(self, x: f64) -> Self {
        let quotient = self.hi / x;
        let product = Self::product(quotient, x);
        let rest = ((self.hi - product.hi) - product.lo) + self.lo;
        Self::sum(quotient, rest / x)
    }

    pub(crate) fn times(self, x: f64) -> Self {
        let product = Self::product(self.hi, x);
        Self::sum(product.hi, product.lo + self.lo * x)
    }

    pub(crate) fn mul(self, other: Self) -> Self {
        let product = Self::product(self.hi, other.hi);
        let cross = self.hi * other.lo + self.lo * other.hi;
        Self::sum(product.hi, product.lo + cross)
    }

    pub(crate) fn pow(self, exponent: usize) -> Self {
        let bits = (0..usize::BITS - exponent.leading_zeros()).rev();
        bits.fold(Self::from(1.0), |power, bit| {
            let square = power.mul(power);
            if exponent >> bit & 1 == 1 {
                square.mul(self)
            } else {
                square
            }
        })
    }

    /// The fractional part, 0.64 fixed point rounded to nearest.
    pub(crate) fn fraction(self) -> u64 {
        // The remainder and multiplying by 2^64 are exact; so are whole and rest of each part.
        let scaled = |x: f64| x % 1.0 * 2f64.powi(64);
        let (hi, lo) = (scaled(self.hi), scaled(self.lo));
        let rest = hi.fract() + lo.fract();
        let whole = hi as i128 + lo as i128 + rest.round() as i128;
        whole as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotient_times_its_divisor_is_the_dividend() {
        for (x, y) in [(1.0, 3.0), (2.5, 8.0), (1e-9, 7e5), (123.456, -0.1)] {
            let back = DoubleDouble::from(x).over(y).times(y).plus(-x);
            assert!(
                (back.hi + back.lo).abs() <= x.abs() * 2f64.powi(-100),
                "{x} / {y}"
            );
        }
    }

    #[test]
    fn sums_keep_what_f64_drops() {
        let sum = DoubleDouble::sum(1.0, 1e-20).add(DoubleDouble::sum(-1.0, 1e-20));
        assert_eq!(sum.hi, 2e-20);
    }
}
