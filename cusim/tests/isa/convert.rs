//! Every `cvt` between integers, floats and both, in every rounding.

use proptest::prelude::*;

use crate::exact::{BF16, F16, F32, F64, Format, MODES, Mode, Value};
use crate::harness::{Operands, Out, config, floats32, floats64, halves, integers, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    integers_widen_narrow_and_saturate,
    integers_become_floats,
    floats_become_integers,
    floats_change_format,
    floats_saturate,
    floats_round_to_integers_in_their_format,
    floats_are_packed_in_pairs,
    relu_and_satfinite,
    tensor_floats_keep_ten_bits,
];

/// A type of integers and where it is kept.
#[derive(Clone, Copy)]
struct Integer {
    name: &'static str,
    signed: bool,
    bits: u32,
}

const fn integer(name: &'static str, signed: bool, bits: u32) -> Integer {
    Integer { name, signed, bits }
}

const INTEGERS: [Integer; 8] = [
    integer("s8", true, 8),
    integer("u8", false, 8),
    integer("s16", true, 16),
    integer("u16", false, 16),
    integer("s32", true, 32),
    integer("u32", false, 32),
    integer("s64", true, 64),
    integer("u64", false, 64),
];

impl Integer {
    fn value(self, bits: u64) -> i128 {
        let unused = 128 - self.bits;
        if self.signed {
            i128::from(bits) << unused >> unused
        } else {
            (u128::from(bits) << unused >> unused) as i128
        }
    }

    fn clamp(self, x: i128) -> i128 {
        let half = 1i128 << (self.bits - 1);
        if self.signed {
            x.clamp(-half, half - 1)
        } else {
            x.clamp(0, 2 * half - 1)
        }
    }

    /// The register that a value is in, its name and its bits.
    fn register(self) -> (char, u32, Out) {
        match self.bits {
            8 | 16 => ('h', 16, Out::H),
            32 => ('r', 32, Out::R),
            _ => ('q', 64, Out::Q),
        }
    }
}

fn low(x: i128, bits: u32) -> u64 {
    (x as u128 & ((1 << bits) - 1)) as u64
}

fn register(format: Format) -> (char, Out) {
    match format.bits() {
        16 => ('h', Out::H),
        32 => ('f', Out::F),
        _ => ('d', Out::D),
    }
}

/// Checks `body` on every first operand.
fn check(body: &str, out: Out, operands: &[Operands], expected: impl Fn(u64) -> u64, nan: Format) {
    let is_float = !matches!(out, Out::R | Out::Q);
    for ([a, ..], got) in operands.iter().zip(run(body, out, operands)) {
        let expected = expected(*a);
        let both_nan = is_float && nan.is_nan(got) && nan.is_nan(expected);
        assert!(
            got == expected || both_nan,
            "{body} of {a:#x} is {got:#x}, not {expected:#x}"
        );
    }
}

/// Modes of rounding to integers.
const TO_INTEGER: [(&str, Mode); 4] = [
    ("rni", Mode::Nearest),
    ("rzi", Mode::Zero),
    ("rmi", Mode::Down),
    ("rpi", Mode::Up),
];

fn float_to_integer(from: Format, operands: &[Operands]) {
    let (source, _) = register(from);
    for to in INTEGERS {
        let (dest, dest_bits, out) = to.register();
        let modifiers: &[_] = match from {
            F32 => &["", ".ftz", ".sat", ".ftz.sat"],
            BF16 => &[""],
            _ => &["", ".sat"],
        };
        let all = TO_INTEGER.into_iter();
        for ((name, mode), modifier) in
            all.flat_map(|mode| modifiers.iter().map(move |m| (mode, m)))
        {
            let body = format!(
                "cvt.{name}{modifier}.{}.{} %{dest}8, %{source}0;",
                to.name, from.name
            );
            let results = run(&body, out, operands);
            for ([a, ..], got) in operands.iter().zip(results) {
                let a = if modifier.starts_with(".ftz") {
                    from.flush(*a)
                } else {
                    *a
                };
                let nan = if from == F64 || to.bits == 64 {
                    1i128 << (to.bits - 1)
                } else {
                    0
                };
                let value = from.decode(a).round(mode).map_or(nan, |x| to.clamp(x));
                // The value in its type, then extended to the register as its type says.
                let expected = low(to.value(low(value, to.bits)), dest_bits);
                assert_eq!(got, expected, "{body} of {a:#x}");
            }
        }
    }
}

