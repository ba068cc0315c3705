//! Matrix instructions. The layouts of fragments are those of the PTX ISA, "Matrix Fragments for mma" and
//! "ldmatrix": lane 4g + m holds neighbours in row or column g, from m on.

use super::access::{self, Outcome};
use super::address::{self, Place, Targets};
use super::cta::Env;
use super::warp::Warp;
use super::{MmaMode, product};
use crate::fault::FaultKind;
use crate::program::lanes::{f16_bits, f32_of_bf16, f32_of_f16, out};
use crate::program::op::{Address, Element, FragmentAccess, Lanes, Mma, Op, Order, Space};
use crate::program::simd::{Loops, vectorized};

impl Mma {
    /// Columns of `a`, which are rows of `b`.
    fn k(&self) -> usize {
        self.b.len() * 4 * self.element.packed()
    }

    /// Multiplications and additions.
    pub(super) fn flops(&self) -> u64 {
        2 * 16 * 8 * self.k() as u64
    }
}

/// The products of one instruction, all of registers as they were before it.
pub(super) fn mma(warp: &mut Warp, products: &[Mma], mode: MmaMode) {
    let [first, rest @ ..] = products else {
        return;
    };
    let result = product_of(warp, first, mode);
    mma(warp, rest, mode);
    for (&slot, result) in first.d.iter().zip(result) {
        warp.w[slot as usize] = result;
    }
}

fn product_of(warp: &Warp, mma: &Mma, mode: MmaMode) -> [Lanes; 4] {
    match mma.element {
        Element::Int8(signed) => integers(warp, mma, signed),
        _ if mode != MmaMode::Fast => product::multiply(warp, mma, mode),
        Element::F16 => multiply(warp, mma, |bits, half| {
            f32_of_f16(bits >> (16 * half) & 0xffff)
        }),
        Element::Bf16 => multiply(warp, mma, |bits, half| {
            f32_of_bf16(bits >> (16 * half) & 0xffff)
        }),
        // The lower 13 bits are not looked at.
        Element::Tf32 => multiply(warp, mma, |bits, _| f32::from_bits(bits & !0x1fff)),
    }
}

fn multiply(warp: &Warp, mma: &Mma, decode: impl Fn(u32, u32) -> f32) -> [Lanes; 4] {
    vectorized(Multiply { warp, mma, decode })
}

/// a * b + c: products are exact, and added to c in order of k, each sum rounded once to f32. (Tensor
/// cores add several products at once.)
struct Multiply<'a, F> {
    warp: &'a Warp,
    mma: &'a Mma,
    decode: F,
}

/// Eight columns of a row: first those of even number, as one register of the accumulators has them,
/// then the others.
type Row = [f32; 8];

impl<F: Fn(u32, u32) -> f32> Loops for Multiply<'_, F> {
    type Output = [Lanes; 4];

    #[inline(always)]
    fn call(self) -> [Lanes; 4] {
        match (self.mma.element.packed(), self.mma.k()) {
            (2, 16) => self.run::<2, 16>(),
            (2, _) => self.run::<2, 8>(),
            (_, 8) => self.run::<1, 8>(),
            _ => self.run::<1, 4>(),
        }
    }
}

