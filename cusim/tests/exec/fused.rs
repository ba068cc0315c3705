//! The sums of tensor cores against a formulation of their published model in f64 (Xie et al., "MMA-Sim",
//! arXiv 2511.10909, and its reference program): every step there is exact, so that only the cuts that the
//! model names are left.

use cusim::exec::MmaMode;
use half::{bf16, f16};

use crate::machine::Machine;

/// A format of operands or sums.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    F16,
    Bf16,
    Tf32,
    F32,
}

impl Format {
    fn value(self, bits: u32) -> f64 {
        match self {
            Self::F16 => f16::from_bits(bits as u16).to_f64(),
            Self::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            // The lower 13 bits are not looked at.
            Self::Tf32 => f32::from_bits(bits & 0xffff_e000).into(),
            Self::F32 => f32::from_bits(bits).into(),
        }
    }

    /// Of the leading bit; subnormal numbers all have that of the smallest normal one.
    fn exponent(self, value: f64) -> i32 {
        let smallest = if self == Self::F16 { -14 } else { -126 };
        ((value.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(smallest)
    }

    /// The bits of a sum: to nearest in f16, towards zero in f32.
    fn rounded(self, sum: f64) -> u32 {
        match (self, sum.is_nan()) {
            (Self::F16, true) => 0x7fff,
            (_, true) => 0x7fff_ffff,
            (Self::F16, false) => {
                let unit = f64::from(self.exponent(sum) - 10).exp2();
                let sum = (sum / unit).round_ties_even() * unit;
                f16::from_f64(sum).to_bits().into()
            }
            (_, false) => {
                let unit = f64::from(self.exponent(sum) - 23).exp2();
                (((sum / unit).trunc() * unit) as f32).to_bits()
            }
        }
    }
}

/// Bits of a row of a, a column of b, and the bits of c; gives those of d.
fn by_definition(
    (block, fraction): (usize, i32),
    (operand, sum): (Format, Format),
    a: &[u32],
    b: &[u32],
    c: u32,
) -> u32 {
    let mut c = c;
    for (a, b) in a.chunks(block).zip(b.chunks(block)) {
        let mut terms = vec![(sum.value(c), sum.exponent(sum.value(c)))];
        for (&a, &b) in a.iter().zip(b) {
            let (a, b) = (operand.value(a), operand.value(b));
            terms.push((a * b, operand.exponent(a) + operand.exponent(b)));
        }
        let plain = terms.iter().fold(0.0, |total, (term, _)| total + term);
        if !plain.is_finite() {
            c = sum.rounded(plain);
            continue;
        }
        let present = terms.iter().filter(|(term, _)| *term != 0.0);
        let largest = present.map(|(_, exponent)| *exponent).max().unwrap_or(0);
        let unit = f64::from(largest - fraction).exp2();
        let cut = terms.iter().map(|(term, _)| (term / unit).trunc() * unit);
        c = sum.rounded(cut.fold(0.0, |total, term| total + term));
    }
    c
}

/// A form with its formats, k, and the blocks of Ampere and Hopper.
#[derive(Debug, Clone, Copy)]
struct Form {
    types: &'static str,
    operand: Format,
    sum: Format,
    k: usize,
    blocks: [usize; 2],
}

const fn form(
    types: &'static str,
    operand: Format,
    sum: Format,
    k: usize,
    blocks: [usize; 2],
) -> Form {
    Form {
        types,
        operand,
        sum,
        k,
        blocks,
    }
}

use Format::{Bf16, F16, F32, Tf32};

const FORMS: [Form; 8] = [
    form("f32.f16.f16.f32", F16, F32, 16, [8, 16]),
    form("f32.f16.f16.f32", F16, F32, 8, [8, 8]),
    form("f16.f16.f16.f16", F16, F16, 16, [8, 16]),
    form("f16.f16.f16.f16", F16, F16, 8, [8, 8]),
    form("f32.bf16.bf16.f32", Bf16, F32, 16, [8, 16]),
    form("f32.bf16.bf16.f32", Bf16, F32, 8, [8, 8]),
    form("f32.tf32.tf32.f32", Tf32, F32, 8, [4, 8]),
    form("f32.tf32.tf32.f32", Tf32, F32, 4, [4, 4]),
];

/// Bits of matrices by row.
type Matrix = Vec<Vec<u32>>;

impl Form {
    /// What the machine makes of many a, b and c, laid out as in the PTX ISA, "Matrix Fragments for mma".
    fn run(&self, mode: MmaMode, cases: &[(Matrix, Matrix, Matrix)]) -> Vec<Matrix> {
        let packed = if self.operand == Tf32 { 1 } else { 2 };
        let halves = self.sum == F16;
        let (a_regs, b_regs) = (self.k / packed / 2, self.k / packed / 4);
        let c_regs = if halves { 2 } else { 4 };
        let mut input = Vec::new();
        for (a, b, c) in cases {
            for lane in 0..32 {
                let (group, member) = (lane / 4, lane % 4);
                let pack = |elements: [u32; 2]| match packed {
                    1 => elements[0],
                    _ => elements[0] | elements[1] << 16,
                };
                for reg in 0..a_regs {
                    let (row, col) = (group + reg % 2 * 8, (member + reg / 2 * 4) * packed);
                    input.push(pack([a[row][col], a[row][col + packed - 1]]));
                }
                for reg in 0..b_regs {
                    let row = (member + reg * 4) * packed;
                    input.push(pack([b[row][group], b[row + packed - 1][group]]));
                }
                for reg in 0..c_regs {
                    let (row, col) = if halves {
                        (group + reg * 8, member * 2)
                    } else {
                        (group + reg / 2 * 8, member * 2 + reg % 2)
                    };
                    input.push(if halves {
                        c[row][col] | c[row][col + 1] << 16
                    } else {
                        c[row][col]
                    });
                }
            }
        }
        let count = a_regs + b_regs + c_regs;
        let list = |first: usize, count: usize| {
            let names: Vec<String> = (first..first + count).map(|at| format!("%r{at}")).collect();
            format!("{{{}}}", names.join(", "))
        };
        let loads: String = (0..count)
            .map(|at| format!("ld.global.u32 %r{at}, [%rd1+{}];\n", 4 * at))
            .collect();
        let stores: String = (0..c_regs)
            .map(|at| format!("st.global.u32 [%rd2+{}], %r{};\n", 4 * at, 20 + at))
            .collect();
        let body = format!(
            "mov.u32 %r30, %laneid; mov.u32 %r31, %ctaid.x; mad.lo.u32 %r30, %r31, 32, %r30;\n\
             mad.wide.u32 %rd1, %r30, {}, %p0; mad.wide.u32 %rd2, %r30, {}, %p1;\n{loads}\
             mma.sync.aligned.m16n8k{}.row.col.{} {}, {}, {}, {};\n{stores}",
            4 * count,
            4 * c_regs,
            self.k,
            self.types,
            list(20, c_regs),
            list(0, a_regs),
            list(a_regs, b_regs),
            list(a_regs + b_regs, c_regs),
        );
        let mut machine = Machine::of(2, &body);
        machine.options.mma = mode;
        let source = machine.upload(&input, u32::to_le_bytes);
        let words = cases.len() * 32 * c_regs;
        let target = machine.alloc(4 * words as u64);
        let params: Vec<u8> = [source, target]
            .iter()
            .flat_map(|p| p.to_le_bytes())
            .collect();
        machine
            .launch_named("k", (cases.len() as u32, 32, 0), &params)
            .unwrap_or_else(|fault| panic!("{fault}"));
        let got = machine.words(target, words);
        let element = |words: &[u32], row: usize, col: usize| {
            let (lane, lower) = (row % 8 * 4 + col / 2, row / 8);
            if halves {
                words[lane * 2 + lower] >> (16 * (col % 2)) & 0xffff
            } else {
                words[lane * 4 + lower * 2 + col % 2]
            }
        };
        got.chunks(32 * c_regs)
            .map(|words| {
                let row = |row| (0..8).map(|col| element(words, row, col)).collect();
                (0..16).map(row).collect()
            })
            .collect()
    }

    /// Holds the machine to the model in both modes.
    fn check(&self, cases: &[(Matrix, Matrix, Matrix)]) {
        for (mode, block, fraction) in [
            (MmaMode::Ampere, self.blocks[0], 24),
            (MmaMode::Hopper, self.blocks[1], 25),
        ] {
            for ((a, b, c), got) in cases.iter().zip(self.run(mode, cases)) {
                for row in 0..16 {
                    for col in 0..8 {
                        let column: Vec<u32> = b.iter().map(|row| row[col]).collect();
                        let formats = (self.operand, self.sum);
                        let want = by_definition(
                            (block, fraction),
                            formats,
                            &a[row],
                            &column,
                            c[row][col],
                        );
                        assert_eq!(
                            got[row][col], want,
                            "{mode:?}, {self:?}: {:x?} * {column:x?} + {:#x} gives {:#x}, not {want:#x}",
                            a[row], c[row][col], got[row][col]
                        );
                    }
                }
            }
        }
    }

    /// Bits of a, b and c, which are drawn by format and matrix.
    fn matrices(&self, draw: &mut impl FnMut(Format, char) -> u32) -> (Matrix, Matrix, Matrix) {
        let mut matrix = |name: char, rows: usize, cols: usize, format| -> Matrix {
            let mut row = || (0..cols).map(|_| draw(format, name)).collect();
            (0..rows).map(|_| row()).collect()
        };
        (
            matrix('a', 16, self.k, self.operand),
            matrix('b', self.k, 8, self.operand),
            matrix('c', 16, 8, self.sum),
        )
    }
}

/// Numbers that look random, always the same (Marsaglia's xorshift).
fn random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    }
}

