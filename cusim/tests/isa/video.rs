//! SIMD video instructions against arithmetic on bytes and halves.

use std::cmp::Ordering;

use proptest::prelude::*;

use crate::harness::{Operands, Out, config, mnemonics, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[every_part];

/// The parts of a word, by its bytes.
fn parts(word: u64, count: usize, signed: bool) -> Vec<i32> {
    let bytes = (word as u32).to_le_bytes();
    let number = |part: &[u8]| match (part, signed) {
        (&[byte], false) => byte.into(),
        (&[byte], true) => i8::from_le_bytes([byte]).into(),
        (&[low, high], false) => u16::from_le_bytes([low, high]).into(),
        (&[low, high], true) => i16::from_le_bytes([low, high]).into(),
        _ => unreachable!("one or two bytes"),
    };
    bytes.chunks(4 / count).map(number).collect()
}

/// Half the sum, away from zero if that lies between two integers.
fn average(a: i32, b: i32) -> i32 {
    let half = f64::from(a + b) / 2.0;
    (half + 0.5f64.copysign(if a + b < 0 { -1.0 } else { 1.0 })).trunc() as i32
}

fn expected(mnemonic: &str, [a, b, c, _]: Operands) -> u64 {
    let words: Vec<_> = mnemonic.split('.').collect();
    let (name, count) = words[0].split_at(words[0].len() - 1);
    let count: usize = count.parse().expect("a number");
    let types: Vec<_> = words
        .iter()
        .filter(|word| matches!(**word, "u32" | "s32"))
        .map(|ty| *ty == "s32")
        .collect();
    let (d_signed, a_signed, b_signed) = match types[..] {
        [a, b] => (false, a, b),
        [d, a, b] => (d, a, b),
        _ => unreachable!("two or three types"),
    };
    let has = |word: &str| words.contains(&word);
    let bits = 32 / count;
    let results = parts(a, count, a_signed)
        .into_iter()
        .zip(parts(b, count, b_signed))
        .map(|(a, b)| {
            let order = a.cmp(&b);
            let result = match name {
                "vadd" => a + b,
                "vsub" => a - b,
                "vavrg" => average(a, b),
                "vabsdiff" => (a - b).abs(),
                "vmin" => {
                    if order == Ordering::Less {
                        a
                    } else {
                        b
                    }
                }
                "vmax" => {
                    if order == Ordering::Less {
                        b
                    } else {
                        a
                    }
                }
                _ => i32::from(
                    has("eq") && order.is_eq()
                        || has("ne") && order.is_ne()
                        || has("lt") && order.is_lt()
                        || has("le") && order.is_le()
                        || has("gt") && order.is_gt()
                        || has("ge") && order.is_ge(),
                ),
            };
            let (least, most) = if d_signed {
                (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
            } else {
                (0, (1 << bits) - 1)
            };
            if has("sat") {
                result.clamp(least, most)
            } else {
                result
            }
        });
    if has("add") {
        results
            .fold(c as u32, |sum, x| sum.wrapping_add_signed(x))
            .into()
    } else {
        let kept = (1u64 << bits) - 1;
        results
            .rev()
            .fold(0, |word, x| word << bits | x as u64 & kept)
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_part(operands in proptest::collection::vec(any::<Operands>(), 32)) {
        for name in ["vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax", "vset"] {
            for mnemonic in ["2", "4"].into_iter().flat_map(|count| mnemonics(&format!("{name}{count}"))) {
                let results = run(&format!("{mnemonic} %r8, %r0, %r1, %r2;"), Out::R, &operands);
                for (operands, got) in operands.iter().zip(results) {
                    prop_assert_eq!(got, expected(&mnemonic, *operands), "{} of {:x?}", mnemonic, operands);
                }
            }
        }
    }
}
