//! One instruction at a time, against other formulations of what the PTX ISA says.

use half::{bf16, f16};

use crate::machine::{evaluate, load};

/// Numbers that are edges for most instructions, and a spread of others.
fn words() -> Vec<u32> {
    let mut words = vec![
        0,
        1,
        2,
        3,
        31,
        32,
        33,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        0x8000_0000,
        0x8000_0001,
        0xffff_fffe,
        0xffff_ffff,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x0040_0000,
        0x0080_0000,
        0x7f7f_ffff,
        0x4b00_0001,
    ];
    let mut state = 1u64;
    for _ in 0..40 {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        words.push((state >> 32) as u32);
    }
    words
}

fn pairs() -> Vec<Vec<u64>> {
    let words = words();
    let pairs = words
        .iter()
        .flat_map(|&a| words.iter().map(move |&b| vec![a.into(), b.into()]));
    pairs.collect()
}

fn triples() -> Vec<Vec<u64>> {
    let words = words();
    let count = words.len();
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    pairs
        .map(|(a, b)| {
            vec![
                words[a].into(),
                words[b].into(),
                words[(a * 7 + b * 3) % count].into(),
            ]
        })
        .collect()
}

/// Checks an instruction of words in all cases.
fn check(body: &str, cases: &[Vec<u64>], want: impl Fn(&[u32]) -> u32) {
    let widths = vec![32; cases[0].len()];
    let got = evaluate(body, &widths, 32, cases);
    for (case, got) in cases.iter().zip(got) {
        let operands: Vec<u32> = case.iter().map(|&x| x as u32).collect();
        let want = want(&operands);
        assert_eq!(
            got as u32, want,
            "{body} of {operands:x?}: {got:#x}, not {want:#x}"
        );
    }
}

/// Checks an instruction of 64-bit operands whose upper halves are other words.
fn check_wide(body: &str, widths: &[u32], want: impl Fn(&[u64]) -> u64) {
    let words = words();
    let cases: Vec<Vec<u64>> = triples()
        .into_iter()
        .enumerate()
        .map(|(at, case)| {
            let upper = |k: usize| u64::from(words[(at * 5 + k * 11) % words.len()]) << 32;
            let wide = case.iter().zip(widths).enumerate();
            wide.map(|(k, (&x, &bits))| if bits == 64 { x | upper(k) } else { x })
                .collect()
        })
        .collect();
    for (case, got) in cases.iter().zip(evaluate(body, widths, 64, &cases)) {
        let want = want(case);
        assert_eq!(got, want, "{body} of {case:x?}: {got:#x}, not {want:#x}");
    }
}

#[test]
fn sums_and_products_wrap_or_saturate() {
    let p = pairs();
    check("add.u32 %r9, %r0, %r1;", &p, |x| x[0].wrapping_add(x[1]));
    check("sub.s32 %r9, %r0, %r1;", &p, |x| x[0].wrapping_sub(x[1]));
    check("add.sat.s32 %r9, %r0, %r1;", &p, |x| {
        (i64::from(x[0] as i32) + i64::from(x[1] as i32)).clamp(i32::MIN.into(), i32::MAX.into())
            as u32
    });
    check("mul.hi.s32 %r9, %r0, %r1;", &p, |x| {
        ((i64::from(x[0] as i32) * i64::from(x[1] as i32)) >> 32) as u32
    });
    check("mul.hi.u32 %r9, %r0, %r1;", &p, |x| {
        ((u64::from(x[0]) * u64::from(x[1])) >> 32) as u32
    });
    check("mul24.lo.s32 %r9, %r0, %r1;", &p, |x| {
        let low = |x: u32| i64::from(((x << 8) as i32) >> 8);
        (low(x[0]) * low(x[1])) as u32
    });
    let t = triples();
    check("mad.lo.s32 %r9, %r0, %r1, %r2;", &t, |x| {
        x[0].wrapping_mul(x[1]).wrapping_add(x[2])
    });
    check("sad.s32 %r9, %r0, %r1, %r2;", &t, |x| {
        let distance = (i64::from(x[0] as i32) - i64::from(x[1] as i32)).unsigned_abs();
        x[2].wrapping_add(distance as u32)
    });
    check("dp4a.s32.u32 %r9, %r0, %r1, %r2;", &t, |x| {
        let (a, b) = (x[0].to_le_bytes(), x[1].to_le_bytes());
        let dot: i32 = (0..4)
            .map(|k| i32::from(a[k] as i8) * i32::from(b[k]))
            .sum();
        x[2].wrapping_add(dot as u32)
    });
    check_wide("mad.wide.s32 %rd9, %r0, %r1, %rd2;", &[32, 32, 64], |x| {
        (i64::from(x[0] as i32) * i64::from(x[1] as i32)).wrapping_add(x[2] as i64) as u64
    });
    check_wide("mul.hi.s64 %rd9, %rd0, %rd1;", &[64, 64, 64], |x| {
        ((i128::from(x[0] as i64) * i128::from(x[1] as i64)) >> 64) as u64
    });
    check_wide("mad.lo.u64 %rd9, %rd0, %rd1, %rd2;", &[64, 64, 64], |x| {
        x[0].wrapping_mul(x[1]).wrapping_add(x[2])
    });
}

