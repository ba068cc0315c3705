//! Operations on registers alone.

use super::warp::{Warp, lanes_of};
use crate::program::op::{Carry, HalvesTo, Lanes, Op, Reg, SetHalves, SetTo, Slot};
use crate::program::simd::{mask_of, vectorized};

/// Executes an operation on registers; false for everything else.
#[inline(always)]
pub(super) fn execute(warp: &mut Warp, op: &Op, mask: u32) -> bool {
    let at = |slot: &Slot| *slot as usize;
    match op {
        Op::W1(f, to, a) => warp.put_w(*to, &f(&warp.w[at(a)]), mask),
        Op::W2(f, to, a, b) => warp.put_w(*to, &f(&warp.w[at(a)], &warp.w[at(b)]), mask),
        Op::W3(f, to, a, b, c) => {
            let result = f(&warp.w[at(a)], &warp.w[at(b)], &warp.w[at(c)]);
            warp.put_w(*to, &result, mask);
        }
        Op::D1(f, to, a) => warp.put_d(*to, &f(&warp.d[at(a)]), mask),
        Op::D2(f, to, a, b) => warp.put_d(*to, &f(&warp.d[at(a)], &warp.d[at(b)]), mask),
        Op::D3(f, to, a, b, c) => {
            let result = f(&warp.d[at(a)], &warp.d[at(b)], &warp.d[at(c)]);
            warp.put_d(*to, &result, mask);
        }
        Op::Narrow(f, to, a) => warp.put_w(*to, &f(&warp.d[at(a)]), mask),
        Op::Widen(f, to, a) => warp.put_d(*to, &f(&warp.w[at(a)]), mask),
        Op::Widen2(f, to, a, b) => warp.put_d(*to, &f(&warp.w[at(a)], &warp.w[at(b)]), mask),
        Op::Widen2Add(f, to, a, b, c) => {
            let result = f(&warp.w[at(a)], &warp.w[at(b)], &warp.d[at(c)]);
            warp.put_d(*to, &result, mask);
        }
        Op::Shift64(f, to, a, b) => warp.put_d(*to, &f(&warp.d[at(a)], &warp.w[at(b)]), mask),
        Op::Lop3(table, to, sources) => {
            let result = lop3(*table, sources, warp);
            warp.put_w(*to, &result, mask);
        }
        Op::SetW(f, a, b, to) => set(warp, to, f(&warp.w[at(a)], &warp.w[at(b)]), mask),
        Op::SetD(f, a, b, to) => set(warp, to, f(&warp.d[at(a)], &warp.d[at(b)]), mask),
        Op::SelectW(to, a, b, p) => {
            let chosen = warp.predicate(*p);
            let (a, b) = (&warp.w[at(a)], &warp.w[at(b)]);
            let result = vectorized(|| select(chosen, a, b));
            warp.put_w(*to, &result, mask);
        }
        Op::SelectD(to, a, b, p) => {
            let chosen = warp.predicate(*p);
            let (a, b) = (&warp.d[at(a)], &warp.d[at(b)]);
            let result = vectorized(|| select(chosen, a, b));
            warp.put_d(*to, &result, mask);
        }
        Op::P2(f, to, a, b) => {
            let result = f(warp.predicate(*a), warp.predicate(*b));
            warp.put_p(*to, result, mask);
        }
        op => return execute_seldom(warp, op, mask),
    }
    true
}

/// The rest: lane by lane.
fn execute_seldom(warp: &mut Warp, op: &Op, mask: u32) -> bool {
    match op {
        Op::Scalar(f, to, sources) => {
            let mut result = [0; 32];
            for lane in lanes_of(mask) {
                let mut values = [0; 4];
                for (to, source) in values.iter_mut().zip(sources) {
                    *to = value(warp, *source, lane);
                }
                result[lane] = f(&values);
            }
            put(warp, *to, &result, mask);
        }
        Op::Carry(carry) => add_with_carry(warp, carry, mask),
        Op::SetHalves(op) => set_halves(warp, op, mask),
        Op::Lop3Set(op) => {
            let result = lop3(op.table, &op.sources, warp);
            if let Some(to) = op.dest {
                warp.put_w(to, &result, mask);
            }
            let is_set = mask_of(&result.map(|value| value != 0));
            set(warp, &op.is_set, is_set, mask);
        }
        Op::Split(parts, bits, from) => {
            let source: [u64; 32] = std::array::from_fn(|lane| value(warp, *from, lane));
            let low = u64::MAX >> (64 - bits);
            for (at, part) in parts.iter().enumerate() {
                if let Some(to) = part {
                    let shift = at as u32 * bits;
                    put(warp, *to, &source.map(|x| x >> shift & low), mask);
                }
            }
        }
        Op::Join(to, bits, parts) => {
            let low = u64::MAX >> (64 - bits);
            let mut result = [0; 32];
            for (at, part) in parts.iter().enumerate() {
                for (lane, result) in result.iter_mut().enumerate() {
                    *result |= (value(warp, *part, lane) & low) << (at as u32 * bits);
                }
            }
            put(warp, *to, &result, mask);
        }
        _ => return false,
    }
    true
}

