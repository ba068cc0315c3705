//! Matrix instructions against products of whole matrices.

use cusim::exec::MmaMode;
use half::{bf16, f16};

use crate::machine::Machine;

/// Small integers, whose products and sums every format holds exactly.
fn matrix(rows: usize, cols: usize, seed: usize) -> Vec<Vec<i32>> {
    let element = |row: usize, col: usize| ((row * 31 + col * 17 + seed * 7) % 13) as i32 - 6;
    (0..rows)
        .map(|row| (0..cols).map(|col| element(row, col)).collect())
        .collect()
}

struct Shape {
    k: usize,
    /// Elements in a register and how one is written.
    packed: usize,
    encode: fn(i32) -> u32,
    types: &'static str,
    half: bool,
}

const F32: fn(i32) -> u32 = |x| (x as f32).to_bits();

/// Lays out matrices as the ISA says, multiplies on the machine and compares.
fn check(mode: MmaMode, shape: &Shape) {
    let (a, b, c) = (
        matrix(16, shape.k, 1),
        matrix(shape.k, 8, 2),
        matrix(16, 8, 3),
    );
    let p = shape.packed;
    let bits = 32 / p as u32;
    let pack = |elements: &dyn Fn(usize) -> i32| {
        (0..p).fold(0u32, |word, at| {
            let mask = if bits == 32 {
                u32::MAX
            } else {
                (1 << bits) - 1
            };
            word | ((shape.encode)(elements(at)) & mask) << (at as u32 * bits)
        })
    };
    let (a_regs, b_regs) = (shape.k / p / 2, shape.k / p / 4);
    let c_regs = if shape.half { 2 } else { 4 };
    let mut input = vec![0u32; 32 * 12];
    for lane in 0..32 {
        let (g, m) = (lane / 4, lane % 4);
        let own = &mut input[lane * 12..][..12];
        for (reg, word) in own.iter_mut().enumerate().take(a_regs) {
            let (row, col) = (g + 8 * (reg % 2), m * p + 4 * p * (reg / 2));
            *word = pack(&|at| a[row][col + at]);
        }
        for reg in 0..b_regs {
            own[4 + reg] = pack(&|at| b[m * p + 4 * p * reg + at][g]);
        }
        for reg in 0..4 {
            let value = c[g + 8 * (reg / 2)][2 * m + reg % 2];
            if shape.half {
                own[8 + reg / 2] |=
                    u32::from(f16::from_f32(value as f32).to_bits()) << (16 * (reg % 2));
            } else if shape.types.contains("s32") {
                own[8 + reg] = value as u32;
            } else {
                own[8 + reg] = F32(value);
            }
        }
    }
    let list = |first: usize, count: usize| {
        let names: Vec<String> = (first..first + count).map(|at| format!("%r{at}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let float = |at: usize| format!("%r{at}");
    let loads: String = (0..12)
        .map(|at| format!("ld.global.u32 {}, [%rd1+{}];\n", float(at), 4 * at))
        .collect();
    let stores: String = (0..c_regs)
        .map(|at| format!("st.global.u32 [%rd3+{}], %r{};\n", 4 * at, 20 + at))
        .collect();
    let body = format!(
        "mov.u32 %r30, %laneid; mul.wide.u32 %rd0, %r30, 48; add.u64 %rd1, %rd0, %p0;\n\
         mul.wide.u32 %rd2, %r30, 16; add.u64 %rd3, %rd2, %p1;\n{loads}\
         mma.sync.aligned.m16n8k{}.row.col.{} {}, {}, {}, {};\n{stores}",
        shape.k,
        shape.types,
        list(20, c_regs),
        list(0, a_regs),
        list(4, b_regs),
        list(8, c_regs),
    );
    let mut machine = Machine::of(2, &body);
    machine.options.mma = mode;
    let source = machine.upload(&input, u32::to_le_bytes);
    let target = machine.upload(&[0u32; 128], u32::to_le_bytes);
    let counters = machine
        .launch(32, &[source, target])
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(counters.mma_flops, 2 * 16 * 8 * shape.k as u64);
    let got = machine.words(target, 128);
    for lane in 0..32 {
        for reg in 0..4 {
            let (row, col) = (lane / 4 + 8 * (reg / 2), lane % 4 * 2 + reg % 2);
            let want = c[row][col] + (0..shape.k).map(|k| a[row][k] * b[k][col]).sum::<i32>();
            let got = if shape.half {
                let word = got[lane * 4 + reg / 2] >> (16 * (reg % 2));
                f16::from_bits(word as u16).to_f32() as i32
            } else if shape.types.contains("s32") {
                got[lane * 4 + reg] as i32
            } else {
                f32::from_bits(got[lane * 4 + reg]) as i32
            };
            assert_eq!(got, want, "{} at row {row}, column {col}", shape.types);
        }
    }
}

#[test]
fn products_of_every_shape_are_right() {
    let f16_bits = |x: i32| f16::from_f32(x as f32).to_bits().into();
    let bf16_bits = |x: i32| bf16::from_f32(x as f32).to_bits().into();
    for (k, packed, encode, types, half) in [
        (16, 2, f16_bits as fn(i32) -> u32, "f32.f16.f16.f32", false),
        (16, 2, bf16_bits, "f32.bf16.bf16.f32", false),
        (16, 2, f16_bits, "f16.f16.f16.f16", true),
        (8, 2, f16_bits, "f32.f16.f16.f32", false),
        (8, 2, bf16_bits, "f32.bf16.bf16.f32", false),
        (8, 1, F32, "f32.tf32.tf32.f32", false),
        (4, 1, F32, "f32.tf32.tf32.f32", false),
        (16, 4, |x| x as u8 as u32, "s32.s8.s8.s32", false),
        (32, 4, |x| x as u8 as u32, "satfinite.s32.s8.s8.s32", false),
    ] {
        for mode in [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper] {
            let shape = Shape {
                k,
                packed,
                encode,
                types,
                half,
            };
            check(mode, &shape);
        }
    }
}

/// Four matrices in shared memory: element (row, col) of matrix i is 64 i + 8 row + col.
fn load_matrix(modifiers: &str, count: usize) -> Vec<u32> {
    let list: Vec<String> = (20..20 + count).map(|at| format!("%r{at}")).collect();
    let stores: String = (0..count)
        .map(|at| format!("st.global.u32 [%rd1+{}], %r{};\n", 4 * at, 20 + at))
        .collect();
    let body = format!(
        ".shared .align 16 .b8 tile[512];\n\
         mov.u32 %r0, %laneid; mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.u32 %r3, %r1, %r2;\n\
         mov.u32 %r4, 0;\n\
         L: shl.b32 %r5, %r0, 3; add.u32 %r5, %r5, %r4; shl.b32 %r6, %r4, 1; add.u32 %r6, %r6, %r3;\n\
         st.shared.u16 [%r6], %r5; add.u32 %r4, %r4, 1; setp.lt.u32 %q0, %r4, 8; @%q0 bra L;\n\
         ldmatrix.sync.aligned.m8n8.{modifiers}.shared.b16 {{{}}}, [%r3];\n\
         mul.wide.u32 %rd0, %r0, {}; add.u64 %rd1, %rd0, %p0;\n{stores}",
        list.join(", "),
        4 * count,
    );
    let mut machine = Machine::of(1, &body);
    let target = machine.alloc(128 * count as u64);
    let counters = machine
        .launch(32, &[target])
        .unwrap_or_else(|fault| panic!("{fault}"));
    // Eight stores of one row a lane, eight lanes to a bank; rows of one matrix are next to each other.
    assert_eq!(counters.shared_wavefronts, 8 * 4 + count as u64);
    machine.words(target, 32 * count)
}

#[test]
fn matrices_are_loaded_as_fragments() {
    for count in [1, 2, 4] {
        for (at, word) in load_matrix(&format!("x{count}"), count)
            .into_iter()
            .enumerate()
        {
            let (lane, matrix) = (at / count, at % count);
            let element = |col: usize| (64 * matrix + 8 * (lane / 4) + col) as u32;
            let col = lane % 4 * 2;
            assert_eq!(
                word,
                element(col) | element(col + 1) << 16,
                "lane {lane}, matrix {matrix}"
            );
        }
    }
    for (at, word) in load_matrix("x4.trans", 4).into_iter().enumerate() {
        let (lane, matrix) = (at / 4, at % 4);
        let element = |row: usize| (64 * matrix + 8 * row + lane / 4) as u32;
        let row = lane % 4 * 2;
        assert_eq!(
            word,
            element(row) | element(row + 1) << 16,
            "lane {lane}, matrix {matrix}"
        );
    }
}

#[test]
fn matrices_transpose_in_registers() {
    let body = "mov.u32 %r0, %laneid; and.b32 %r1, %r0, 3; shr.u32 %r2, %r0, 2; shl.b32 %r2, %r2, 3;\n\
        shl.b32 %r1, %r1, 1; add.u32 %r1, %r1, %r2; add.u32 %r2, %r1, 1; shl.b32 %r2, %r2, 16;\n\
        or.b32 %r1, %r1, %r2; movmatrix.sync.aligned.m8n8.trans.b16 %r3, %r1;\n\
        mul.wide.u32 %rd0, %r0, 4; add.u64 %rd0, %rd0, %p0; st.global.u32 [%rd0], %r3;";
    let mut machine = Machine::of(1, body);
    let target = machine.alloc(128);
    machine
        .launch(32, &[target])
        .unwrap_or_else(|fault| panic!("{fault}"));
    for (lane, word) in machine.words(target, 32).into_iter().enumerate() {
        let element = |row: usize| (8 * row + lane / 4) as u32;
        let row = lane % 4 * 2;
        assert_eq!(word, element(row) | element(row + 1) << 16);
    }
}

/// 1 and fifteen products of 2^-24, or 2^-25. In f32, one after the other, each is lost; Ampere keeps the former
/// in blocks of eight, Hopper the latter too, and both cut the sum to 23 bits behind the point.
#[test]
fn tensor_cores_differ_as_published() {
    let power = |exponent: i32| f64::from(exponent).exp2();
    for (mode, exponent, want) in [
        (MmaMode::Fast, -24, 1.0),
        (MmaMode::Ampere, -24, 1.0 + 14.0 * power(-24)),
        (MmaMode::Hopper, -24, 1.0 + 14.0 * power(-24)),
        (MmaMode::Fast, -25, 1.0),
        (MmaMode::Ampere, -25, 1.0),
        (MmaMode::Hopper, -25, 1.0 + 12.0 * power(-25)),
    ] {
        let pairs = |value: f64| {
            let bits = u32::from(f16::from_f64(value).to_bits());
            (
                bits << 16 | bits,
                bits << 16 | u32::from(f16::ONE.to_bits()),
            )
        };
        let ((a, a_first), (b, b_first)) = (pairs(power(-12)), pairs(power(exponent + 12)));
        // Lane 4g + m has columns 2m, 2m + 1 and 2m + 8, 2m + 9 of row g of a, and the same rows of column g of b.
        let body = format!(
            "mov.u32 %r0, {a}; mov.u32 %r1, {a}; mov.u32 %r2, {b}; mov.u32 %r3, {b};\n\
             mov.u32 %r20, %laneid; and.b32 %r21, %r20, 3; setp.eq.u32 %q0, %r21, 0;\n\
             @%q0 mov.u32 %r0, {a_first}; @%q0 mov.u32 %r2, {b_first};\n\
             mov.f32 %f0, 0f00000000;\n\
             mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f1, %f2, %f3, %f4}}, {{%r0, %r0, %r1, %r1}}, \
             {{%r2, %r3}}, {{%f0, %f0, %f0, %f0}};\n\
             mul.wide.u32 %rd0, %r20, 4; add.u64 %rd0, %rd0, %p0; st.global.f32 [%rd0], %f1;"
        );
        let mut machine = Machine::of(1, &body);
        machine.options.mma = mode;
        let out = machine.alloc(128);
        machine
            .launch(32, &[out])
            .unwrap_or_else(|fault| panic!("{fault}"));
        let got = f32::from_bits(machine.words(out, 1)[0]);
        assert_eq!(f64::from(got), want, "{mode:?}, products of 2^{exponent}");
    }
}