#[test]
fn division_rounds_to_zero() {
    let p: Vec<_> = pairs().into_iter().filter(|x| x[1] != 0).collect();
    check("div.s32 %r9, %r0, %r1;", &p, |x| {
        (x[0] as i32).wrapping_div(x[1] as i32) as u32
    });
    check("rem.s32 %r9, %r0, %r1;", &p, |x| {
        (x[0] as i32).wrapping_rem(x[1] as i32) as u32
    });
    check("div.u32 %r9, %r0, %r1;", &p, |x| x[0] / x[1]);
    check("rem.u32 %r9, %r0, %r1;", &p, |x| x[0] % x[1]);
}

#[test]
fn carries_go_from_word_to_word() {
    let body = "mov.b64 {%r20, %r21}, %rd0; mov.b64 {%r22, %r23}, %rd1;\n\
        add.cc.u32 %r24, %r20, %r22; addc.u32 %r25, %r21, %r23; mov.b64 %rd9, {%r24, %r25};";
    check_wide(body, &[64, 64, 32], |x| x[0].wrapping_add(x[1]));
    let body = body.replace("add.cc", "sub.cc").replace("addc", "subc");
    check_wide(&body, &[64, 64, 32], |x| x[0].wrapping_sub(x[1]));
    // The lower 64 bits of a product from words.
    let body = "mov.b64 {%r20, %r21}, %rd0; mov.b64 {%r22, %r23}, %rd1;\n\
        mul.lo.u32 %r24, %r20, %r22; mov.u32 %r26, 0;\n\
        mad.hi.cc.u32 %r25, %r20, %r22, %r26; mad.lo.cc.u32 %r25, %r20, %r23, %r25;\n\
        mad.lo.cc.u32 %r25, %r21, %r22, %r25; mov.b64 %rd9, {%r24, %r25};";
    check_wide(body, &[64, 64, 32], |x| x[0].wrapping_mul(x[1]));
}

#[test]
fn shifts_clamp_and_funnels_wrap() {
    let p = pairs();
    check("shl.b32 %r9, %r0, %r1;", &p, |x| {
        x[0].checked_shl(x[1]).unwrap_or(0)
    });
    check("shr.u32 %r9, %r0, %r1;", &p, |x| {
        x[0].checked_shr(x[1]).unwrap_or(0)
    });
    check("shr.s32 %r9, %r0, %r1;", &p, |x| {
        (x[0] as i32 >> x[1].min(31)) as u32
    });
    check_wide("shr.s64 %rd9, %rd0, %r1;", &[64, 32, 32], |x| {
        (x[0] as i64 >> x[1].min(63)) as u64
    });
    let t = triples();
    check("shf.l.wrap.b32 %r9, %r0, %r1, %r2;", &t, |x| {
        let n = x[2] % 32;
        if n == 0 {
            x[1]
        } else {
            x[1] << n | x[0] >> (32 - n)
        }
    });
    check("shf.r.clamp.b32 %r9, %r0, %r1, %r2;", &t, |x| match x[2] {
        0 => x[0],
        n @ 1..32 => x[0] >> n | x[1] << (32 - n),
        _ => x[1],
    });
}

