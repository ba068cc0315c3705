//! Memory that the host and the devices share: pinned and managed memory, at one address for both.
//!
//! Kernels work on a copy. Before an operation of a device, what the host wrote since the last one is put there; after
//! it, what it wrote is put into the memory of the host. So the host sees results as soon as the call returns, where on a
//! GPU it would have to wait, and what it stores while a kernel runs is seen by the next.

use super::abi::{host_in, host_out};
use super::host::HostBlock;
use super::state::State;
use super::status::Status;
use super::transfer::Place;
use crate::memory::{GlobalMemory, MemoryError};

/// Bytes that are compared at once.
const CHUNK: usize = 4096;

/// Stretches of two equally long texts that differ, in chunks.
fn differing<'a>(one: &'a [u8], other: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let chunks = one.chunks(CHUNK).zip(other.chunks(CHUNK));
    let differing = chunks.enumerate().filter(|(_, (one, other))| one != other);
    differing.map(|(index, _)| index * CHUNK)
}

fn explain(error: &MemoryError) -> Status {
    State::explain("memory shared with the host", error)
}

/// Puts what the host wrote where the devices see it.
fn fetch(memory: &mut GlobalMemory, start: usize, block: &mut HostBlock) -> Result<(), Status> {
    let now = host_in(start as u64).bytes(block.bytes)?;
    let is_first = block.seen.len() != now.len();
    if is_first {
        block.seen = now.to_vec();
        memory
            .refresh(start as u64, now)
            .map_err(|error| explain(&error))?;
    }
    let changed: Vec<usize> = differing(now, &block.seen).collect();
    for at in changed {
        let chunk = &now[at..now.len().min(at + CHUNK)];
        memory
            .refresh((start + at) as u64, chunk)
            .map_err(|error| explain(&error))?;
        block.seen[at..at + chunk.len()].copy_from_slice(chunk);
    }
    block.is_fetched = true;
    Ok(())
}

/// Puts what devices wrote into the memory of the host, and leaves alone what they did not: the host may be writing it.
fn give_back(memory: &GlobalMemory, start: usize, block: &mut HostBlock) -> Result<(), Status> {
    let mut now = vec![0; block.bytes];
    memory
        .peek(start as u64, &mut now)
        .map_err(|error| explain(&error))?;
    let changed: Vec<usize> = differing(&now, &block.seen).collect();
    for chunk in changed {
        let end = now.len().min(chunk + CHUNK);
        let mut at = chunk;
        while at < end {
            let differs = |&at: &usize| now[at] != block.seen[at];
            let Some(from) = (at..end).find(differs) else {
                break;
            };
            let to = (from..end).find(|at| !differs(at)).unwrap_or(end);
            let host = host_out((start + from) as u64).bytes(to - from)?;
            host.copy_from_slice(&now[from..to]);
            at = to;
        }
        block.seen[chunk..end].copy_from_slice(&now[chunk..end]);
    }
    Ok(())
}

impl State {
    /// Before a kernel, which may access any of it.
    pub(super) fn fetch_all_shared(&mut self) -> Result<(), Status> {
        for (&start, block) in &mut self.host {
            if block.is_mapped {
                fetch(&mut self.memory, start, block)?;
            }
        }
        Ok(())
    }

    /// Before an operation of the host on some places.
    pub(super) fn fetch_shared(&mut self, places: &[Place]) -> Result<(), Status> {
        for place in places {
            let Place::Device(address) = self.settle(*place) else {
                continue;
            };
            let below = self.host.range_mut(..=address as usize).next_back();
            if let Some((&start, block)) = below
                && block.is_mapped
                && address as usize - start < block.bytes
            {
                fetch(&mut self.memory, start, block)?;
            }
        }
        Ok(())
    }

    /// After the operation.
    pub(super) fn return_shared(&mut self) -> Result<(), Status> {
        let fetched = self.host.iter_mut().filter(|(_, block)| block.is_fetched);
        for (&start, block) in fetched {
            block.is_fetched = false;
            give_back(&self.memory, start, block)?;
        }
        Ok(())
    }
}