/// Sign and fraction of `bits` with a biased exponent.
fn with_exponent(format: Format, bits: u32, exponent: u32) -> u32 {
    match format {
        F16 => bits & 0x83ff | exponent << 10,
        Bf16 => bits & 0x807f | exponent << 7,
        Tf32 | F32 => bits & 0x807f_ffff | exponent << 23,
    }
}

fn bias(format: Format) -> u32 {
    if format == F16 { 15 } else { 127 }
}

/// Exponents that lie so far apart that terms are cut, now and then a zero.
#[test]
fn terms_of_any_size_are_cut_as_the_model_says() {
    for (at, form) in FORMS.iter().enumerate() {
        for spread in [3, 13, 15] {
            let mut random = random(at as u64 * 31 + u64::from(spread));
            let mut draw = |format, _| {
                let exponent = bias(format) + random() % spread - spread / 2;
                match random() % 16 {
                    0 => 0,
                    _ => with_exponent(format, random(), exponent),
                }
            };
            let cases: Vec<_> = (0..12).map(|_| form.matrices(&mut draw)).collect();
            form.check(&cases);
        }
    }
}

/// Subnormal operands and sums keep the exponent of their format's smallest normal number: the products of a
/// and b are aligned as if they were larger than they are.
#[test]
fn subnormal_numbers_are_kept_and_not_normalised() {
    for (at, form) in FORMS.iter().enumerate() {
        let mut random = random(at as u64 + 1000);
        // From below the products' last bits to above their first.
        let products = match form.operand {
            F16 => 113,
            _ => 101,
        };
        let mut draw = |format, matrix| {
            let exponent = match (format, matrix) {
                (_, 'a') => random() % 2,
                (F16, 'b') => 28 + random() % 3,
                (_, 'b') => 225 + random() % 3,
                (F16, _) => random() % 6,
                _ => products - 16 + random() % 32,
            };
            with_exponent(format, random() >> (random() % 8), exponent)
        };
        let cases: Vec<_> = (0..12).map(|_| form.matrices(&mut draw)).collect();
        form.check(&cases);
    }
    // And where all are so small that the sum is, too.
    for (at, form) in FORMS.iter().enumerate() {
        let mut random = random(at as u64 + 1500);
        let mut draw = |format, matrix| {
            let exponent = match (format, matrix) {
                (Bf16 | Tf32, 'b') => bias(format) + random() % 8,
                _ => random() % 3,
            };
            with_exponent(format, random(), exponent)
        };
        let cases: Vec<_> = (0..12).map(|_| form.matrices(&mut draw)).collect();
        form.check(&cases);
    }
}