fn integer_to_float(to: Format, operands: &[Operands]) {
    let (dest, out) = register(to);
    for from in INTEGERS {
        let (source, ..) = from.register();
        for (name, mode) in MODES {
            let body = format!("cvt.{name}.{}.{} %{dest}8, %{source}0;", to.name, from.name);
            let expected = |a| to.encode(Value::integer(from.value(a)), mode);
            check(&body, out, operands, expected, to);
            if to != BF16 {
                let body = body.replace(name, &format!("{name}.sat"));
                let one = to.encode(Value::integer(1), mode);
                let saturated = |a| match from.value(a) {
                    ..=0 => 0,
                    1.. => one,
                };
                check(&body, out, operands, saturated, to);
            }
            if to == F32 {
                // An integer is never subnormal.
                let body = body.replace(name, &format!("{name}.ftz"));
                check(&body, out, operands, expected, to);
            }
        }
    }
}

fn float_to_float(from: Format, to: Format, operands: &[Operands]) {
    let ((source, _), (dest, out)) = (register(from), register(to));
    let widens = to.fraction >= from.fraction && to.exponent >= from.exponent;
    let modes: &[_] = if widens {
        &[("", Mode::Nearest)]
    } else {
        &MODES
    };
    for (name, mode) in modes {
        let dot = if name.is_empty() { "" } else { "." };
        let types = format!("{}.{} %{dest}8, %{source}0;", to.name, from.name);
        let body = format!("cvt{dot}{name}.{types}");
        let convert = |a| to.encode(from.decode(a), *mode);
        check(&body, out, operands, convert, to);
        if from == F32 || to == F32 {
            let body = format!("cvt{dot}{name}.ftz.{types}");
            let flushed = |a| {
                let a = if from == F32 { from.flush(a) } else { a };
                let result = to.encode(from.decode(a), *mode);
                if to == F32 { to.flush(result) } else { result }
            };
            check(&body, out, operands, flushed, to);
        }
    }
}

