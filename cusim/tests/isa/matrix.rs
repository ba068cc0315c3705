//! Matrix instructions against products of whole matrices, with fragments as the PTX ISA draws them.

use half::{bf16, f16};
use proptest::prelude::*;

use crate::harness::{Operands, Out, config, mnemonics, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[products, loads, stores, transpositions, wmma, discards];

/// What an element of a matrix is.
#[derive(Clone, Copy, PartialEq)]
enum Element {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
}

impl Element {
    fn of(ty: &str) -> Self {
        match ty {
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "tf32" => Self::Tf32,
            "s8" => Self::S8,
            "u8" => Self::U8,
            ty => unreachable!("{ty} is no element"),
        }
    }

    /// Elements in a register.
    fn packed(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 1,
            Self::S8 | Self::U8 => 4,
        }
    }

    /// A number that it holds exactly, small where sums are to be exact.
    fn draw(self, bits: u32) -> i32 {
        match self {
            Self::S8 => i32::from(bits as i8),
            Self::U8 => i32::from(bits as u8),
            _ => (bits % 13) as i32 - 6,
        }
    }

    fn encode(self, x: i32) -> u32 {
        match self {
            Self::F16 => f16::from_f32(x as f32).to_bits().into(),
            Self::Bf16 => bf16::from_f32(x as f32).to_bits().into(),
            Self::Tf32 => (x as f32).to_bits(),
            Self::S8 | Self::U8 => x as u8 as u32,
        }
    }
}

/// A register with elements, the first in the lowest bits.
fn pack(element: Element, numbers: impl Iterator<Item = i32>) -> u32 {
    let bits = 32 / element.packed();
    numbers
        .enumerate()
        .fold(0, |word, (at, x)| word | element.encode(x) << (bits * at))
}

