//! Matrix instructions; the layouts of fragments are those of the PTX ISA, "Matrix Fragments for
//! mma.m16n8k16 / mma.m16n8k8" and "ldmatrix".

use super::access;
use super::cta::Env;
use super::warp::Warp;
use crate::fault::Fault;
use crate::program::lanes::{f16_bits, f32_of_bf16, f32_of_f16};
use crate::program::op::{LoadMatrix, Mma};

const M: usize = 16;
const N: usize = 8;
const MAX_K: usize = 16;

/// d = a * b + c. Products of 16-bit elements are exact in f32; they are added to c in f32, in order
/// of k. (Tensor cores add several products at once with fewer roundings.)
pub(super) fn mma(warp: &mut Warp, mma: &Mma) {
    let decode = if mma.bf16 { f32_of_bf16 } else { f32_of_f16 };
    // A by k, then row; B by k, then column: the loops below run along rows of both.
    let mut a = [[0f32; M]; MAX_K];
    let mut b = [[0f32; N]; MAX_K];
    let k_count = mma.a.len() * 4;
    for lane in 0..32 {
        let (group, member) = (lane / 4, lane % 4);
        for (reg, &slot) in mma.a.iter().enumerate() {
            // Registers alternate between the upper and lower eight rows, then go right.
            let bits = warp.w[slot as usize][lane];
            let (row, k) = (group + 8 * (reg % 2), member * 2 + 8 * (reg / 2));
            a[k][row] = decode(bits & 0xffff);
            a[k + 1][row] = decode(bits >> 16);
        }
        for (reg, &slot) in mma.b.iter().enumerate() {
            let bits = warp.w[slot as usize][lane];
            let k = member * 2 + 8 * reg;
            b[k][group] = decode(bits & 0xffff);
            b[k + 1][group] = decode(bits >> 16);
        }
    }
    let mut sums = accumulators(warp, mma);
    for k in 0..k_count {
        for (row, sums) in sums.iter_mut().enumerate() {
            let factor = a[k][row];
            for (sum, &b) in sums.iter_mut().zip(&b[k]) {
                *sum += factor * b;
            }
        }
    }
    put_accumulators(warp, mma, &sums);
}

fn accumulators(warp: &Warp, mma: &Mma) -> [[f32; N]; M] {
    let mut sums = [[0f32; N]; M];
    for lane in 0..32 {
        let (group, member) = (lane / 4, lane % 4);
        for half in 0..2 {
            let row = &mut sums[group + 8 * half];
            if mma.half_accumulator {
                let bits = warp.w[mma.c[half] as usize][lane];
                row[member * 2] = f32_of_f16(bits & 0xffff);
                row[member * 2 + 1] = f32_of_f16(bits >> 16);
            } else {
                row[member * 2] = f32::from_bits(warp.w[mma.c[half * 2] as usize][lane]);
                row[member * 2 + 1] = f32::from_bits(warp.w[mma.c[half * 2 + 1] as usize][lane]);
            }
        }
    }
    sums
}

fn put_accumulators(warp: &mut Warp, mma: &Mma, sums: &[[f32; N]; M]) {
    for lane in 0..32 {
        let (group, member) = (lane / 4, lane % 4);
        for half in 0..2 {
            let (x, y) = (
                sums[group + 8 * half][member * 2],
                sums[group + 8 * half][member * 2 + 1],
            );
            if mma.half_accumulator {
                warp.w[mma.d[half] as usize][lane] = f16_bits(x) | f16_bits(y) << 16;
            } else {
                warp.w[mma.d[half * 2] as usize][lane] = nan_bits(x);
                warp.w[mma.d[half * 2 + 1] as usize][lane] = nan_bits(y);
            }
        }
    }
}

fn nan_bits(x: f32) -> u32 {
    crate::program::lanes::out(x)
}

/// Lanes 8i to 8i + 7 give the rows of matrix i; a lane receives two neighbours of row lane / 4, or
/// of column lane / 4 when transposed.
pub(super) fn load_matrix(
    warp: &mut Warp,
    env: &mut Env<'_>,
    load: &LoadMatrix,
    pc: usize,
) -> Result<(), Box<Fault>> {
    let count = load.dests.len();
    let mut rows = [[0u8; 16]; 32];
    let mut offsets = [0u32; 32];
    for lane in 0..8 * count {
        (offsets[lane], rows[lane]) = access::load_row(warp, env, load.address, pc, lane)?;
    }
    env.counters.shared(&offsets[..8 * count], 16);
    let element = |row: usize, col: usize| {
        u32::from(rows[row][2 * col]) | u32::from(rows[row][2 * col + 1]) << 8
    };
    for (matrix, &dest) in load.dests.iter().enumerate() {
        let first = 8 * matrix;
        for lane in 0..32 {
            let (line, pair) = (lane / 4, lane % 4 * 2);
            let (lo, hi) = if load.transposed {
                (element(first + pair, line), element(first + pair + 1, line))
            } else {
                (element(first + line, pair), element(first + line, pair + 1))
            };
            warp.w[dest as usize][lane] = lo | hi << 16;
        }
    }
    Ok(())
}