fn saturate_float(from: Format, to: Format, name: &str, operands: &[Operands]) {
    let ((source, _), (dest, out)) = (register(from), register(to));
    let body = format!(
        "cvt{name}.sat.{}.{} %{dest}8, %{source}0;",
        to.name, from.name
    );
    let one = Value::integer(1);
    let saturated = |a| match from.decode(a) {
        Value::Nan => 0,
        value if value.is_negative() || value == from.decode(from.sign()) => 0,
        Value::Infinite(_) => to.encode(one, Mode::Nearest),
        value if value.round(Mode::Down) != Some(0) => to.encode(one, Mode::Nearest),
        value => to.encode(value, Mode::Nearest),
    };
    check(&body, out, operands, saturated, to);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn integers_widen_narrow_and_saturate(operands in integers()) {
        for from in INTEGERS {
            let (source, ..) = from.register();
            for to in INTEGERS {
                let (dest, bits, out) = to.register();
                for sat in [false, true] {
                    let modifier = if sat { ".sat" } else { "" };
                    let body =
                        format!("cvt{modifier}.{}.{} %{dest}8, %{source}0;", to.name, from.name);
                    for ([a, ..], got) in operands.iter().zip(run(&body, out, &operands)) {
                        let value = from.value(*a);
                        let value = if sat { to.clamp(value) } else { value };
                        let expected = low(to.value(low(value, to.bits)), bits);
                        prop_assert_eq!(got, expected, "{} of {:#x}", body, a);
                    }
                }
            }
        }
    }

    #[test]
    fn integers_become_floats(operands in integers()) {
        for to in [F16, BF16, F32, F64] {
            integer_to_float(to, &operands);
        }
    }

    #[test]
    fn floats_become_integers(halves in halves(), singles in floats32(), doubles in floats64()) {
        float_to_integer(F16, &halves);
        float_to_integer(BF16, &halves);
        float_to_integer(F32, &singles);
        float_to_integer(F64, &doubles);
    }

    #[test]
    fn floats_change_format(halves in halves(), singles in floats32(), doubles in floats64()) {
        for (from, operands) in [(F16, &halves), (BF16, &halves), (F32, &singles), (F64, &doubles)] {
            for to in [F16, BF16, F32, F64] {
                if from != to {
                    float_to_float(from, to, operands);
                }
            }
        }
    }

    #[test]
    fn floats_saturate(singles in floats32(), doubles in floats64(), halves in halves()) {
        saturate_float(F32, F32, "", &singles);
        saturate_float(F32, F16, ".rn", &singles);
        saturate_float(F64, F32, ".rn", &doubles);
        saturate_float(F64, F64, "", &doubles);
        saturate_float(F64, F16, ".rn", &doubles);
        saturate_float(F32, F64, "", &singles);
        saturate_float(F16, F16, "", &halves);
        saturate_float(F16, F32, "", &halves);
        saturate_float(F16, F64, "", &halves);
    }

    #[test]
    fn floats_round_to_integers_in_their_format(
        singles in floats32(),
        doubles in floats64(),
        halves in halves(),
    ) {
        for (name, mode) in TO_INTEGER {
            for (format, operands) in [(F32, &singles), (F64, &doubles), (F16, &halves), (BF16, &halves)] {
                let (file, out) = register(format);
                let body = format!("cvt.{name}.{0}.{0} %{file}8, %{file}0;", format.name);
                let rounded = |a| {
                    let value = format.decode(a);
                    match value.round(mode) {
                        Some(x) if x.unsigned_abs() < 1 << 64 => {
                            // Zero keeps the sign of what was rounded.
                            format.encode(Value::integer(x), Mode::Nearest) | a & format.sign()
                        }
                        _ => a,
                    }
                };
                check(&body, out, operands, rounded, format);
            }
        }
    }

    #[test]
    fn floats_are_packed_in_pairs(operands in floats32()) {
        for format in [F16, BF16] {
            for (name, mode) in &MODES[..2] {
                for relu in [false, true] {
                    let modifier = if relu { ".relu" } else { "" };
                    let body =
                        format!("cvt.{name}{modifier}.{}x2.f32 %r8, %f0, %f1;", format.name);
                    for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                        for (from, half) in [(a, got >> 16), (b, got & 0xffff)] {
                            let value = F32.decode(*from);
                            let expected = match format.encode(value, *mode) {
                                _ if relu && value.is_negative() => 0,
                                bits if relu && bits == format.sign() => 0,
                                bits => bits,
                            };
                            let nan = format.is_nan(half) && format.is_nan(expected);
                            prop_assert!(half == expected || nan, "{body} of {from:#x} is {half:#x}");
                        }
                    }
                }
            }
        }
    }

    /// NaN stays NaN with `.satfinite`, here as the canonical one.
    #[test]
    fn relu_and_satfinite(operands in floats32()) {
        for format in [F16, BF16] {
            for (name, mode) in &MODES[..2] {
                for (modifier, relu, finite) in
                    [(".relu", true, false), (".satfinite", false, true), (".relu.satfinite", true, true)]
                {
                    let one = |a: u64| match format.encode(F32.decode(a), *mode) {
                        _ if relu && F32.decode(a).is_negative() => 0,
                        bits if relu && bits == format.sign() => 0,
                        bits if finite && bits & !format.sign() == format.infinity() => bits - 1,
                        bits => bits,
                    };
                    let agrees = |got: u64, expected: u64| {
                        got == expected
                            || format.is_nan(got) && format.is_nan(expected)
                    };
                    let ty = format.name;
                    let body = format!("cvt.{name}{modifier}.{ty}.f32 %h8, %f0;");
                    for ([a, ..], got) in operands.iter().zip(run(&body, Out::H, &operands)) {
                        prop_assert!(agrees(got, one(*a)), "{body} of {a:#x} is {got:#x}");
                    }
                    let body = format!("cvt.{name}{modifier}.{ty}x2.f32 %r8, %f0, %f1;");
                    for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                        let fits = agrees(got >> 16, one(*a)) && agrees(got & 0xffff, one(*b));
                        prop_assert!(fits, "{body} of {a:#x}, {b:#x} is {got:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn tensor_floats_keep_ten_bits(operands in floats32()) {
        let tf32 = Format { name: "tf32", exponent: 8, fraction: 10 };
        for (rounding, mode) in [("rna", Mode::Away), ("rn", Mode::Nearest), ("rz", Mode::Zero)] {
            for modifier in ["", ".relu", ".satfinite", ".relu.satfinite"] {
                let (relu, finite) = (modifier.contains("relu"), modifier.contains("satfinite"));
                if relu && rounding == "rna" {
                    continue;
                }
                let body = format!("cvt.{rounding}{modifier}.tf32.f32 %r8, %f0;");
                for ([a, ..], got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                    let value = F32.decode(*a);
                    let expected = match tf32.encode(value, mode) {
                        _ if relu && value.is_negative() => 0,
                        bits if relu && bits == tf32.sign() => 0,
                        bits if finite && bits & !tf32.sign() == tf32.infinity() => bits - 1,
                        bits => bits,
                    } << 13;
                    let both_nan = F32.is_nan(*a) && F32.is_nan(got);
                    prop_assert!(
                        got == expected || both_nan,
                        "{body} of {a:#x} is {got:#x}, not {expected:#x}"
                    );
                }
            }
        }
    }
}