#[test]
fn bits_are_counted_found_and_moved() {
    let one: Vec<Vec<u64>> = words().iter().map(|&x| vec![x.into()]).collect();
    check("popc.b32 %r9, %r0;", &one, |x| x[0].count_ones());
    check("clz.b32 %r9, %r0;", &one, |x| x[0].leading_zeros());
    check("brev.b32 %r9, %r0;", &one, |x| x[0].reverse_bits());
    check("bfind.u32 %r9, %r0;", &one, |x| {
        x[0].checked_ilog2().unwrap_or(u32::MAX)
    });
    check("bfind.s32 %r9, %r0;", &one, |x| {
        let magnitude = if (x[0] as i32) < 0 { !x[0] } else { x[0] };
        magnitude.checked_ilog2().unwrap_or(u32::MAX)
    });
    check("bfind.shiftamt.u32 %r9, %r0;", &one, |x| {
        x[0].checked_ilog2().map_or(u32::MAX, |at| 31 - at)
    });
    let t: Vec<_> = triples()
        .into_iter()
        .map(|x| vec![x[0], x[1] % 40, x[2] % 40])
        .collect();
    for (name, signed) in [("bfe.u32", false), ("bfe.s32", true)] {
        check(&format!("{name} %r9, %r0, %r1, %r2;"), &t, |x| {
            // Bit by bit, as the ISA's own description goes.
            let (at, len) = (x[1], x[2]);
            let sign = signed && len > 0 && x[0] >> (at + len - 1).min(31) & 1 == 1;
            (0..32).fold(0, |result, bit| {
                let set = if bit < len && at + bit < 32 {
                    x[0] >> (at + bit) & 1 == 1
                } else {
                    sign
                };
                result | u32::from(set) << bit
            })
        });
    }
    check(
        "mov.u32 %r8, 0x55aa33cc; bfi.b32 %r9, %r0, %r8, %r1, %r2;",
        &t,
        |x| {
            let ones = ((1u64 << x[2].min(32)) - 1) << x[1];
            let field = (u64::from(x[0]) << x[1]) & ones;
            ((0x55aa_33cc & !ones) | field) as u32
        },
    );
    check("fns.b32 %r9, %r0, %r1, 2;", &t, |x| {
        let mut set = (x[1]..32).filter(|at| x[0] >> at & 1 == 1);
        set.nth(1).unwrap_or(u32::MAX)
    });
    check("bmsk.clamp.b32 %r9, %r1, %r2;", &t, |x| {
        (0..32)
            .filter(|bit| (x[1]..x[1] + x[2]).contains(bit))
            .map(|bit| 1 << bit)
            .sum()
    });
}

#[test]
fn logic_and_bytes_by_table() {
    let t = triples();
    for table in [0x01, 0x3c, 0x80, 0x96, 0xca, 0xe8, 0xfe] {
        check(&format!("lop3.b32 %r9, %r0, %r1, %r2, {table};"), &t, |x| {
            (0..32).fold(0, |result, bit| {
                let index = x
                    .iter()
                    .fold(0, |index, word| index << 1 | (word >> bit & 1));
                result | (table >> index & 1) << bit
            })
        });
    }
    check("prmt.b32 %r9, %r0, %r1, %r2;", &t, |x| {
        let bytes = [x[0].to_le_bytes(), x[1].to_le_bytes()].concat();
        let byte = |at: u32| {
            let selector = x[2] >> (4 * at) & 15;
            let byte = bytes[selector as usize % 8];
            if selector < 8 {
                byte
            } else if byte & 0x80 == 0 {
                0
            } else {
                0xff
            }
        };
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    });
    check("prmt.b32.b4e %r9, %r0, %r1, 1;", &t, |x| {
        // Backwards from byte 1: 1, 0, 7, 6.
        let bytes = [x[0].to_le_bytes(), x[1].to_le_bytes()].concat();
        u32::from_le_bytes([bytes[1], bytes[0], bytes[7], bytes[6]])
    });
}

/// Equal as numbers, zeros with their sign, NaN of any payload.
fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