/// Where the bit of a lane is set the first, else the second.
#[inline(always)]
fn select<T: Copy>(chosen: u32, a: &[T; 32], b: &[T; 32]) -> [T; 32] {
    let mut result = *b;
    for (lane, result) in result.iter_mut().enumerate() {
        *result = if chosen >> lane & 1 == 1 {
            a[lane]
        } else {
            *result
        };
    }
    result
}

/// Any function of three bits: its table is indexed by a, b, c from high to low.
fn lop3(table: u8, sources: &[Slot; 3], warp: &Warp) -> Lanes {
    let [a, b, c] = sources.map(|slot| &warp.w[slot as usize]);
    let is_in = |index: u32| if table >> index & 1 == 1 { u32::MAX } else { 0 };
    let terms: [u32; 8] = std::array::from_fn(|index| is_in(index as u32));
    vectorized(|| {
        let mut result = [0; 32];
        for (lane, result) in result.iter_mut().enumerate() {
            let (a, b, c) = (a[lane], b[lane], c[lane]);
            // Choose by c, then by b, then by a.
            let pair = |at: usize| terms[at] & !c | terms[at + 1] & c;
            let without_a = pair(0) & !b | pair(2) & b;
            let with_a = pair(4) & !b | pair(6) & b;
            *result = without_a & !a | with_a & a;
        }
        result
    })
}

fn add_with_carry(warp: &mut Warp, op: &Carry, mask: u32) {
    let mut result = [0; 32];
    let mut carries = 0;
    for lane in lanes_of(mask) {
        let mut values = [0; 3];
        for (to, source) in values.iter_mut().zip(&op.sources) {
            *to = value(warp, *source, lane);
        }
        let carry = op.reads && warp.carry >> lane & 1 == 1;
        let (value, carry) = (op.f)(&values, carry);
        result[lane] = value;
        carries |= u32::from(carry) << lane;
    }
    put(warp, op.dest, &result, mask);
    if op.writes {
        warp.carry = warp.carry & !mask | carries;
    }
}

#[inline(always)]
fn set(warp: &mut Warp, to: &SetTo, result: u32, mask: u32) {
    let combined = |result: u32| match to.combine {
        Some((f, slot, negated)) => f(result, warp.predicate((slot, negated))),
        None => result,
    };
    let (dest, complement) = (combined(result), combined(!result));
    if let Some(slot) = to.dest {
        warp.put_p(slot, dest, mask);
    }
    if let Some(slot) = to.complement {
        warp.put_p(slot, complement, mask);
    }
    if let Some((slot, holds)) = to.value {
        let values = select(dest, &[holds; 32], &[0; 32]);
        warp.put_w(slot, &values, mask);
    }
}

fn set_halves(warp: &mut Warp, op: &SetHalves, mask: u32) {
    let [a, b] = op.sources.map(|slot| warp.w[slot as usize]);
    let low = (op.compare)(&a, &b);
    let high = (op.compare)(&a.map(|a| a >> 16), &b.map(|b| b >> 16));
    let combine = |result: u32| match op.combine {
        Some((f, slot, negated)) => f(result, warp.predicate((slot, negated))),
        None => result,
    };
    let results = [combine(low), combine(high)];
    match op.to {
        HalvesTo::Predicates(dests) => {
            for (slot, result) in dests.iter().zip(results) {
                if let Some(slot) = slot {
                    warp.put_p(*slot, result, mask);
                }
            }
        }
        HalvesTo::Word(slot, holds) => {
            let half = |result: u32, lane: usize| if result >> lane & 1 == 1 { holds } else { 0 };
            let words =
                std::array::from_fn(|lane| half(results[0], lane) | half(results[1], lane) << 16);
            warp.put_w(slot, &words, mask);
        }
    }
}

/// The value of a register in one lane.
#[inline(always)]
pub(super) fn value(warp: &Warp, reg: Reg, lane: usize) -> u64 {
    match reg {
        Reg::W(slot) => warp.w[slot as usize][lane].into(),
        Reg::D(slot) => warp.d[slot as usize][lane],
    }
}

/// Keeps results of active lanes, cut to the register.
pub(super) fn put(warp: &mut Warp, to: Reg, values: &[u64; 32], mask: u32) {
    match to {
        Reg::W(slot) => warp.put_w(slot, &values.map(|value| value as u32), mask),
        Reg::D(slot) => warp.put_d(slot, values, mask),
    }
}
