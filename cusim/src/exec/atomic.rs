//! `atom` and `red`: lanes take their turns in order.

use super::access::Outcome;
use super::address::{self, Place, Targets};
use super::arithmetic::{put, value};
use super::cta::Env;
use super::warp::{Warp, lanes_of};
use super::{access, report};
use crate::fault::FaultKind;
use crate::program::op::Atomic;

pub(super) fn atomic(
    warp: &mut Warp,
    env: &mut Env<'_>,
    atomic: &Atomic,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let count = atomic.operands.len();
    let bytes = atomic.width * count;
    let mut old = [[0u64; 32]; 8];
    let at = address::addresses(warp, atomic.address);
    let mut rest = mask;
    while rest != 0 {
        let targets = address::next_targets(atomic.space, &at, &mut rest);
        if !matches!(targets.place, Place::Global | Place::Shared) {
            let access = report::Access::new(warp, pc, &targets, bytes);
            let what = "an atomic operation outside of global and shared memory";
            return Err(access.fault(env, FaultKind::IllegalAddress, what, targets.lanes));
        }
        let counters = env.counters;
        for lane in lanes_of(targets.lanes) {
            let one = targets.only(lane);
            one_lane(warp, env, atomic, (pc, lane), &one, &mut old)?;
        }
        // Counted as one store of all lanes.
        env.counters = counters;
        match targets.place {
            Place::Shared => env.counters.shared(&targets, bytes),
            _ => env.counters.global(true, &targets, bytes),
        }
    }
    for (dest, old) in atomic.dests.iter().zip(&old) {
        if let Some(reg) = dest {
            put(warp, *reg, old, mask);
        }
    }
    Ok(())
}

fn one_lane(
    warp: &mut Warp,
    env: &mut Env<'_>,
    atomic: &Atomic,
    (pc, lane): (usize, usize),
    target: &Targets,
    old: &mut [[u64; 32]; 8],
) -> Outcome<()> {
    let width = atomic.width;
    let bytes = width * atomic.operands.len();
    access::read(warp, env, target, bytes, pc, atomic.order)?;
    let mut buffer = [0u8; 16];
    for (chunk, words) in buffer.chunks_exact_mut(4).zip(env.words.iter()) {
        chunk.copy_from_slice(&words[lane].to_le_bytes());
    }
    let mut changed = false;
    for (element, operand) in atomic.operands.iter().enumerate() {
        let part = &mut buffer[element * width..][..width];
        let mut before = [0; 8];
        before[..width].copy_from_slice(part);
        let before = u64::from_le_bytes(before);
        let cut = u64::MAX >> (64 - 8 * width as u32);
        let operand = value(warp, *operand, lane) & cut;
        let second = atomic.second.map_or(0, |reg| value(warp, reg, lane)) & cut;
        let after = (atomic.f)(before, operand, second) & cut;
        part.copy_from_slice(&after.to_le_bytes()[..width]);
        old[element][lane] = before;
        changed |= before != after;
    }
    for (chunk, words) in buffer.chunks_exact(4).zip(env.words.iter_mut()) {
        let mut word = [0; 4];
        word.copy_from_slice(chunk);
        words[lane] = u32::from_le_bytes(word);
    }
    access::write(warp, env, target, bytes, pc, atomic.order)?;
    if changed {
        env.changed();
    } else {
        env.looked();
    }
    Ok(())
}
