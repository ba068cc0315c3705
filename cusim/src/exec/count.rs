//! What hardware would count.

use crate::program::op::Class;

/// Exact counts of one launch; the same for the same schedule seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Warp instructions executed, those with a false guard included.
    pub instructions: u64,
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
    /// Shuffles, votes and the like.
    pub warp: u64,
    /// Barriers and fences.
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
    /// Bytes copied by `cp.async`, zero-fill not included.
    pub copy_async_bytes: u64,
    /// Passes over shared memory's 32 banks that loads, stores and `ldmatrix` needed.
    pub shared_wavefronts: u64,
    /// Passes that they would have needed without bank conflicts.
    pub shared_wavefronts_ideal: u64,
}

impl Counters {
    pub(super) fn count(&mut self, class: Class) {
        self.instructions += 1;
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

    /// Adds a global access of `bytes` bytes by each of these addresses.
    pub(super) fn global(&mut self, store: bool, addresses: &[u64], bytes: usize) {
        let mut sectors: [u64; 64] = [u64::MAX; 64];
        let mut found = 0;
        for &address in addresses {
            // A naturally aligned access of at most 32 bytes lies in one sector.
            let sector = address / 32;
            if !sectors[..found].contains(&sector) {
                sectors[found] = sector;
                found += 1;
            }
        }
        let total = (addresses.len() * bytes) as u64;
        if store {
            self.global_store_requests += 1;
            self.global_store_sectors += found as u64;
            self.global_store_bytes += total;
        } else {
            self.global_load_requests += 1;
            self.global_load_sectors += found as u64;
            self.global_load_bytes += total;
        }
    }

    /// Adds an access to shared memory: accesses of 8 and 16 bytes take half and quarter warps at a
    /// time, and in each pass a bank delivers one word.
    pub(super) fn shared(&mut self, offsets: &[u32], bytes: usize) {
        let words = bytes.div_ceil(4).max(1);
        let per_phase = 32 / words.min(32);
        for phase in offsets.chunks(per_phase) {
            let mut banks: [[u32; 32]; 32] = [[0; 32]; 32];
            let mut depth = [0usize; 32];
            for &offset in phase {
                for word in 0..words as u32 {
                    let word = offset / 4 + word;
                    let bank = word as usize % 32;
                    if !banks[bank][..depth[bank]].contains(&word) {
                        banks[bank][depth[bank]] = word;
                        depth[bank] += 1;
                    }
                }
            }
            self.shared_wavefronts += depth.iter().copied().max().unwrap_or(0) as u64;
            let distinct: usize = depth.iter().sum();
            self.shared_wavefronts_ideal += distinct.div_ceil(32) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(offsets: impl IntoIterator<Item = u32>, bytes: usize) -> (u64, u64) {
        let mut counters = Counters::default();
        counters.shared(&offsets.into_iter().collect::<Vec<_>>(), bytes);
        (counters.shared_wavefronts, counters.shared_wavefronts_ideal)
    }

    #[test]
    fn bank_conflicts_take_more_passes() {
        assert_eq!(
            shared((0..32).map(|lane| lane * 4), 4),
            (1, 1),
            "consecutive words"
        );
        assert_eq!(shared((0..32).map(|_| 8), 4), (1, 1), "one word for all");
        assert_eq!(
            shared((0..32).map(|lane| lane * 8), 4),
            (2, 1),
            "every other word"
        );
        assert_eq!(
            shared((0..32).map(|lane| lane * 128), 4),
            (32, 1),
            "one bank"
        );
        assert_eq!(
            shared((0..32).map(|lane| lane * 16), 16),
            (4, 4),
            "128-bit rows"
        );
        assert_eq!(
            shared((0..32).map(|lane| lane * 128), 16),
            (32, 4),
            "one line per lane"
        );
    }

    #[test]
    fn sectors_are_counted_once() {
        let mut counters = Counters::default();
        counters.global(
            false,
            &(0..32).map(|lane| 0x1000 + lane * 4).collect::<Vec<_>>(),
            4,
        );
        assert_eq!(
            (counters.global_load_sectors, counters.global_load_bytes),
            (4, 128)
        );
        counters.global(
            true,
            &(0..32).map(|lane| 0x1000 + lane * 64).collect::<Vec<_>>(),
            4,
        );
        assert_eq!(counters.global_store_sectors, 32);
    }
}
