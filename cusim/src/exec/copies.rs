//! Asynchronous copies of a warp's lanes and the groups they are committed to (PTX ISA, "cp.async").
//!
//! A copy lands at the last moment that is legal, when its lane waits for it; until then its target
//! may not be touched.

use super::access::{self, Outcome};
use super::address;
use super::cta::Env;
use super::report;
use super::warp::{Warp, lanes_of};
use crate::fault::FaultKind;
use crate::program::op::{CopyAsync, Order, Space};

/// A copy in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    lane: u8,
    len: u8,
    /// How many groups its lane had committed before.
    group: u32,
    /// Offset in shared memory.
    offset: u32,
    /// The instruction.
    pc: u32,
    words: [u32; 4],
}

/// The copies of one warp.
#[derive(Debug, Clone, Default)]
pub(super) struct Copies {
    in_flight: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

impl Copies {
    pub(super) fn commit(&mut self, lanes: impl Iterator<Item = usize>) {
        lanes.for_each(|lane| self.committed[lane] += 1);
    }

    /// True when a lane of `mask` has copies in flight.
    pub(super) fn any(&self, mask: u32) -> bool {
        self.in_flight.iter().any(|copy| mask >> copy.lane & 1 == 1)
    }

    /// Takes what lands when the lanes of `mask` wait until at most `pending` of their groups are in
    /// flight; `None` waits for everything, uncommitted copies included.
    fn wait(&mut self, mask: u32, pending: Option<u32>) -> Vec<Copy> {
        let committed = self.committed;
        self.in_flight
            .extract_if(.., |copy| {
                let lane = usize::from(copy.lane);
                let lands = match pending {
                    None => true,
                    Some(pending) => {
                        u64::from(copy.group) + u64::from(pending) < u64::from(committed[lane])
                    }
                };
                lands && mask >> lane & 1 == 1
            })
            .collect()
    }
}

/// `cp.async`: reads its source at once, so that the source may be changed no earlier than the copy
/// would allow.
pub(super) fn copy_async(
    warp: &mut Warp,
    env: &mut Env<'_>,
    copy: &CopyAsync,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let wanted = wanted_bytes(warp, env, copy, pc, mask)?;
    let sources = address::addresses(warp, copy.src);
    let mut words = [[0u32; 32]; 4];
    // Lanes that read nothing may point anywhere. The rest are read by how much they read.
    let mut rest = mask & lanes_with(&wanted, |bytes| bytes != 0);
    while rest != 0 {
        let bytes = wanted[rest.trailing_zeros() as usize & 31];
        let alike = rest & lanes_with(&wanted, |other| other == bytes);
        rest &= !alike;
        read_source(warp, env, copy, &sources, (pc, alike, bytes), &mut words)?;
        env.counters.copy_async_bytes += u64::from(alike.count_ones()) * bytes as u64;
    }
    let at = address::addresses(warp, copy.dst);
    let targets = address::next_targets(Space::Shared, &at, &mut { mask });
    let access = report::Access::new(warp, pc, &targets, copy.size);
    access.check_aligned(env)?;
    access::check_bounds(env, access, "copies to")?;
    let shadow = &mut env.shared.shadow;
    let stamp = shadow.stamp(warp.index, pc, false);
    for lane in lanes_of(mask) {
        let offset = targets.at[lane];
        let begun = shadow.begin_copy(stamp, lane, offset as usize, copy.size);
        if let Err(conflict) = begun {
            return Err(access.conflict(env, conflict, lane));
        }
        warp.copies.in_flight.push(Copy {
            lane: lane as u8,
            len: copy.size as u8,
            group: warp.copies.committed[lane],
            offset: offset as u32,
            pc: pc as u32,
            words: std::array::from_fn(|word| words[word][lane]),
        });
    }
    env.changed();
    Ok(())
}

/// How many bytes each lane reads; the rest of its target is filled with zeros.
fn wanted_bytes(
    warp: &Warp,
    env: &Env<'_>,
    copy: &CopyAsync,
    pc: usize,
    mask: u32,
) -> Outcome<[usize; 32]> {
    let mut wanted = match copy.source_size {
        None => [copy.size; 32],
        Some(slot) => warp.w[slot as usize].map(|bytes| bytes as usize),
    };
    let too_many = mask & lanes_with(&wanted, |bytes| bytes > copy.size);
    if too_many != 0 {
        let bytes = wanted[too_many.trailing_zeros() as usize & 31];
        let message = format!("a copy of {bytes} bytes into {}", copy.size);
        return Err(env.fault(FaultKind::Undefined, message, warp.index, pc, too_many));
    }
    if let Some(predicate) = copy.ignore {
        let ignored = warp.predicate(predicate);
        lanes_of(ignored).for_each(|lane| wanted[lane] = 0);
    }
    Ok(wanted)
}

/// Reads `bytes` bytes for each of these lanes, with the alignment of a whole copy.
fn read_source(
    warp: &mut Warp,
    env: &mut Env<'_>,
    copy: &CopyAsync,
    sources: &[u64; 32],
    (pc, lanes, bytes): (usize, u32, usize),
    words: &mut [[u32; 32]; 4],
) -> Outcome<()> {
    let targets = address::next_targets(Space::Global, sources, &mut { lanes });
    report::Access::new(warp, pc, &targets, copy.size).check_aligned(env)?;
    // In powers of two from the front, so that each is aligned.
    let mut done = 0;
    while done < bytes {
        let part = 1 << (bytes - done).ilog2();
        let mut part_targets = targets;
        part_targets.at.iter_mut().for_each(|at| *at += done as u64);
        access::read(warp, env, &part_targets, part, pc, Order::Weak)?;
        for word in 0..part.div_ceil(4) {
            let shift = done % 4 * 8;
            for lane in lanes_of(lanes) {
                words[done / 4 + word][lane] |= env.words[word][lane] << shift;
            }
        }
        done += part;
    }
    Ok(())
}

fn lanes_with(values: &[usize; 32], holds: impl Fn(usize) -> bool) -> u32 {
    let lanes = values
        .iter()
        .enumerate()
        .filter(|(_, value)| holds(**value));
    lanes.fold(0, |mask, (lane, _)| mask | 1 << lane)
}

/// Completes the copies that the lanes of `mask` wait for.
pub(super) fn land(warp: &mut Warp, env: &mut Env<'_>, mask: u32, pending: Option<u32>) {
    if !warp.copies.any(mask) {
        return;
    }
    let shared = &mut env.shared;
    let mut current = None;
    for copy in warp.copies.wait(mask, pending) {
        let stamp = match current {
            Some((pc, stamp)) if pc == copy.pc => stamp,
            _ => shared.shadow.stamp(warp.index, copy.pc as usize, false),
        };
        current = Some((copy.pc, stamp));
        let (offset, len) = (copy.offset as usize, usize::from(copy.len));
        let target = &mut shared.data[offset..offset + len];
        for (bytes, word) in target.chunks_exact_mut(4).zip(copy.words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        shared.shadow.end_copy(stamp, copy.lane.into(), offset, len);
    }
    env.changed();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(copies: &mut Copies, lane: usize, offset: u32) {
        copies.in_flight.push(Copy {
            lane: lane as u8,
            len: 16,
            group: copies.committed[lane],
            offset,
            pc: 0,
            words: [0; 4],
        });
    }

    #[test]
    fn groups_land_in_order_of_commit() {
        let mut copies = Copies::default();
        for offset in [0, 16] {
            issue(&mut copies, 3, offset);
            copies.commit([3].into_iter());
        }
        issue(&mut copies, 3, 32);
        let mut landed = |pending| -> Vec<u32> {
            let landed = copies.wait(1 << 3, pending);
            landed.iter().map(|copy| copy.offset).collect()
        };
        assert!(landed(Some(2)).is_empty());
        assert_eq!(landed(Some(1)), [0]);
        assert_eq!(landed(Some(0)), [16], "uncommitted copies are in no group");
        assert_eq!(landed(None), [32]);
    }

    #[test]
    fn lanes_wait_for_their_own_copies() {
        let mut copies = Copies::default();
        issue(&mut copies, 0, 0);
        issue(&mut copies, 1, 16);
        copies.commit(0..2);
        assert_eq!(copies.wait(1 << 1, Some(0)).len(), 1);
        assert_eq!(copies.wait(1 << 0, Some(0)).len(), 1);
    }
}