/// A draw of bits that depends on all arguments.
fn draw(seed: u64, row: usize, column: usize, matrix: u64) -> u32 {
    let mixed = (seed ^ matrix << 40)
        .wrapping_add((row * 131 + column) as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

fn registers(first: usize, count: usize) -> String {
    let names: Vec<_> = (first..first + count).map(|at| format!("%r{at}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// The accumulator in its registers: 16-bit integers from `%q3`, as they are or as halves.
fn accumulator(ty: &str) -> (String, usize) {
    let whole = "mov.b64 {%h4, %h5, %h6, %h7}, %q3; ";
    match ty {
        "f16" => ("mov.b64 {%r40, %r41}, %q3; ".to_owned(), 2),
        ty => {
            let convert = |at: usize| match ty {
                "f32" => format!(
                    "cvt.rn.f32.s16 %f12, %h{}; mov.b32 %r{}, %f12; ",
                    at + 4,
                    at + 40
                ),
                // Far enough for sums to leave 32 bits.
                _ => format!(
                    "cvt.s32.s16 %r{0}, %h{1}; shl.b32 %r{0}, %r{0}, 16; ",
                    at + 40,
                    at + 4
                ),
            };
            (
                whole.to_owned() + &(0..4).map(convert).collect::<String>(),
                4,
            )
        }
    }
}

/// What is added to the product.
fn addend(ty: &str, seed: u64, row: usize, column: usize) -> i32 {
    let bits = draw(seed, row, column, 3);
    match ty {
        "s32" => i32::from(bits as i16),
        _ => (bits % 200) as i32 - 100,
    }
}

fn check_product(mnemonic: &str, seed: u64) {
    let shape = mnemonic
        .split('.')
        .find_map(|part| part.strip_prefix("m16n8k"));
    let k: usize = shape.and_then(|k| k.parse().ok()).expect("a shape");
    let types: Vec<_> = mnemonic.rsplit('.').take(4).collect();
    let [c, b, a, d] = types[..] else {
        unreachable!("four types")
    };
    let (a_element, b_element) = (Element::of(a), Element::of(b));
    let p = a_element.packed();
    let (a_count, b_count) = (16 * k / 32 / p, 8 * k / 32 / p);
    let left = |row, at| a_element.draw(draw(seed, row, at, 1));
    let right = |at, column| b_element.draw(draw(seed, at, column, 2));

    let operands: Vec<Operands> = (0..32)
        .map(|lane| {
            let (group, member) = (lane / 4, lane % 4);
            let mut words = [0u32; 8];
            for (reg, word) in words.iter_mut().enumerate().take(a_count) {
                let (row, first) = (group + 8 * (reg % 2), member * p + 4 * p * (reg / 2));
                *word = pack(a_element, (first..first + p).map(|at| left(row, at)));
            }
            for (reg, word) in words[4..].iter_mut().enumerate().take(b_count) {
                let first = member * p + 4 * p * reg;
                *word = pack(b_element, (first..first + p).map(|at| right(at, group)));
            }
            for reg in 0..4 {
                let value = addend(c, seed, group + 8 * (reg / 2), 2 * member + reg % 2);
                let half = match c {
                    "f16" => f16::from_f32(value as f32).to_bits(),
                    _ => value as u16,
                };
                words[6 + reg / 2] |= u32::from(half) << (16 * (reg % 2));
            }
            [0, 2, 4, 6].map(|at| u64::from(words[at + 1]) << 32 | u64::from(words[at]))
        })
        .collect();

    let (prepare, c_count) = accumulator(c);
    let d_count = if d == "f16" { 2 } else { 4 };
    let body = |half: usize| {
        format!(
            "mov.b64 {{%r32, %r33}}, %q0; mov.b64 {{%r34, %r35}}, %q1; mov.b64 {{%r36, %r37}}, %q2; {prepare}
             {mnemonic} {}, {}, {}, {};
             mov.b64 %q8, {{%r{}, %r{}}};",
            registers(20, d_count),
            registers(32, a_count),
            registers(36, b_count),
            registers(40, c_count),
            20 + 2 * half,
            21 + 2 * half,
        )
    };
    let halves: Vec<_> = (0..d_count / 2)
        .map(|half| run(&body(half), Out::Q, &operands))
        .collect();
    let bits_of = |lane: usize, reg: usize| match d {
        "f16" => halves[0][lane] >> (16 * reg),
        _ => halves[reg / 2][lane] >> (32 * (reg % 2)),
    };
    for (lane, reg) in (0..32).flat_map(|lane| (0..4).map(move |reg| (lane, reg))) {
        let (row, column) = (lane / 4 + 8 * (reg / 2), lane % 4 * 2 + reg % 2);
        let product: i64 = (0..k)
            .map(|at| i64::from(left(row, at) * right(at, column)))
            .sum();
        let added = i64::from(addend(c, seed, row, column)) << if c == "s32" { 16 } else { 0 };
        let exact = product + added;
        let (got, want) = match d {
            "f16" => (
                f16::from_bits(bits_of(lane, reg) as u16).to_f64(),
                exact as f64,
            ),
            "f32" => (
                f32::from_bits(bits_of(lane, reg) as u32).into(),
                exact as f64,
            ),
            _ => {
                let got = bits_of(lane, reg) as i32;
                let limited = exact.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
                let wrapped = exact as i32;
                let want = if mnemonic.contains("satfinite") {
                    limited
                } else {
                    wrapped
                };
                (got.into(), want.into())
            }
        };
        assert_eq!(got, want, "{mnemonic} at row {row}, column {column}");
    }
}

/// Lines that leave in `%r31` where this lane's row of 16 bytes is, and in `%q10` the same as a generic address.
const ROW: &str = "shl.b32 %r31, %r30, 4; mov.b32 %r32, tile; add.u32 %r31, %r31, %r32;
    cvt.u64.u32 %q10, %r31; cvta.shared.u64 %q10, %q10;";

/// The number of matrices of a mnemonic, and the register with their addresses.
fn shape(mnemonic: &str) -> (usize, &'static str) {
    let count = [1, 2, 4]
        .into_iter()
        .find(|n| mnemonic.contains(&format!(".x{n}.")));
    let address = if mnemonic.contains(".shared") {
        "%r31"
    } else {
        "%q10"
    };
    (count.expect("a number of matrices"), address)
}

/// Element `(row, column)` of the matrices whose rows are the first 16 bytes of the operands.
fn element(operands: &[Operands], row: usize, column: usize) -> u64 {
    operands[row][column / 4] >> (16 * (column % 4)) & 0xffff
}

/// Where the two elements of a lane's register for a matrix are, as row and column.
fn fragment(mnemonic: &str, lane: usize, matrix: usize) -> [(usize, usize); 2] {
    [0, 1].map(|at| {
        let (row, column) = (lane / 4, lane % 4 * 2 + at);
        let (row, column) = if mnemonic.contains(".trans") {
            (column, row)
        } else {
            (row, column)
        };
        (8 * matrix + row, column)
    })
}

fn warp() -> impl Strategy<Value = Vec<Operands>> {
    proptest::collection::vec(any::<Operands>(), 32)
}

/// Matrices of `wmma` as bytes, a KiB each, of which an element is at `row * stride + column` or the other way round.
struct Matrix<'a> {
    operands: &'a [Operands],
    kib: usize,
    element: &'a str,
    is_row_major: bool,
    stride: usize,
}

impl Matrix<'_> {
    fn at(&self, row: usize, column: usize) -> f64 {
        let index = if self.is_row_major {
            row * self.stride + column
        } else {
            column * self.stride + row
        };
        let bytes = match self.element {
            "f16" | "bf16" => 2,
            "s8" | "u8" => 1,
            _ => 4,
        };
        let byte = index * bytes;
        let bits = self.operands[32 * self.kib + byte / 32][byte % 32 / 8] >> (8 * (byte % 8));
        match self.element {
            "f16" => f16::from_bits(bits as u16).to_f64(),
            "bf16" => bf16::from_bits(bits as u16).to_f64(),
            "s8" => (bits as i8).into(),
            "u8" => (bits as u8).into(),
            "s32" => (bits as i32).into(),
            _ => f32::from_bits(bits as u32).into(),
        }
    }
}

/// The whole of a product by `wmma`: of matrices in memory, at every address space and layout of the accumulators in turn.
fn check_wmma(mnemonic: &str, seed: u64, variant: usize) {
    let parts: Vec<_> = mnemonic.split('.').collect();
    let at = parts
        .iter()
        .position(|part| part.starts_with('m') && part.contains('k'));
    let at = at.expect("a shape");
    let [m, n, k] = match parts[at] {
        "m16n16k16" => [16, 16, 16],
        "m8n32k16" => [8, 32, 16],
        "m32n8k16" => [32, 8, 16],
        _ => [16, 16, 8],
    };
    let types: Vec<_> = parts[at + 1..]
        .iter()
        .copied()
        .filter(|part| *part != "satfinite")
        .collect();
    let (d, element, c) = match types[..] {
        [d, c] => (d, "f16", c),
        [d, a, _, c] => (d, a, c),
        _ => unreachable!("two or four types"),
    };
    let layouts = [parts[at - 2], parts[at - 1], ["row", "col"][variant % 2]];
    let space = ["", ".global", ".shared", ".shared::cta"][variant / 2 % 4];
    // Every other time rows overlap, which loads do not mind.
    let default =
        |side: usize, row: usize, column: usize| if layouts[side] == "row" { column } else { row };
    let packed = Element::of(element).packed();
    let narrow = variant / 8 % 2 == 1;
    let strides = [default(0, m, k), default(1, k, n), default(2, m, n)];
    let strides = [0, 1, 2].map(|side| match side {
        2 => strides[2],
        _ if narrow => (4 * packed).min(strides[side]),
        side => strides[side],
    });

    // Small numbers everywhere.
    let encode = |matrix: usize, index: usize| -> u64 {
        let bits = draw(seed, matrix, index, 5);
        let kind = [element, element, c][matrix];
        match kind {
            "f32" => ((bits % 200) as f32 - 100.0).to_bits().into(),
            "s32" => bits.into(),
            kind => Element::of(kind)
                .encode(Element::of(kind).draw(bits))
                .into(),
        }
    };
    let operands: Vec<Operands> = (0..96)
        .map(|thread| {
            let matrix = thread / 32;
            let packed = match [element, element, c][matrix] {
                "f32" | "s32" => 1,
                kind => Element::of(kind).packed(),
            };
            [0, 1, 2, 3].map(|word| {
                let per_word = 2 * packed;
                let first = (thread % 32 * 4 + word) * per_word;
                (0..per_word).fold(0, |all, at| {
                    all | encode(matrix, first + at) << (64 / per_word * at)
                })
            })
        })
        .collect();

    let (a_count, b_count) = match (element, parts[at]) {
        ("f16", _) => (8, 8),
        ("bf16", "m16n16k16") | ("tf32", _) => (4, 4),
        ("bf16", "m8n32k16") => (2, 8),
        ("bf16", _) => (8, 2),
        (_, "m16n16k16") => (2, 2),
        (_, "m8n32k16") => (1, 4),
        _ => (4, 1),
    };
    let count = |ty: &str| if ty == "f16" { 4 } else { 8 };
    let base = if space.starts_with(".shared") {
        "%r31"
    } else {
        "%q20"
    };
    let [a_stride, b_stride, _] = strides;
    let (shape, [a_layout, b_layout, c_layout]) = (parts[at], layouts);
    let body = |half: usize| {
        format!(
            "mul.wide.u32 %q20, %r30, 32; sub.u64 %q20, %in, %q20;
             mov.b32 %r31, tile; shl.b32 %r33, %r30, 5; add.u32 %r33, %r31, %r33;
             st.shared.v2.b64 [%r33], {{%q0, %q1}}; st.shared.v2.b64 [%r33+16], {{%q2, %q3}}; bar.sync 0;
             setp.gt.u32 %p5, %r30, 31; @%p5 bra behind;
             wmma.load.a.sync.aligned.{a_layout}.{shape}{space}.{element} {}, [{base}], {a_stride};
             wmma.load.b.sync.aligned.{b_layout}.{shape}{space}.{element} {}, [{base}+1024], {b_stride};
             wmma.load.c.sync.aligned.{c_layout}.{shape}{space}.{c} {}, [{base}+2048];
             {mnemonic} {}, {}, {}, {};
             bar.warp.sync -1;
             wmma.store.d.sync.aligned.{c_layout}.{shape}{space}.{d} [{base}+2048], {};
             behind: bar.sync 0; shl.b32 %r33, %r30, 3;
             cvt.u64.u32 %q21, %r33; add.u64 %q20, %q20, %q21; add.u32 %r33, %r31, %r33;
             {} %q8, [{}+{}];",
            registers(10, a_count),
            registers(18, b_count),
            registers(34, count(c)),
            registers(42, count(d)),
            registers(10, a_count),
            registers(18, b_count),
            registers(34, count(c)),
            registers(42, count(d)),
            if base == "%r31" { "ld.shared.b64" } else { "ld.global.b64" },
            if base == "%r31" { "%r33" } else { "%q20" },
            2048 + 256 * half,
        )
    };
    let halves = [0, 1].map(|half| run(&body(half), Out::Q, &operands));
    let bytes_of_d = if d == "f16" { 2 } else { 4 };
    let matrix = |side: usize, element| Matrix {
        operands: &operands,
        kib: side,
        element,
        is_row_major: layouts[side] == "row",
        stride: strides[side],
    };
    let (left, right, added) = (matrix(0, element), matrix(1, element), matrix(2, c));
    for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
        let product: f64 = (0..k)
            .map(|at| left.at(row, at) * right.at(at, column))
            .sum();
        let exact = product + added.at(row, column);
        let index = if layouts[2] == "row" {
            row * n + column
        } else {
            column * m + row
        };
        let byte = index * bytes_of_d;
        let half = usize::from(byte >= 256);
        let bits = halves[half][(byte - 256 * half) / 8] >> (8 * (byte % 8));
        let (got, want) = match d {
            "f16" => (f16::from_bits(bits as u16).to_f64(), exact),
            "f32" => (f32::from_bits(bits as u32).into(), exact),
            _ if mnemonic.contains("satfinite") => (
                f64::from(bits as i32),
                exact.clamp(i32::MIN.into(), i32::MAX.into()),
            ),
            _ => (f64::from(bits as i32), f64::from(exact as i64 as i32)),
        };
        assert_eq!(
            got, want,
            "{mnemonic}, {layouts:?}{space} at row {row}, column {column}"
        );
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn wmma(seed in any::<u64>()) {
        let products = mnemonics("wmma").into_iter().filter(|name| name.starts_with("wmma.mma") || name.starts_with("wmma.satfinite"));
        for (index, mnemonic) in products.enumerate() {
            let mnemonic = match mnemonic.strip_prefix("wmma.satfinite") {
                Some(rest) => format!("wmma{rest}.satfinite"),
                None => mnemonic,
            };
            for layout in 0..2 {
                check_wmma(&mnemonic, seed, 2 * (index + seed as usize % 8) + layout);
            }
        }
    }

    #[test]
    fn products(seed in any::<u64>()) {
        for mnemonic in mnemonics("mma") {
            check_product(&mnemonic, seed);
        }
    }

    #[test]
    fn loads(operands in warp()) {
        for mnemonic in mnemonics("ldmatrix") {
            let (count, address) = shape(&mnemonic);
            for matrix in 0..count {
                let body = format!(
                    "{ROW} st.shared.v2.b64 [%r31], {{%q0, %q1}}; bar.warp.sync -1;
                     {mnemonic} {}, [{address}]; mov.b32 %r8, %r{};",
                    registers(20, count), 20 + matrix
                );
                for (lane, got) in run(&body, Out::R, &operands).into_iter().enumerate() {
                    let [low, high] = fragment(&mnemonic, lane, matrix);
                    let want = element(&operands, high.0, high.1) << 16 | element(&operands, low.0, low.1);
                    prop_assert_eq!(got, want, "{}: lane {}, matrix {}", &mnemonic, lane, matrix);
                }
            }
        }
    }

    #[test]
    fn stores(operands in warp()) {
        for mnemonic in mnemonics("stmatrix") {
            let (count, address) = shape(&mnemonic);
            let registers_of = |lane: usize, matrix: usize| operands[lane][matrix / 2] >> (32 * (matrix % 2));
            for word in 0..2 {
                let body = format!(
                    "{ROW} mov.b64 %q11, 0; st.shared.v2.b64 [%r31], {{%q11, %q11}}; bar.warp.sync -1;
                     mov.b64 {{%r20, %r21}}, %q0; mov.b64 {{%r22, %r23}}, %q1;
                     {mnemonic} [{address}], {}; bar.warp.sync -1; ld.shared.b64 %q8, [%r31+{}];",
                    registers(20, count), 8 * word
                );
                let results = run(&body, Out::Q, &operands);
                let mut rows = vec![[0u64; 8]; 32];
                for (lane, matrix) in (0..32).flat_map(|lane| (0..count).map(move |matrix| (lane, matrix))) {
                    for (at, (row, column)) in fragment(&mnemonic, lane, matrix).into_iter().enumerate() {
                        rows[row][column] = registers_of(lane, matrix) >> (16 * at) & 0xffff;
                    }
                }
                for (row, got) in rows.iter().zip(results) {
                    let want = row[4 * word..][..4].iter().rev().fold(0, |all, half| all << 16 | half);
                    prop_assert_eq!(got, want, "{}", &mnemonic);
                }
            }
        }
    }

    #[test]
    fn transpositions(operands in warp()) {
        let results = run("movmatrix.sync.aligned.m8n8.trans.b16 %r8, %r0;", Out::R, &operands);
        let element = |row: usize, column: usize| operands[4 * row + column / 2][0] >> (16 * (column % 2)) & 0xffff;
        for (lane, got) in results.into_iter().enumerate() {
            let (row, column) = (lane / 4, lane % 4 * 2);
            prop_assert_eq!(got, element(column + 1, row) << 16 | element(column, row));
        }
    }

    /// `_` in the place of a register, which nothing but the others' values may tell from one, and a number in the place of an addend.
    #[test]
    fn discards(operands in warp()) {
        let full = |instruction: &str| format!(
            "{ROW} st.shared.v2.b64 [%r31], {{%q0, %q1}}; bar.warp.sync -1; mov.b64 {{%r32, %r33}}, %q0;
             mov.b64 {{%r34, %r35}}, %q1; mov.b32 %r41, 0; mov.b32 %r42, 0x40600000;
             {instruction} mov.b64 %q8, {{%r21, %r23}};"
        );
        let pairs = [
            (
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
                 {%r20, %r21, %r22, %r23}, {%r32, %r33, %r34, %r35}, {%r32, %r34}, {%r32, %r41, %r33, %r42};",
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
                 {_, %r21, _, %r23}, {%r32, %r33, %r34, %r35}, {%r32, %r34}, {%r32, 0., %r33, 3.5};",
            ),
            (
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20, %r21, %r22, %r23}, [%r31];",
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {_, %r21, _, %r23}, [%r31];",
            ),
        ];
        for (kept, discarded) in pairs {
            let [kept, discarded] = [kept, discarded].map(|each| run(&full(each), Out::Q, &operands));
            prop_assert_eq!(kept, discarded);
        }
    }
}