/// Any bits at all: NaN, infinities of either sign, sums that overflow on their way.
#[test]
fn special_values_are_those_of_the_model() {
    for (at, form) in FORMS.iter().enumerate() {
        let mut random = random(at as u64 + 2000);
        let mut draw = |format: Format, _| {
            let largest = 2 * bias(format) + 1;
            match random() % 64 {
                0 => with_exponent(format, random() & 0x8000_8000, largest),
                1 => with_exponent(format, random() | 0x0040_0200, largest),
                2 => with_exponent(format, 0, random() % 2 * largest),
                3..8 => with_exponent(format, random(), largest - 1),
                _ => with_exponent(format, random(), bias(format) + random() % 4),
            }
        };
        let cases: Vec<_> = (0..12).map(|_| form.matrices(&mut draw)).collect();
        form.check(&cases);
    }
}

/// What fits is exact and the same in every mode.
#[test]
fn modes_agree_where_nothing_is_lost() {
    for (at, form) in FORMS.iter().enumerate() {
        let mut random = random(at as u64 + 3000);
        let mut draw = |format, _| {
            let value = f64::from(random() % 17) - 8.0;
            match format {
                F16 => f16::from_f64(value).to_bits().into(),
                Bf16 => bf16::from_f64(value).to_bits().into(),
                Tf32 | F32 => (value as f32).to_bits(),
            }
        };
        let cases = [form.matrices(&mut draw)];
        let fast = form.run(MmaMode::Fast, &cases);
        for (row, fast) in fast[0].iter().enumerate() {
            for (col, &fast) in fast.iter().enumerate() {
                let (a, b, c) = &cases[0];
                let products = (0..form.k)
                    .map(|k| form.operand.value(a[row][k]) * form.operand.value(b[k][col]));
                let exact = form.sum.value(c[row][col]) + products.sum::<f64>();
                assert_eq!(form.sum.value(fast), exact);
            }
        }
        for mode in [MmaMode::Ampere, MmaMode::Hopper] {
            assert_eq!(form.run(mode, &cases), fast, "{mode:?}, {form:?}");
        }
    }
}

