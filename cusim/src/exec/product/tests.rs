use super::*;

const AMPERE: i32 = 24;
const HOPPER: i32 = 25;

#[test]
fn small_terms_are_cut_at_the_largest() {
    let two = |exponent: i32| (f64::from(exponent)).exp2() as f32;
    // 2^-24 is the last bit of Ampere behind 1, 2^-25 of Hopper.
    let one_and = |bits: i32, small: i32| {
        let (a, b) = ([1.0, two(small / 2)], [1.0, two(small - small / 2)]);
        sum(bits, &a, &b, 0.0)
    };
    assert_eq!(one_and(AMPERE, -24), Total::Finite((1 << 24) + 1, -24));
    assert_eq!(one_and(AMPERE, -25), Total::Finite(1 << 24, -24));
    assert_eq!(one_and(HOPPER, -25), Total::Finite((1 << 25) + 1, -25));
    assert_eq!(one_and(HOPPER, -26), Total::Finite(1 << 25, -25));
    // Many of them add up before they are cut to f32, unlike in sums that round each time.
    let a = [1.0, two(-12), two(-12), two(-12), two(-12)];
    assert_eq!(sum(AMPERE, &a, &a, 0.0).to_f32(), 1.0 + 4.0 * two(-24));
    // Towards zero, for both signs.
    let down = [1.0, two(-12), 0.0];
    assert_eq!(sum(AMPERE, &down, &down, 0.0).to_f32(), 1.0);
    assert_eq!(
        sum(AMPERE, &down, &[-1.0, -two(-12), 0.0], 0.0).to_f32(),
        -1.0
    );
}

#[test]
fn special_values_are_those_of_the_hardware() {
    let inf = f32::INFINITY;
    assert_eq!(sum(AMPERE, &[inf], &[0.0], 1.0), Total::Nan);
    assert_eq!(sum(AMPERE, &[inf], &[1.0], -inf), Total::Nan);
    assert_eq!(sum(AMPERE, &[inf], &[-1.0], 1.0), Total::Infinite(true));
    assert_eq!(
        sum(AMPERE, &[f32::NAN], &[1.0], 1.0).to_f32().to_bits(),
        NAN_F32
    );
    let zero = sum(AMPERE, &[-1.0, 1.0], &[1.0, 1.0], -0.0).to_f32();
    assert_eq!(zero.to_bits(), 0);
    let huge = sum(AMPERE, &[f32::MAX, f32::MAX], &[1.0, 1.0], 0.0);
    assert_eq!(huge.to_f32(), inf);
    let tiny = f32::from_bits(3);
    assert_eq!(
        sum(AMPERE, &[0.0], &[1.0], tiny).to_f32(),
        tiny,
        "subnormals stay"
    );
}

/// Of up to eight products.
fn sum(fraction_bits: i32, a: &[f32], b: &[f32], c: f32) -> Total {
    let vector = |elements: &[f32]| {
        let mut values = [0.0; LONGEST];
        values[..elements.len()].copy_from_slice(elements);
        Vector::of(values, F32_SMALLEST)
    };
    let (a, b) = (vector(a), vector(b));
    let (a, b) = (a.block::<8>(0), b.block::<8>(0));
    add(fraction_bits, a, b, (c, F32_SMALLEST))
}