impl<F: Fn(u32, u32) -> f32> Multiply<'_, F> {
    /// With `P` elements in a register and `K` columns.
    #[inline(always)]
    fn run<const P: usize, const K: usize>(self) -> [Lanes; 4] {
        let b = self.rows_of_b::<P, K>();
        let mut result = [[0; 32]; 4];
        for lower in 0..2 {
            // By register and half: the elements of eight rows that the 32 lanes hold.
            let mut a = [[[0f32; 32]; P]; 2];
            for (part, a) in a.iter_mut().enumerate().take(K / P / 4) {
                let bits = self.lanes(&self.mma.a, part * 2 + lower);
                for (half, a) in a.iter_mut().enumerate() {
                    for (a, &bits) in a.iter_mut().zip(bits) {
                        *a = (self.decode)(bits, half as u32);
                    }
                }
            }
            let mut sums = self.accumulators(lower);
            for (k, b) in b.iter().enumerate() {
                let (part, member, half) = (k / P / 4, k / P % 4, k % P);
                for (group, sums) in sums.iter_mut().enumerate() {
                    let factor = a[part][half][4 * group + member];
                    for (sum, &b) in sums.iter_mut().zip(b) {
                        *sum = factor.mul_add(b, *sum);
                    }
                }
            }
            self.put(lower, &sums, &mut result);
        }
        result
    }

    #[inline(always)]
    fn lanes(&self, slots: &[u32], reg: usize) -> &Lanes {
        &self.warp.w[slots[reg] as usize]
    }

    #[inline(always)]
    fn rows_of_b<const P: usize, const K: usize>(&self) -> [Row; K] {
        let mut b = [[0f32; 8]; K];
        for reg in 0..K / P / 4 {
            let bits = self.lanes(&self.mma.b, reg);
            for member in 0..4 {
                let mut words = [0; 8];
                for (at, word) in words.iter_mut().enumerate() {
                    let col = at % 4 * 2 + at / 4;
                    *word = bits[4 * col + member];
                }
                for half in 0..P {
                    let row = &mut b[(reg * 4 + member) * P + half];
                    for (element, word) in row.iter_mut().zip(words) {
                        *element = (self.decode)(word, half as u32);
                    }
                }
            }
        }
        b
    }

    /// The upper or lower eight rows of c.
    #[inline(always)]
    fn accumulators(&self, lower: usize) -> [Row; 8] {
        let mut sums = [[0f32; 8]; 8];
        if self.mma.half[1] {
            let bits = self.lanes(&self.mma.c, lower);
            for (lane, &bits) in bits.iter().enumerate() {
                sums[lane / 4][lane % 4] = f32_of_f16(bits & 0xffff);
                sums[lane / 4][4 + lane % 4] = f32_of_f16(bits >> 16);
            }
        } else {
            for odd in 0..2 {
                let bits = self.lanes(&self.mma.c, lower * 2 + odd);
                for (lane, &bits) in bits.iter().enumerate() {
                    sums[lane / 4][4 * odd + lane % 4] = f32::from_bits(bits);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn put(&self, lower: usize, sums: &[Row; 8], result: &mut [Lanes; 4]) {
        if self.mma.half[0] {
            for (lane, bits) in result[lower].iter_mut().enumerate() {
                let row = &sums[lane / 4];
                *bits = f16_bits(row[lane % 4]) | f16_bits(row[4 + lane % 4]) << 16;
            }
        } else {
            for odd in 0..2 {
                for (lane, bits) in result[lower * 2 + odd].iter_mut().enumerate() {
                    *bits = out(sums[lane / 4][4 * odd + lane % 4]);
                }
            }
        }
    }
}

/// Integers are summed exactly, then wrapped or saturated.
fn integers(warp: &Warp, mma: &Mma, [a_signed, b_signed]: [bool; 2]) -> [Lanes; 4] {
    let element = |slot: u32, lane: usize, at: usize, signed: bool| {
        let byte = (warp.w[slot as usize][lane] >> (8 * at)) as u8;
        if signed {
            i64::from(byte as i8)
        } else {
            i64::from(byte)
        }
    };
    let mut result = [[0u32; 32]; 4];
    for (reg, result) in result.iter_mut().enumerate() {
        let (lower, odd) = (reg / 2, reg % 2);
        for (lane, result) in result.iter_mut().enumerate() {
            let (group, col) = (lane / 4, lane % 4 * 2 + odd);
            let mut sum = i64::from(warp.w[mma.c[reg] as usize][lane] as i32);
            for k in 0..mma.k() {
                let (part, member, at) = (k / 16, k / 4 % 4, k % 4);
                let a = element(mma.a[part * 2 + lower], 4 * group + member, at, a_signed);
                let b = element(mma.b[part], 4 * col + member, at, b_signed);
                sum += a * b;
            }
            *result = if mma.saturate {
                sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32
            } else {
                sum as u32
            };
        }
    }
    result
}

/// `wmma.load` and `wmma.store`. Neighbours of a register that are neighbours in memory are one access.
pub(super) fn move_fragment(
    warp: &mut Warp,
    env: &mut Env<'_>,
    access: &FragmentAccess,
    is_store: bool,
    pc: usize,
) -> Outcome<()> {
    let base = address::addresses(warp, access.address);
    let stride = warp.w[access.stride as usize];
    if base != [base[0]; 32] || stride != [stride[0]; 32] {
        let message = "the lanes of a warp name different matrices";
        return Err(env.fault(FaultKind::Undefined, message, warp.index, pc, u32::MAX));
    }
    let fragment = &access.fragment;
    let (packed, bytes) = (fragment.packed, 4 / fragment.packed);
    let mut loaded = [[0; 32]; 8];
    for (register, loaded) in loaded.iter_mut().enumerate().take(fragment.distinct()) {
        let address = |at: usize| -> [u64; 32] {
            std::array::from_fn(|lane| {
                let offset = fragment.offset(register, at, lane, stride[0].into());
                base[lane].wrapping_add(offset.wrapping_mul(bytes as u64))
            })
        };
        let last = fragment.offset(register, packed - 1, 0, stride[0].into());
        let first = fragment.offset(register, 0, 0, stride[0].into());
        let together = last == first + packed as u64 - 1;
        let accesses = if together { 1 } else { packed };
        let (bytes, bits) = (4 / accesses, 32 / accesses);
        for at in 0..accesses {
            let addresses = address(at);
            if is_store {
                let value = warp.w[access.slots[register] as usize];
                env.words[0] = value.map(|word| word >> (bits * at));
            }
            let mut rest = u32::MAX;
            while rest != 0 {
                let targets = address::next_targets(access.space, &addresses, &mut rest);
                if is_store {
                    access::write(warp, env, &targets, bytes, pc, Order::Weak)?;
                } else {
                    access::read(warp, env, &targets, bytes, pc, Order::Weak)?;
                }
            }
            if !is_store {
                for (word, &read) in loaded.iter_mut().zip(&env.words[0]) {
                    *word |= (read & u32::MAX >> (32 - bits)) << (bits * at);
                }
            }
        }
    }
    if is_store {
        env.changed();
    } else {
        for (register, &slot) in access.slots.iter().enumerate() {
            warp.w[slot as usize] = loaded[register % fragment.distinct()];
        }
    }
    Ok(())
}

/// `ldmatrix`, `stmatrix`, `movmatrix`.
pub(super) fn move_matrices(warp: &mut Warp, env: &mut Env<'_>, op: &Op, pc: usize) -> Outcome<()> {
    match op {
        Op::LoadMatrix(load) => {
            let count = load.dests.len();
            let rows = rows(warp, load.space, load.address, count);
            let rows = on_shared(warp, env, &rows, pc)?;
            access::read(warp, env, &rows, 16, pc, Order::Weak)?;
            for (matrix, &dest) in load.dests.iter().enumerate() {
                // Eight lanes have the rows of a matrix, four words each.
                let mut fragment = [0; 32];
                for (word, words) in env.words[..4].iter().enumerate() {
                    let rows = &words[8 * matrix..][..8];
                    for (row, &value) in rows.iter().enumerate() {
                        fragment[4 * row + word] = value;
                    }
                }
                if load.transposed {
                    fragment = transposed(&fragment);
                }
                warp.w[dest as usize] = fragment;
            }
        }
        Op::StoreMatrix(store) => {
            let count = store.sources.len();
            for (matrix, &source) in store.sources.iter().enumerate() {
                let mut fragment = warp.w[source as usize];
                if store.transposed {
                    fragment = transposed(&fragment);
                }
                for (lane, &word) in fragment.iter().enumerate() {
                    env.words[lane % 4][8 * matrix + lane / 4] = word;
                }
            }
            let rows = rows(warp, store.space, store.address, count);
            let rows = on_shared(warp, env, &rows, pc)?;
            access::write(warp, env, &rows, 16, pc, Order::Weak)?;
        }
        Op::MoveMatrix(to, from) => {
            warp.w[*to as usize] = transposed(&warp.w[*from as usize]);
        }
        _ => {}
    }
    Ok(())
}

/// The rows of `count` matrices: lanes 8i to 8i + 7 give the addresses of those of matrix i.
fn rows(warp: &Warp, space: Space, address: Address, count: usize) -> Targets {
    let at = address::addresses(warp, address);
    let lanes = u32::MAX >> (32 - 8 * count);
    address::next_targets(space, &at, &mut { lanes })
}

/// Rows must be in shared memory, all of them.
fn on_shared(warp: &Warp, env: &Env<'_>, rows: &Targets, pc: usize) -> Outcome<Targets> {
    if rows.place == Place::Shared && rows.lanes.trailing_ones().is_multiple_of(8) {
        return Ok(*rows);
    }
    let access = super::report::Access::new(warp, pc, rows, 16);
    let kind = FaultKind::IllegalAddress;
    Err(access.fault(
        env,
        kind,
        "a row of a matrix is not in shared memory",
        rows.lanes,
    ))
}

/// An 8x8 matrix of 16-bit elements, two in each lane, the other way round.
fn transposed(fragment: &Lanes) -> Lanes {
    let mut result = [0; 32];
    // Two elements of two rows, one below the other, are two of two columns.
    for pair in 0..4 {
        for word in 0..4 {
            let (upper, lower) = (fragment[8 * pair + word], fragment[8 * pair + 4 + word]);
            result[8 * word + pair] = upper & 0xffff | lower << 16;
            result[8 * word + 4 + pair] = upper >> 16 | lower & 0xffff_0000;
        }
    }
    result
}