/// 1 + 2 * 2^-24 + 8 * 2^-25: in f32 each addition is a tie that goes to 1; Ampere loses the second block,
/// whose terms are below its last bit; Hopper loses nothing.
#[test]
fn three_modes_have_three_results() {
    let form = FORMS[0];
    let bits = |exponent: i32| u32::from(f16::from_f64(f64::from(exponent).exp2()).to_bits());
    let mut row = vec![0; 16];
    row[..2].fill(bits(-12));
    row[8..].fill(bits(-12));
    let (mut b, a) = (vec![vec![0; 8]; 16], vec![row; 16]);
    b[..2].fill(vec![bits(-12); 8]);
    b[8..].fill(vec![bits(-13); 8]);
    let cases = [(a, b, vec![vec![1f32.to_bits(); 8]; 16])];
    let unit = f32::EPSILON;
    for (mode, want) in [
        (MmaMode::Fast, 1.0),
        (MmaMode::Ampere, 1.0 + unit),
        (MmaMode::Hopper, 1.0 + 3.0 * unit),
    ] {
        let got = form.run(mode, &cases);
        assert_eq!(got[0], vec![vec![want.to_bits(); 8]; 16], "{mode:?}");
    }
}

/// 1 + 2^-11 is half-way between numbers of f16; 2^-24 more, and the nearest is the upper one.
#[test]
fn sums_in_f16_are_rounded_once() {
    let form = FORMS[3];
    let bits = |exponent: i32| u32::from(f16::from_f64(f64::from(exponent).exp2()).to_bits());
    let mut row = vec![0; 8];
    row[..2].copy_from_slice(&[bits(-5), bits(-12)]);
    let mut b = vec![vec![0; 8]; 8];
    b[0] = vec![bits(-6); 8];
    b[1] = vec![bits(-12); 8];
    let cases = [(vec![row; 16], b, vec![vec![bits(0); 8]; 16])];
    let want = u32::from(f16::from_f64(1.0 + f64::from(-10).exp2()).to_bits());
    for mode in [MmaMode::Ampere, MmaMode::Hopper] {
        assert_eq!(form.run(mode, &cases)[0], vec![vec![want; 8]; 16]);
    }
}
