//! What hardware would count.

use std::ops::{AddAssign, Range, SubAssign};

use serde::{Deserialize, Serialize};

use super::address::Targets;
use crate::program::op::Class;
use crate::program::simd::vectorized;

/// Exact counts of one launch; the same for the same schedule seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Warp instructions executed, those with a false guard included.
    pub instructions: u64,
    /// Lanes that executed them, those with a false guard not included.
    pub thread_instructions: u64,
    /// Integer arithmetic, logic and comparisons.
    pub integer: u64,
    /// Floating-point arithmetic outside the tensor cores.
    pub float: u64,
    /// Conversions.
    pub convert: u64,
    /// Moves and selections.
    pub moves: u64,
    /// Loads, stores, atomics and copies of every space.
    pub memory: u64,
    /// `mma` instructions.
    pub tensor: u64,
    /// Shuffles, votes, barriers of a warp and the like.
    pub warp: u64,
    /// Barriers of a block, `mbarrier` instructions and fences.
    pub barrier: u64,
    /// Branches and exits.
    pub control: u64,
    /// Branches after which lanes of a warp went different ways.
    pub divergent_branches: u64,
    /// Multiplications and additions of `mma` instructions.
    pub mma_flops: u64,
    /// Load instructions to global memory, `cp.async` included.
    pub global_load_requests: u64,
    /// 32-byte sectors that they touched.
    pub global_load_sectors: u64,
    /// Bytes that lanes asked them for.
    pub global_load_bytes: u64,
    /// Store instructions to global memory.
    pub global_store_requests: u64,
    /// 32-byte sectors that they touched.
    pub global_store_sectors: u64,
    /// Bytes that lanes gave them.
    pub global_store_bytes: u64,
    /// Bytes of all of them in accesses of 16 bytes or more by each lane.
    pub global_vector_bytes: u64,
    /// Bytes copied by `cp.async`, zero-fill not included.
    pub copy_async_bytes: u64,
    /// Passes over shared memory's 32 banks that loads, stores and `ldmatrix` needed.
    pub shared_wavefronts: u64,
    /// Passes that they would have needed without bank conflicts.
    pub shared_wavefronts_ideal: u64,
}

/// Counters are named one by one, so that one which is not added does not compile.
macro_rules! add_counters {
    ($($name:ident)*) => {
        impl SubAssign for Counters {
            fn sub_assign(&mut self, other: Self) {
                let Self { $($name),* } = other;
                $(self.$name -= $name;)*
            }
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                let Self { $($name),* } = other;
                $(self.$name += $name;)*
            }
        }
    };
}

add_counters! {
    instructions thread_instructions integer float convert moves memory tensor warp barrier control divergent_branches mma_flops
    global_load_requests global_load_sectors global_load_bytes
    global_store_requests global_store_sectors global_store_bytes
    global_vector_bytes copy_async_bytes shared_wavefronts shared_wavefronts_ideal
}

impl Counters {
    #[inline(always)]
    pub(super) fn count(&mut self, class: Class, lanes: u32) {
        self.instructions += 1;
        self.thread_instructions += u64::from(lanes.count_ones());
        match class {
            Class::Integer => self.integer += 1,
            Class::Float => self.float += 1,
            Class::Convert => self.convert += 1,
            Class::Move => self.moves += 1,
            Class::Memory => self.memory += 1,
            Class::Tensor => self.tensor += 1,
            Class::Warp => self.warp += 1,
            Class::Barrier => self.barrier += 1,
            Class::Control => self.control += 1,
        }
    }

    /// Adds a global access of `bytes` bytes by each lane.
    pub(super) fn global(&mut self, store: bool, targets: &Targets, bytes: usize) {
        // A naturally aligned access of at most 32 bytes lies in one sector. Lanes that do not take
        // part repeat the address of one that does.
        let sectors = vectorized(|| targets.at.map(|at| at / 32));
        let changes = sectors.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let is_sorted = sectors.windows(2).all(|pair| pair[0] <= pair[1]);
        let found = if is_sorted {
            changes + 1
        } else {
            let mut distinct = sectors;
            distinct.sort_unstable();
            1 + distinct
                .windows(2)
                .filter(|pair| pair[0] != pair[1])
                .count()
        } as u64;
        let total = u64::from(targets.lanes.count_ones()) * bytes as u64;
        if store {
            self.global_store_requests += 1;
            self.global_store_sectors += found;
            self.global_store_bytes += total;
        } else {
            self.global_load_requests += 1;
            self.global_load_sectors += found;
            self.global_load_bytes += total;
        }
        if bytes >= 16 {
            self.global_vector_bytes += total;
        }
    }