fn check_floats(body: &str, cases: &[Vec<u64>], want: impl Fn(&[f32]) -> f32) {
    let widths = vec![32; cases[0].len()];
    let moves = "mov.b32 %f0, %r0; mov.b32 %f1, %r1; mov.b32 %f2, %r2;\n";
    let moves: String = moves.split_inclusive(';').take(widths.len()).collect();
    let got = evaluate(
        &format!("{moves}{body} mov.b32 %r9, %f9;"),
        &widths,
        32,
        cases,
    );
    for (case, got) in cases.iter().zip(got) {
        let operands: Vec<f32> = case.iter().map(|&x| f32::from_bits(x as u32)).collect();
        let (got, want) = (f32::from_bits(got as u32), want(&operands));
        assert!(
            same(got.into(), want.into()),
            "{body} of {operands:?}: {got:e}, not {want:e}"
        );
    }
}

#[test]
fn single_precision_rounds_once() {
    let (p, t) = (pairs(), triples());
    check_floats("add.f32 %f9, %f0, %f1;", &p, |x| x[0] + x[1]);
    check_floats("mul.rn.f32 %f9, %f0, %f1;", &p, |x| x[0] * x[1]);
    check_floats("div.rn.f32 %f9, %f0, %f1;", &p, |x| x[0] / x[1]);
    check_floats("fma.rn.f32 %f9, %f0, %f1, %f2;", &t, |x| {
        x[0].mul_add(x[1], x[2])
    });
    let flush = |x: f32| {
        if x.is_subnormal() {
            0f32.copysign(x)
        } else {
            x
        }
    };
    check_floats("mul.ftz.f32 %f9, %f0, %f1;", &p, |x| {
        flush(flush(x[0]) * flush(x[1]))
    });
    check_floats("add.sat.f32 %f9, %f0, %f1;", &p, |x| {
        let sum = x[0] + x[1];
        if sum > 0.0 { sum.min(1.0) } else { 0.0 }
    });
    check_floats("min.NaN.f32 %f9, %f0, %f1;", &p, |x| match x {
        [a, b] if a.is_nan() || b.is_nan() => f32::NAN,
        [a, b] if a == b && a.is_sign_negative() => *a,
        [a, b] if a < b => *a,
        _ => x[1],
    });
    check_floats("max.f32 %f9, %f0, %f1;", &p, |x| match x {
        [a, b] if a.is_nan() => *b,
        [a, b] if b.is_nan() => *a,
        [a, b] if a == b && a.is_sign_positive() => *a,
        [a, b] if a > b => *a,
        _ => x[1],
    });
}

#[test]
fn directed_rounding_encloses_the_exact_result() {
    let t = triples();
    for (name, operands, exact) in [
        (
            "add",
            2,
            (|x| f64::from(x[0]) + f64::from(x[1])) as fn(&[f32]) -> f64,
        ),
        ("mul", 2, |x| f64::from(x[0]) * f64::from(x[1])),
    ] {
        let run = |mode: &str| {
            let sources = ["%r0", "%r1", "%r2"][..operands]
                .join(", ")
                .replace("%r", "%f");
            let body = format!(
                "mov.b32 %f0, %r0; mov.b32 %f1, %r1; {name}.{mode}.f32 %f9, {sources}; mov.b32 %r9, %f9;"
            );
            evaluate(&body, &[32, 32, 32], 32, &t)
        };
        let (down, up, zero) = (run("rm"), run("rp"), run("rz"));
        for (at, case) in t.iter().enumerate() {
            let x: Vec<f32> = case.iter().map(|&x| f32::from_bits(x as u32)).collect();
            let exact = exact(&x);
            let [down, up, zero] =
                [down[at], up[at], zero[at]].map(|bits| f32::from_bits(bits as u32));
            // f64 holds products exactly; of sums only those that are not rounded are taken.
            let is_exact = name == "mul" || exact - f64::from(x[0]) == f64::from(x[1]);
            if exact.is_nan() || !is_exact || !exact.is_finite() {
                continue;
            }
            assert!(
                f64::from(down) <= exact && exact <= f64::from(up),
                "{name} {x:?}: {down:e} {up:e}"
            );
            assert_eq!(zero.abs(), down.abs().min(up.abs()), "{name} {x:?}");
            assert!(
                down == up || down.next_up() == up,
                "{name} {x:?}: {down:e} {up:e}"
            );
        }
    }
}

