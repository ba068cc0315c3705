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
    let bytes = atomic.width;
    let mut old = [0u64; 32];
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
            old[lane] = one_lane(warp, env, atomic, (pc, lane), &one)?;
        }
        // Counted as one store of all lanes.
        env.counters = counters;
        match targets.place {
            Place::Shared => env.counters.shared(true, &targets, bytes),
            _ => env.counters.global(true, &targets, bytes),
        }
    }
    if let Some(reg) = atomic.dest {
        put(warp, reg, &old, mask);
    }
    Ok(())
}

/// One lane's turn; returns what was there before.
fn one_lane(
    warp: &mut Warp,
    env: &mut Env<'_>,
    atomic: &Atomic,
    (pc, lane): (usize, usize),
    target: &Targets,
) -> Outcome<u64> {
    let width = atomic.width;
    access::read(warp, env, target, width, pc, atomic.order)?;
    let cut = u64::MAX >> (64 - 8 * width as u32);
    let (low, high) = (env.words[0][lane], env.words[1][lane]);
    let before = (u64::from(high) << 32 | u64::from(low)) & cut;
    let operand = value(warp, atomic.operand, lane) & cut;
    let second = atomic.second.map_or(0, |reg| value(warp, reg, lane)) & cut;
    let f = match target.place {
        Place::Global => atomic.f_in_global,
        _ => atomic.f,
    };
    let after = f(before, operand, second) & cut;
    env.words[0][lane] = after as u32;
    env.words[1][lane] = (after >> 32) as u32;
    access::write(warp, env, target, width, pc, atomic.order)?;
    if before == after {
        env.looked();
    } else {
        env.changed();
    }
    Ok(before)
}
