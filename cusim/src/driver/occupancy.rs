//! How many blocks fit on a multiprocessor, by the limits that are documented: blocks, warps and shared
//! memory. Registers are left out, since it is ptxas that chooses their number.

use super::abi::{Out, SharedForBlock, driver_api, shared_for_block};
use super::function::Function;
use super::handle::Handle;
use super::state::lock;
use super::status::Status;
use crate::arch::Arch;

/// Bytes in which shared memory is given to blocks.
const SHARED_GRANULE: usize = 128;

/// Blocks of `threads` with `shared` bytes each that a multiprocessor holds at once.
fn blocks(arch: &Arch, threads: u32, shared: usize) -> u32 {
    let warps = threads.div_ceil(Arch::WARP).max(1);
    let by_warps = arch.threads_per_multiprocessor / Arch::WARP / warps;
    let block = shared.saturating_add(Arch::SHARED_RESERVED as usize);
    let block = block
        .checked_next_multiple_of(SHARED_GRANULE)
        .unwrap_or(usize::MAX);
    let by_shared = arch.shared_per_multiprocessor as usize / block;
    let by_shared = u32::try_from(by_shared).unwrap_or(u32::MAX);
    arch.blocks_per_multiprocessor.min(by_warps).min(by_shared)
}

/// Blocks of a function that the whole device holds at once.
pub(super) fn resident_blocks(arch: &Arch, function: &Function, threads: u32, dynamic: u32) -> u64 {
    let shared = function.kernel().static_shared().saturating_add(dynamic);
    u64::from(blocks(arch, threads, shared as usize)) * u64::from(arch.multiprocessors)
}

/// What a block of this function takes, once it has been checked.
struct Demand {
    arch: &'static Arch,
    static_shared: usize,
    max_dynamic: usize,
    max_threads: u32,
}

impl Demand {
    fn of(handle: Handle<Function>) -> Result<Self, Status> {
        let mut state = lock()?;
        state.current()?;
        let handle = state.function(handle)?;
        let arch = state.arch;
        let function = state.functions.get(handle)?;
        Ok(Self {
            arch,
            static_shared: function.kernel().static_shared() as usize,
            max_dynamic: function.max_dynamic_shared as usize,
            max_threads: function.max_threads(),
        })
    }

    fn blocks(&self, threads: u32, dynamic: usize) -> u32 {
        // What the function itself sets as the most threads of a block does not count here, only in `best_block`.
        if threads > Arch::THREADS_PER_BLOCK || dynamic > self.max_dynamic {
            return 0;
        }
        blocks(
            self.arch,
            threads,
            self.static_shared.saturating_add(dynamic),
        )
    }
}

fn active_blocks(
    out: Out<i32>,
    function: Handle<Function>,
    threads: i32,
    dynamic: usize,
) -> Result<(), Status> {
    let threads = u32::try_from(threads).map_err(|_| Status::INVALID_VALUE)?;
    if threads == 0 {
        return Err(Status::INVALID_VALUE);
    }
    out.set(Demand::of(function)?.blocks(threads, dynamic) as i32)
}

/// The block that keeps most threads resident, the larger of equals, and the grid that fills the device.
fn best_block(
    grid: Out<i32>,
    block: Out<i32>,
    function: Handle<Function>,
    shared: SharedForBlock,
    dynamic: usize,
    limit: i32,
) -> Result<(), Status> {
    let (grid, block) = (grid.required()?, block.required()?);
    let demand = Demand::of(function)?;
    let limit = match u32::try_from(limit) {
        Ok(0) => demand.max_threads,
        Ok(limit) => limit.min(demand.max_threads),
        Err(_) => return Err(Status::INVALID_VALUE),
    };
    let mut best = (0, 0, 0);
    let candidates = (1..=limit.div_ceil(Arch::WARP)).rev();
    for threads in candidates.map(|warps| (warps * Arch::WARP).min(limit)) {
        let blocks = demand.blocks(threads, shared_for_block(shared, threads as i32, dynamic));
        if blocks * threads > best.0 {
            best = (blocks * threads, blocks, threads);
        }
    }
    let (_, blocks, threads) = best;
    if blocks == 0 {
        return Err(Status::INVALID_VALUE);
    }
    block.set(threads as i32)?;
    grid.set((blocks * demand.arch.multiprocessors) as i32)
}

driver_api! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>,
        function: Handle<Function>,
        threads: i32,
        dynamic: usize,
    ) {
        active_blocks(blocks, function, threads, dynamic)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>,
        function: Handle<Function>,
        threads: i32,
        dynamic: usize,
        flags: u32,
    ) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        active_blocks(blocks, function, threads, dynamic)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>,
        block: Out<i32>,
        function: Handle<Function>,
        shared: SharedForBlock,
        dynamic: usize,
        limit: i32,
    ) {
        best_block(grid, block, function, shared, dynamic, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>,
        block: Out<i32>,
        function: Handle<Function>,
        shared: SharedForBlock,
        dynamic: usize,
        limit: i32,
        flags: u32,
    ) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        best_block(grid, block, function, shared, dynamic, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>,
        function: Handle<Function>,
        blocks: i32,
        threads: i32,
    ) {
        let demand = Demand::of(function)?;
        let blocks = u32::try_from(blocks).ok().filter(|&blocks| blocks > 0);
        let threads = u32::try_from(threads).ok().filter(|&threads| threads > 0);
        let (Some(blocks), Some(threads)) = (blocks, threads) else {
            return Err(Status::INVALID_VALUE);
        };
        if demand.blocks(threads, 0) < blocks {
            return Err(Status::INVALID_VALUE);
        }
        let share = demand.arch.shared_per_multiprocessor / blocks;
        let share = share as usize / SHARED_GRANULE * SHARED_GRANULE;
        let taken = Arch::SHARED_RESERVED as usize + demand.static_shared;
        bytes.set(share.saturating_sub(taken).min(demand.max_dynamic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_resource_limits_the_blocks() {
        let ampere = Arch::of(80).expect("a model");
        assert_eq!(blocks(ampere, 32, 0), 32, "by blocks");
        assert_eq!(blocks(ampere, 1024, 0), 2, "by warps");
        assert_eq!(blocks(ampere, 128, 163 * 1024), 1, "by shared memory");
        assert_eq!(blocks(ampere, 128, 81 * 1024), 2, "81 and 1 KiB fit twice");
        assert_eq!(blocks(ampere, 128, 81 * 1024 + 1), 1);
        let ada = Arch::of(89).expect("a model");
        assert_eq!(blocks(ada, 1024, 0), 1, "1536 threads hold one such block");
    }
}