#[test]
fn approximations_are_correctly_rounded() {
    let cases: Vec<Vec<u64>> = words()
        .iter()
        .map(|&x| f32::from_bits(x))
        .chain((-60..60).map(|x| x as f32 * 0.37))
        .map(|x| vec![x.to_bits().into()])
        .collect();
    for (name, function) in [
        ("rcp.approx.f32", (|x| 1.0 / x) as fn(f64) -> f64),
        ("sqrt.approx.f32", f64::sqrt),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()),
        ("ex2.approx.f32", f64::exp2),
        ("lg2.approx.f32", f64::log2),
        ("sin.approx.f32", f64::sin),
        ("cos.approx.f32", f64::cos),
        ("tanh.approx.f32", f64::tanh),
    ] {
        check_floats(&format!("{name} %f9, %f0;"), &cases, |x| {
            function(x[0].into()) as f32
        });
    }
    check_floats(
        "ex2.approx.ftz.f32 %f9, %f0;",
        &[vec![(-130f32).to_bits().into()]],
        |_| 0.0,
    );
}

#[test]
fn sixteen_bit_floats_agree_with_the_half_crate() {
    let t = triples();
    let halves = |x: u32| [x as u16, (x >> 16) as u16];
    type Decode = fn(u16) -> f64;
    type Encode = fn(f64) -> u16;
    let formats: [(&str, Decode, Encode); 2] = [
        (
            "f16x2",
            |x| f16::from_bits(x).to_f64(),
            |x| f16::from_f64(x).to_bits(),
        ),
        (
            "bf16x2",
            |x| bf16::from_bits(x).to_f64(),
            |x| bf16::from_f64(x).to_bits(),
        ),
    ];
    for (ty, decode, encode) in formats {
        for (name, operation) in [
            (
                "fma.rn",
                (|a, b, c| a.mul_add(b, c)) as fn(f64, f64, f64) -> f64,
            ),
            ("add.rn", |a, b, _| a + b),
            ("mul.rn", |a, b, _| a * b),
        ] {
            let sources = if name == "fma.rn" {
                "%r0, %r1, %r2"
            } else {
                "%r0, %r1"
            };
            let got = evaluate(
                &format!("{name}.{ty} %r9, {sources};"),
                &[32, 32, 32],
                32,
                &t,
            );
            for (case, got) in t.iter().zip(got) {
                let [a, b, c] = [0, 1, 2].map(|k| halves(case[k] as u32).map(decode));
                for half in 0..2 {
                    let (a, b, c) = (a[half], b[half], c[half]);
                    let exact = operation(a, b, c);
                    // Sums of numbers that are very far apart are not exact in f64.
                    let product = operation(a, b, 0.0);
                    let back = (exact - product, exact - c);
                    if name == "fma.rn" && back != (c, product) && exact.is_finite() {
                        continue;
                    }
                    let (got, want) = (decode(halves(got as u32)[half]), decode(encode(exact)));
                    assert!(
                        same(got, want),
                        "{name}.{ty} {case:x?}: {got:e}, not {want:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn conversions_round_and_saturate() {
    let one: Vec<Vec<u64>> = words().iter().map(|&x| vec![x.into()]).collect();
    check_floats("cvt.rn.f32.s32 %f9, %r0;", &one, |x| {
        x[0].to_bits() as i32 as f32
    });
    check_floats("cvt.rzi.f32.f32 %f9, %f0;", &one, |x| x[0].trunc());
    check_floats("cvt.rni.f32.f32 %f9, %f0;", &one, |x| {
        x[0].round_ties_even()
    });
    check("mov.b32 %f0, %r0; cvt.rzi.s32.f32 %r9, %f0;", &one, |x| {
        f32::from_bits(x[0]) as i32 as u32
    });
    check("mov.b32 %f0, %r0; cvt.rmi.u32.f32 %r9, %f0;", &one, |x| {
        f32::from_bits(x[0]).floor() as u32
    });
    check("cvt.s32.s8 %r9, %r0;", &one, |x| x[0] as i8 as u32);
    check("cvt.sat.u8.s32 %r9, %r0;", &one, |x| {
        (x[0] as i32).clamp(0, 255) as u32
    });
    check(
        "mov.b32 %f0, %r0; cvt.rn.f16.f32 %h0, %f0; cvt.u32.u16 %r9, %h0;",
        &one,
        |x| {
            let half = f16::from_f32(f32::from_bits(x[0]));
            if half.is_nan() {
                0x7fff
            } else {
                half.to_bits().into()
            }
        },
    );
    check(
        "mov.b32 %f0, %r0; cvt.rn.bf16x2.f32 %r9, %f0, %f0;",
        &one,
        |x| {
            let half = bf16::from_f32(f32::from_bits(x[0]));
            let bits = if half.is_nan() {
                0x7fff
            } else {
                u32::from(half.to_bits())
            };
            bits << 16 | bits
        },
    );
    check("mov.b32 %f0, %r0; cvt.rna.tf32.f32 %r9, %f0;", &one, |x| {
        match f32::from_bits(x[0]) {
            f if f.is_nan() => 0x7fff_ffff,
            f if f.is_infinite() => x[0],
            // Half a unit added to the magnitude carries exactly where the nearest is above.
            _ => (x[0] + 0x1000) & !0x1fff,
        }
    });
}

#[test]
fn comparisons_combine_and_know_nan() {
    let p = pairs();
    for (name, holds) in [
        ("eq", (|a, b| a == b) as fn(f32, f32) -> bool),
        ("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
        ("lt", |a, b| a < b),
        ("geu", |a, b| a >= b || a.is_nan() || b.is_nan()),
        ("neu", |a, b| a != b),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
    ] {
        let body = format!(
            "mov.b32 %f0, %r0; mov.b32 %f1, %r1; setp.{name}.f32 %q0, %f0, %f1; selp.u32 %r9, 7, 9, %q0;"
        );
        check(&body, &p, |x| {
            if holds(f32::from_bits(x[0]), f32::from_bits(x[1])) {
                7
            } else {
                9
            }
        });
    }
    let body = "setp.ne.u32 %q1, %r1, 0;\n\
        setp.lt.and.s32 %q2|%q3, %r0, %r1, !%q1; selp.u32 %r9, 1, 0, %q2; @%q3 add.u32 %r9, %r9, 2;";
    check(body, &p, |x| {
        let (less, zero) = ((x[0] as i32) < (x[1] as i32), x[1] == 0);
        u32::from(less && zero) + 2 * u32::from(!less && zero)
    });
    check("set.gt.u32.s32 %r9, %r0, %r1;", &p, |x| {
        if x[0] as i32 > x[1] as i32 {
            u32::MAX
        } else {
            0
        }
    });
    check("slct.u32.s32 %r9, %r0, %r1, %r1;", &p, |x| {
        if x[1] as i32 >= 0 { x[0] } else { x[1] }
    });
}

#[test]
fn double_precision_is_that_of_the_cpu() {
    let body = "mov.b64 %fd0, %rd0; mov.b64 %fd1, %rd1; mov.b64 %fd2, %rd2;\n\
        fma.rn.f64 %fd9, %fd0, %fd1, %fd2; mov.b64 %rd9, %fd9;";
    check_wide(body, &[64, 64, 64], |x| {
        let [a, b, c] = [x[0], x[1], x[2]].map(f64::from_bits);
        a.mul_add(b, c).to_bits()
    });
}

#[test]
fn what_cannot_be_executed_is_refused_with_its_line() {
    for (instruction, named) in [
        ("frobnicate.u32 %r1, %r2;", "frobnicate.u32"),
        ("add.rz.u32 %r1, %r2, %r3;", "add.rz.u32"),
        ("ld.global.sideways.u32 %r1, [%p0];", "sideways"),
        (
            "mma.sync.aligned.m99n8k16.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f1};",
            "m99n8k16",
        ),
        ("cp.async.bulk.wait_group 0;", "cp.async.bulk"),
        ("mov.u32 %r1, %envreg3;", "%envreg3"),
    ] {
        let text = crate::machine::kernel(1, &format!("\n\n{instruction}"));
        let line = text
            .lines()
            .position(|line| line == instruction)
            .expect("the line")
            + 1;
        let error = load(&text).expect_err(instruction);
        assert_eq!(error.line as usize, line, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}
