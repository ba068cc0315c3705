//! Bytes of memory to words of lanes, and words to registers.

use super::address::Targets;
use super::arithmetic::{put, value};
use super::cta::Words;
use super::warp::{Warp, lanes_of};
use crate::program::op::{Access, Reg};

/// Copies the bytes of every lane, which are known to be inside, to words.
#[inline(always)]
pub(super) fn gather(data: &[u8], targets: &Targets, base: u64, bytes: usize, words: &mut Words) {
    match bytes {
        1 => each_lane(targets, base, |lane, at| words[0][lane] = data[at].into()),
        2 => each_lane(targets, base, |lane, at| {
            words[0][lane] = u16::from_le_bytes([data[at], data[at + 1]]).into();
        }),
        4 => gather_words::<1>(data, targets, base, words),
        8 => gather_words::<2>(data, targets, base, words),
        16 => gather_words::<4>(data, targets, base, words),
        _ => gather_words::<8>(data, targets, base, words),
    }
}

#[inline(always)]
fn gather_words<const N: usize>(data: &[u8], targets: &Targets, base: u64, words: &mut Words) {
    each_lane(targets, base, |lane, at| {
        let (chunks, _) = data[at..at + 4 * N].as_chunks::<4>();
        for (words, chunk) in words[..N].iter_mut().zip(chunks) {
            words[lane] = u32::from_le_bytes(*chunk);
        }
    });
}

/// Copies words to the bytes of every lane that takes part; where lanes meet, the last one stays.
#[inline(always)]
pub(super) fn scatter(data: &mut [u8], targets: &Targets, base: u64, bytes: usize, words: &Words) {
    match bytes {
        1 => each_lane(targets, base, |lane, at| data[at] = words[0][lane] as u8),
        2 => each_lane(targets, base, |lane, at| {
            data[at..at + 2].copy_from_slice(&(words[0][lane] as u16).to_le_bytes());
        }),
        4 => scatter_words::<1>(data, targets, base, words),
        8 => scatter_words::<2>(data, targets, base, words),
        16 => scatter_words::<4>(data, targets, base, words),
        _ => scatter_words::<8>(data, targets, base, words),
    }
}

#[inline(always)]
fn scatter_words<const N: usize>(data: &mut [u8], targets: &Targets, base: u64, words: &Words) {
    each_lane(targets, base, |lane, at| {
        let (chunks, _) = data[at..at + 4 * N].as_chunks_mut::<4>();
        for (words, chunk) in words[..N].iter().zip(chunks) {
            *chunk = words[lane].to_le_bytes();
        }
    });
}

#[inline(always)]
fn each_lane(targets: &Targets, base: u64, mut each: impl FnMut(usize, usize)) {
    if targets.lanes == u32::MAX {
        for (lane, at) in targets.at.iter().enumerate() {
            each(lane, (at - base) as usize);
        }
    } else {
        lanes_of(targets.lanes).for_each(|lane| each(lane, (targets.at[lane] - base) as usize));
    }
}

/// Moves words to the registers of a load.
#[inline(always)]
pub(super) fn deposit(warp: &mut Warp, words: &Words, load: &Access, mask: u32) {
    for (element, reg) in load.regs.iter().enumerate() {
        match (reg, load.width) {
            (None, _) => {}
            (Some(Reg::W(slot)), 4) => warp.put_w(*slot, &words[element], mask),
            (Some(Reg::D(slot)), 8) => {
                let mut value = [0; 32];
                let (low, high) = (&words[2 * element], &words[2 * element + 1]);
                for (value, (&low, &high)) in value.iter_mut().zip(low.iter().zip(high)) {
                    *value = u64::from(high) << 32 | u64::from(low);
                }
                warp.put_d(*slot, &value, mask);
            }
            (Some(reg), _) => deposit_narrow(warp, words, load, element, *reg, mask),
        }
    }
}

/// Elements that are narrower than their register are extended to it.
fn deposit_narrow(
    warp: &mut Warp,
    words: &Words,
    load: &Access,
    element: usize,
    reg: Reg,
    mask: u32,
) {
    let start = element * load.width;
    let (word, shift) = (&words[start / 4], start % 4 * 8);
    let unused = 64 - 8 * load.width as u32;
    let value = word.map(|word| {
        let bits = u64::from(word >> shift) << unused;
        if load.signed {
            (bits as i64 >> unused) as u64
        } else {
            bits >> unused
        }
    });
    put(warp, reg, &value, mask);
}

/// Moves the registers of a store to words.
#[inline(always)]
pub(super) fn collect(warp: &Warp, words: &mut Words, store: &Access) {
    for (element, reg) in store.regs.iter().enumerate() {
        match (reg, store.width) {
            (Some(Reg::W(slot)), 4) => words[element] = warp.w[*slot as usize],
            (Some(Reg::D(slot)), 8) => {
                let value = &warp.d[*slot as usize];
                words[2 * element] = value.map(|value| value as u32);
                words[2 * element + 1] = value.map(|value| (value >> 32) as u32);
            }
            (Some(reg), width) => {
                let start = element * width;
                let mask = u32::MAX >> (32 - 8 * width.min(4));
                for (lane, word) in words[start / 4].iter_mut().enumerate() {
                    let bits = value(warp, *reg, lane) as u32 & mask;
                    let shift = start % 4 * 8;
                    // The first element of a word clears what was there.
                    *word = if shift == 0 {
                        bits
                    } else {
                        *word | bits << shift
                    };
                }
            }
            (None, _) => {}
        }
    }
}
