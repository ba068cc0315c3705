//! What lanes do together: rendezvous, shuffles, votes.

use super::arithmetic::value;
use super::cta::Env;
use super::run::Flow;
use super::warp::{Wait, Warp, lanes_of};
use crate::fault::{Fault, FaultKind};
use crate::program::op::{Op, Reg2, Shuffle, ShuffleMode, Slot, VoteMode};

/// What a lane gets from one that does not take part, which the ISA leaves undefined: a NaN, so that it
/// shows where it is used.
const UNDEFINED: u32 = 0x7fff_dead;

/// Goes on when every lane that the members name is here.
pub(super) fn rendezvous(
    warp: &Warp,
    env: &Env<'_>,
    members: Slot,
    pc: usize,
    mask: u32,
    group: u32,
) -> Result<Flow, Box<Fault>> {
    let members = &warp.w[members as usize];
    let mut named = 0;
    for lane in lanes_of(mask) {
        if members[lane] >> lane & 1 == 0 {
            let message = "a lane executes an instruction whose member mask does not name it";
            return Err(env.fault(FaultKind::Undefined, message, warp.index, pc, 1 << lane));
        }
        named |= members[lane];
    }
    here_or_wait(warp, env, named, pc, mask, group)
}

/// An instruction that all 32 lanes execute together.
pub(super) fn whole_warp(
    warp: &Warp,
    env: &Env<'_>,
    pc: usize,
    mask: u32,
    group: u32,
) -> Result<Flow, Box<Fault>> {
    here_or_wait(warp, env, u32::MAX, pc, mask, group)
}

fn here_or_wait(
    warp: &Warp,
    env: &Env<'_>,
    named: u32,
    pc: usize,
    mask: u32,
    group: u32,
) -> Result<Flow, Box<Fault>> {
    let missing = named & !mask;
    if missing == 0 {
        return Ok(Flow::Next);
    }
    let gone = missing & !warp.live;
    if gone != 0 {
        let message = "the instruction needs lanes that have exited or never existed";
        return Err(env.fault(FaultKind::Undefined, message, warp.index, pc, gone));
    }
    if missing & group != 0 {
        let message = "the instruction needs lanes whose guard is false";
        return Err(env.fault(
            FaultKind::Undefined,
            message,
            warp.index,
            pc,
            missing & group,
        ));
    }
    Ok(Flow::Wait(Wait::Lanes))
}

/// PTX ISA, "shfl.sync": the pseudo-code there.
pub(super) fn shuffle(warp: &mut Warp, shuffle: &Shuffle, mask: u32) {
    let source = warp.w[shuffle.value as usize];
    let by = warp.w[shuffle.lane as usize];
    let clamp = warp.w[shuffle.clamp as usize];
    let mut result = [0; 32];
    let mut in_range = 0;
    for lane in 0..32u32 {
        let at = lane as usize;
        let (by, segment, clamp) = (by[at] & 31, clamp[at] >> 8 & 31, clamp[at] & 31);
        let last = lane & segment | clamp & !segment;
        let first = lane & segment;
        let (from, inside) = match shuffle.mode {
            ShuffleMode::Up => {
                let from = lane as i32 - by as i32;
                (from, from >= last as i32)
            }
            ShuffleMode::Down => ((lane + by) as i32, lane + by <= last),
            ShuffleMode::Bfly => ((lane ^ by) as i32, lane ^ by <= last),
            ShuffleMode::Idx => {
                let from = first | by & !segment;
                (from as i32, from <= last)
            }
        };
        let from = if inside { from as usize & 31 } else { at };
        let takes_part = mask >> from & 1 == 1;
        result[at] = if takes_part { source[from] } else { UNDEFINED };
        in_range |= u32::from(inside) << lane;
    }
    if let Some(slot) = shuffle.dest {
        warp.put_w(slot, &result, mask);
    }
    if let Some(slot) = shuffle.in_range {
        warp.put_p(slot, in_range, mask);
    }
}

/// `vote`, `match`, `redux` and `elect`: every lane's result is over the lanes that its own mask names.
pub(super) fn combine(warp: &mut Warp, op: &Op, mask: u32) {
    match op {
        Op::Vote(mode, dest, source, members) => {
            let holds = warp.predicate(*source);
            let members = warp.w[*members as usize];
            let ballot = members.map(|members| holds & members);
            let all = bits(|lane| ballot[lane] == members[lane]);
            let any = bits(|lane| ballot[lane] != 0);
            let none = bits(|lane| ballot[lane] == 0);
            let result = match mode {
                VoteMode::All => all,
                VoteMode::Any => any,
                VoteMode::Uni => all | none,
                VoteMode::Ballot => 0,
            };
            match dest {
                Reg2::P(slot) => warp.put_p(*slot, result, mask),
                Reg2::W(slot) => warp.put_w(*slot, &ballot, mask),
            }
        }
        Op::Match(dest, agrees, source, members, all) => {
            let members = warp.w[*members as usize];
            let values: [u64; 32] = std::array::from_fn(|lane| value(warp, *source, lane));
            let same: [u32; 32] = std::array::from_fn(|lane| {
                bits(|other| members[lane] >> other & 1 == 1 && values[other] == values[lane])
            });
            let agree = bits(|lane| same[lane] == members[lane]);
            let result = std::array::from_fn(|lane| match all {
                true if agree >> lane & 1 == 0 => 0,
                _ => same[lane],
            });
            warp.put_w(*dest, &result, mask);
            if let Some(slot) = agrees {
                warp.put_p(*slot, agree, mask);
            }
        }
        Op::Redux(f, dest, source, members) => {
            let members = warp.w[*members as usize];
            let values = warp.w[*source as usize];
            let result = members.map(|members| {
                lanes_of(members)
                    .map(|lane| values[lane])
                    .reduce(f)
                    .unwrap_or_default()
            });
            warp.put_w(*dest, &result, mask);
        }
        Op::Elect(dest, elected, members) => {
            let members = warp.w[*members as usize];
            let leaders = members.map(|members| members.trailing_zeros());
            if let Some(slot) = dest {
                warp.put_w(*slot, &leaders, mask);
            }
            if let Some(slot) = elected {
                warp.put_p(*slot, bits(|lane| leaders[lane] == lane as u32), mask);
            }
        }
        _ => {}
    }
}

/// The lanes for which something holds.
fn bits(holds: impl Fn(usize) -> bool) -> u32 {
    (0..32).map(|lane| u32::from(holds(lane)) << lane).sum()
}