    /// Adds an access to shared memory by each lane. In each pass a bank delivers one word: accesses of 8 and 16 bytes
    /// take half and quarter warps at a time, loads twice as much where their lanes are in pairs (as measured on an H200).
    pub(super) fn shared(&mut self, store: bool, targets: &Targets, bytes: usize) {
        match bytes {
            8 if !store && is_in_pairs(targets, 0..32) => self.pass::<32, 16>(targets, 0, 3),
            8 => {
                for half in [0, 16] {
                    self.pass::<16, 16>(targets, half, 3);
                }
            }
            16 => {
                for half in [0, 16] {
                    if !store && is_in_pairs(targets, half..half + 16) {
                        self.pass::<16, 8>(targets, half, 4);
                    } else {
                        self.quarters(targets, half..half + 16);
                    }
                }
            }
            // Two passes for each quarter warp.
            32 => (0..2).for_each(|_| self.quarters(targets, 0..32)),
            _ => self.pass::<32, 32>(targets, 0, 2),
        }
    }

    fn quarters(&mut self, targets: &Targets, lanes: Range<usize>) {
        lanes
            .step_by(8)
            .for_each(|first| self.pass::<8, 8>(targets, first, 4));
    }

    /// `LANES` lanes from `first` on access `BANKS` banks that are 2^`shift` bytes wide.
    fn pass<const LANES: usize, const BANKS: usize>(
        &mut self,
        targets: &Targets,
        first: usize,
        shift: u32,
    ) {
        let mask = (targets.lanes >> first) & (u32::MAX >> (32 - LANES));
        if mask == 0 {
            return;
        }
        let lanes = &targets.at[first..first + LANES];
        let mut rows = [u64::MAX; BANKS];
        let mut conflict = false;
        let mut distinct = 0;
        for (lane, &at) in lanes.iter().enumerate() {
            if mask >> lane & 1 == 0 {
                continue;
            }
            let row = at >> shift;
            let bank = &mut rows[row as usize % BANKS];
            distinct += usize::from(*bank != row);
            conflict |= *bank != u64::MAX && *bank != row;
            *bank = row;
        }
        let (passes, ideal) = if conflict {
            passes::<BANKS>(lanes, mask, shift)
        } else {
            (1, distinct.div_ceil(BANKS))
        };
        self.shared_wavefronts += passes as u64;
        self.shared_wavefronts_ideal += ideal as u64;
    }
}

/// Whether of each two neighbours both have the same address or one does not take part, or else whether each lane and the
/// one two further on have the same address.
fn is_in_pairs(targets: &Targets, lanes: Range<usize>) -> bool {
    let all = |distance: usize, one_is_enough: bool| {
        let mut lanes = lanes.clone().filter(|lane| lane & distance == 0);
        lanes.all(|lane| {
            let (one, other) = (lane, lane + distance);
            match (targets.lanes >> one & 1) + (targets.lanes >> other & 1) {
                0 => true,
                1 => one_is_enough,
                _ => targets.at[one] == targets.at[other],
            }
        })
    };
    all(1, true) || all(2, false)
}

/// The most distinct rows that one bank is asked for, and what even use of the banks would need.
#[cold]
fn passes<const BANKS: usize>(lanes: &[u64], mask: u32, shift: u32) -> (usize, usize) {
    let mut rows: Vec<u64> = lanes
        .iter()
        .enumerate()
        .filter(|(lane, _)| mask >> lane & 1 == 1)
        .map(|(_, at)| at >> shift)
        .collect();
    rows.sort_unstable();
    rows.dedup();
    let mut depth = [0; BANKS];
    rows.iter()
        .for_each(|row| depth[*row as usize % BANKS] += 1);
    let deepest = depth.into_iter().max().unwrap_or(0);
    (deepest, rows.len().div_ceil(BANKS))
}

#[cfg(test)]
mod tests {
    use super::super::address::Place;
    use super::*;

    fn targets(addresses: impl Iterator<Item = u64>) -> Targets {
        let mut at = [0; 32];
        at.iter_mut()
            .zip(addresses)
            .for_each(|(at, address)| *at = address);
        Targets {
            place: Place::Global,
            lanes: u32::MAX,
            at,
        }
    }

    /// Of a load and a store, which take as many passes.
    fn shared(offset: impl Fn(u64) -> u64, bytes: usize) -> (u64, u64) {
        let [load, store] = [false, true].map(|store| {
            let mut counters = Counters::default();
            counters.shared(store, &targets((0..32).map(&offset)), bytes);
            (counters.shared_wavefronts, counters.shared_wavefronts_ideal)
        });
        assert_eq!(load, store);
        load
    }

    /// Passes of a load by the lanes that have a place, which is in units of the access.
    fn loaded(place: impl Fn(u64) -> Option<u64>, bytes: usize) -> u64 {
        let mut counters = Counters::default();
        let places: Vec<_> = (0..32).map(place).collect();
        let mut some = targets(places.iter().map(|at| at.unwrap_or(0) * bytes as u64));
        some.lanes = (0..32).fold(0, |mask, lane| {
            mask | u32::from(places[lane].is_some()) << lane
        });
        counters.shared(false, &some, bytes);
        counters.shared_wavefronts
    }

    /// As an H200 counts them.
    #[test]
    fn wide_loads_of_few_addresses_take_fewer_passes() {
        let every = |step: u64| move |lane: u64| lane.is_multiple_of(step).then_some(0);
        for (bytes, passes) in [(8, [1, 1, 1, 2, 2]), (16, [2, 2, 2, 4, 4])] {
            let all = [
                loaded(|_| Some(0), bytes),
                loaded(|lane| Some(lane / 2), bytes),
                loaded(|lane| Some(lane % 2), bytes),
                loaded(|lane| Some(lane % 4), bytes),
                loaded(Some, bytes),
            ];
            assert_eq!(all, passes, "{bytes} bytes");
        }
        assert_eq!(loaded(every(8), 16), 2, "one lane of each quarter");
        assert_eq!(
            loaded(|lane| (lane < 16).then_some(0), 16),
            1,
            "half a warp"
        );
        let sparse = [
            (3, 48),
            (4, 18),
            (7, 51),
            (9, 34),
            (11, 4),
            (14, 2),
            (15, 1),
            (16, 27),
            (17, 46),
            (26, 5),
            (27, 12),
            (29, 24),
        ];
        let place = |lane| Some(sparse.iter().find(|(at, _)| *at == lane)?.1);
        assert_eq!(loaded(place, 16), 5);
        assert_eq!(loaded(place, 8), 4);
    }

    #[test]
    fn bank_conflicts_take_more_passes() {
        assert_eq!(shared(|lane| lane * 4, 4), (1, 1), "consecutive words");
        assert_eq!(shared(|lane| lane * 2, 2), (1, 1), "halves of words");
        assert_eq!(shared(|_| 8, 4), (1, 1), "one word for all");
        assert_eq!(shared(|lane| lane * 8, 4), (2, 1), "every other word");
        assert_eq!(shared(|lane| lane * 128, 4), (32, 1), "one bank");
        assert_eq!(shared(|lane| lane * 8, 8), (2, 2), "64-bit words");
        assert_eq!(shared(|lane| lane * 16, 16), (4, 4), "128-bit rows");
        assert_eq!(shared(|lane| lane * 128, 16), (32, 4), "one line per lane");
        let swizzled = |lane: u64| lane * 128 + lane % 8 * 16;
        assert_eq!(shared(swizzled, 16), (4, 4), "one line per lane, swizzled");
    }

    #[test]
    fn lanes_that_do_not_take_part_are_not_counted() {
        let mut counters = Counters::default();
        let mut some = targets((0..32).map(|lane| lane * 128));
        some.lanes = 0b11;
        counters.shared(true, &some, 4);
        assert_eq!(counters.shared_wavefronts, 2);
    }

    #[test]
    fn sectors_are_counted_once() {
        let mut counters = Counters::default();
        counters.global(false, &targets((0..32).map(|lane| 0x1000 + lane * 4)), 4);
        let loads = (counters.global_load_sectors, counters.global_load_bytes);
        assert_eq!(loads, (4, 128));
        counters.global(true, &targets((0..32).map(|lane| 0x1000 + lane * 64)), 4);
        assert_eq!(counters.global_store_sectors, 32);
        counters.global(
            false,
            &targets((0..32).map(|lane| 0x1000 + lane % 2 * 64)),
            4,
        );
        assert_eq!(counters.global_load_sectors, 4 + 2, "back and forth");
        for (store, bytes) in [(false, 8), (false, 16), (true, 16)] {
            let at = (0..32).map(|lane| 0x1000 + lane * bytes as u64);
            counters.global(store, &targets(at), bytes);
        }
        assert_eq!(counters.global_vector_bytes, 2 * 512);
    }
}
