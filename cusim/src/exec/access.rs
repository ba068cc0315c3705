//! Loads, stores, atomics and asynchronous copies, with every check.

use super::cta::Env;
use super::run::{put, value};
use super::shadow::Conflict;
use super::warp::{Warp, lanes_of};
use crate::fault::{Fault, FaultKind};
use crate::memory::GLOBAL_BASE;
use crate::program::op::{Access, Address, Atomic, CopyAsync, Reg, Space};
use crate::program::window;

/// The most bytes one lane accesses at once.
const MAX_BYTES: usize = 32;

/// A place in one space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Global(u64),
    Shared(u64),
    Local(u64),
    Param(u64),
    /// An address that no window holds.
    Wild(u64),
}

type Outcome<T> = Result<T, Box<Fault>>;

/// One lane's access, for checks and reports.
#[derive(Clone, Copy)]
struct Lane<'a> {
    warp: &'a Warp,
    pc: usize,
    lane: usize,
    place: Place,
    bytes: usize,
}

pub(super) fn load(
    warp: &mut Warp,
    env: &mut Env<'_>,
    access: &Access,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let bytes = access.width * access.regs.len();
    let mut values = [[0u64; 32]; 8];
    let mut seen = Seen::default();
    let mut hint = warp.hint;
    for lane in lanes_of(mask) {
        let place = place_of(warp, access.space, access.address, lane);
        let mut buffer = [0u8; MAX_BYTES];
        let at = Lane {
            warp,
            pc,
            lane,
            place,
            bytes,
        };
        read(env, at, &mut buffer[..bytes], &mut hint)?;
        seen.add(place);
        for (element, chunk) in buffer[..bytes].chunks_exact(access.width).enumerate() {
            values[element][lane] = extend(chunk, access.signed);
        }
    }
    warp.hint = hint;
    seen.count(env, false, bytes);
    for (values, reg) in values.iter().zip(&access.regs) {
        if let Some(reg) = reg {
            put(warp, *reg, values, mask);
        }
    }
    Ok(())
}

pub(super) fn store(
    warp: &mut Warp,
    env: &mut Env<'_>,
    access: &Access,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let bytes = access.width * access.regs.len();
    let mut seen = Seen::default();
    let mut hint = warp.hint;
    for lane in lanes_of(mask) {
        let place = place_of(warp, access.space, access.address, lane);
        let mut buffer = [0u8; MAX_BYTES];
        for (chunk, reg) in buffer[..bytes]
            .chunks_exact_mut(access.width)
            .zip(&access.regs)
        {
            let value = reg.map_or(0, |reg| value(warp, reg, lane));
            chunk.copy_from_slice(&value.to_le_bytes()[..access.width]);
        }
        match place {
            Place::Local(offset) => store_local(warp, env, (pc, lane), offset, &buffer[..bytes])?,
            _ => write(
                env,
                Lane {
                    warp,
                    pc,
                    lane,
                    place,
                    bytes,
                },
                &buffer[..bytes],
                &mut hint,
            )?,
        }
        seen.add(place);
    }
    warp.hint = hint;
    seen.count(env, true, bytes);
    Ok(())
}

/// Lanes take their turns in order.
pub(super) fn atomic(
    warp: &mut Warp,
    env: &mut Env<'_>,
    atomic: &Atomic,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let bytes = atomic.width;
    let mut old_values = [0u64; 32];
    let mut seen = Seen::default();
    let mut hint = warp.hint;
    for lane in lanes_of(mask) {
        let place = place_of(warp, atomic.space, atomic.address, lane);
        let at = Lane {
            warp,
            pc,
            lane,
            place,
            bytes,
        };
        if !matches!(place, Place::Global(_) | Place::Shared(_)) {
            return Err(illegal(
                env,
                at,
                "an atomic operation outside global and shared memory",
            ));
        }
        let mut buffer = [0u8; 8];
        read(env, at, &mut buffer[..bytes], &mut hint)?;
        let old = u64::from_le_bytes(buffer);
        let operand = value(warp, atomic.operand, lane);
        let second = atomic.second.map_or(0, |reg| value(warp, reg, lane));
        let new = (atomic.f)(old, operand, second);
        write(env, at, &new.to_le_bytes()[..bytes], &mut hint)?;
        old_values[lane] = old;
        seen.add(place);
    }
    warp.hint = hint;
    seen.count(env, true, bytes);
    if let Some(reg) = atomic.dest {
        put(warp, reg, &old_values, mask);
    }
    Ok(())
}

pub(super) fn copy_async(
    warp: &mut Warp,
    env: &mut Env<'_>,
    copy: &CopyAsync,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let mut seen = Seen::default();
    let mut hint = warp.hint;
    let ignored = copy.ignore.map_or(0, |predicate| warp.predicate(predicate));
    for lane in lanes_of(mask) {
        let wanted = copy
            .source_size
            .map_or(copy.size, |slot| warp.w[slot as usize][lane] as usize);
        let wanted = if ignored >> lane & 1 == 1 { 0 } else { wanted };
        if wanted > copy.size {
            let message = format!("a copy of {wanted} bytes into {}", copy.size);
            return Err(env.fault(FaultKind::Undefined, message, warp, pc, 1 << lane));
        }
        let mut data = [0u8; 16];
        let source = place_of(warp, Space::Global, copy.src, lane);
        if wanted > 0 {
            let at = Lane {
                warp,
                pc,
                lane,
                place: source,
                bytes: copy.size,
            };
            check_aligned(env, at)?;
            read(
                env,
                Lane {
                    bytes: wanted,
                    ..at
                },
                &mut data[..wanted],
                &mut hint,
            )?;
            seen.add(source);
            env.counters.copy_async_bytes += wanted as u64;
        }
        let place = place_of(warp, Space::Shared, copy.dst, lane);
        let at = Lane {
            warp,
            pc,
            lane,
            place,
            bytes: copy.size,
        };
        check_aligned(env, at)?;
        let offset = shared_offset(env, at)?;
        let begun = env
            .shared
            .shadow
            .begin_copy(warp.index, pc, offset, copy.size);
        begun.map_err(|conflict| conflict_fault(env, at, conflict))?;
        warp.copies.issue(lane, offset as u32, data, copy.size);
    }
    warp.hint = hint;
    seen.count(env, false, copy.size);
    Ok(())
}

/// Completes the copies that the lanes of `mask` wait for.
pub(super) fn land(warp: &mut Warp, env: &mut Env<'_>, mask: u32, pending: Option<u32>, pc: usize) {
    for copy in warp.copies.wait(mask, pending) {
        let (offset, len) = (copy.offset as usize, usize::from(copy.len));
        env.shared.data[offset..offset + len].copy_from_slice(&copy.data[..len]);
        env.shared.shadow.end_copy(warp.index, pc, offset, len);
    }
}

/// Rows of an `ldmatrix`: 16 bytes of shared memory for each of these lanes.
pub(super) fn load_row(
    warp: &Warp,
    env: &mut Env<'_>,
    address: Address,
    pc: usize,
    lane: usize,
) -> Outcome<(u32, [u8; 16])> {
    let place = match place_of(warp, Space::Generic, address, lane) {
        Place::Shared(offset) => Place::Shared(offset),
        _ => place_of(warp, Space::Shared, address, lane),
    };
    let mut row = [0; 16];
    read(
        env,
        Lane {
            warp,
            pc,
            lane,
            place,
            bytes: 16,
        },
        &mut row,
        &mut 0,
    )?;
    let Place::Shared(offset) = place else {
        return Ok((0, row));
    };
    Ok((offset as u32, row))
}

fn place_of(warp: &Warp, space: Space, address: Address, lane: usize) -> Place {
    let base = address.base.map_or(0, |reg| value(warp, reg, lane));
    let mut address_ = base.wrapping_add_signed(address.offset);
    if matches!(address.base, Some(Reg::W(_))) {
        address_ &= 0xffff_ffff;
    }
    match space {
        Space::Global | Space::Const => Place::Global(address_),
        Space::Shared => Place::Shared(address_),
        Space::Local => Place::Local(address_),
        Space::Param => Place::Param(address_),
        Space::Generic => {
            let inside = |base: u64| address_.wrapping_sub(base) < window::SIZE;
            if address_ >= GLOBAL_BASE {
                Place::Global(address_)
            } else if inside(window::SHARED) {
                Place::Shared(address_ - window::SHARED)
            } else if inside(window::LOCAL) {
                Place::Local(address_ - window::LOCAL)
            } else if inside(window::PARAM) {
                Place::Param(address_ - window::PARAM)
            } else {
                Place::Wild(address_)
            }
        }
    }
}

/// The value of little-endian bytes.
fn extend(bytes: &[u8], signed: bool) -> u64 {
    let mut buffer = [0; 8];
    buffer[..bytes.len()].copy_from_slice(bytes);
    let value = u64::from_le_bytes(buffer);
    let unused = 64 - 8 * bytes.len() as u32;
    if signed {
        ((value << unused) as i64 >> unused) as u64
    } else {
        value
    }
}

#[inline]
fn read(env: &mut Env<'_>, at: Lane<'_>, out: &mut [u8], hint: &mut usize) -> Outcome<()> {
    check_aligned(env, at)?;
    match at.place {
        Place::Global(address) => {
            let Some(index) = env.memory.locate(address, at.bytes as u64, hint) else {
                return Err(illegal(env, at, "reads outside of every allocation"));
            };
            let allocation = env.memory.allocation(index);
            let written = allocation.load((address - allocation.base()) as usize, out);
            if !written && env.config.options.checks.init {
                return Err(uninitialised(
                    env,
                    at,
                    "reads global memory that was never written",
                ));
            }
        }
        Place::Shared(_) => {
            let offset = shared_offset(env, at)?;
            out.copy_from_slice(&env.shared.data[offset..offset + at.bytes]);
            let init = env.config.options.checks.init;
            let noted = env
                .shared
                .shadow
                .read(at.warp.index, at.pc, offset, at.bytes, init);
            noted.map_err(|conflict| conflict_fault(env, at, conflict))?;
        }
        Place::Local(offset) => {
            let range = local_range(env, at, offset)?;
            out.copy_from_slice(&at.warp.local[range.clone()]);
            if !at.warp.local_written.all(range) && env.config.options.checks.init {
                return Err(uninitialised(
                    env,
                    at,
                    "reads local memory that was never written",
                ));
            }
        }
        Place::Param(offset) => {
            let params = env.config.params;
            let range = usize::try_from(offset).ok().and_then(|start| {
                let range = start..start.checked_add(at.bytes)?;
                params.get(range)
            });
            match range {
                Some(bytes) => out.copy_from_slice(bytes),
                None => return Err(illegal(env, at, "reads past the kernel's parameters")),
            }
        }
        Place::Wild(_) => return Err(illegal(env, at, "reads an address of no state space")),
    }
    Ok(())
}

#[inline]
fn write(env: &mut Env<'_>, at: Lane<'_>, bytes: &[u8], hint: &mut usize) -> Outcome<()> {
    check_aligned(env, at)?;
    match at.place {
        Place::Global(address) => {
            let Some(index) = env.memory.locate(address, at.bytes as u64, hint) else {
                return Err(illegal(env, at, "writes outside of every allocation"));
            };
            let allocation = env.memory.allocation_mut(index);
            let offset = (address - allocation.base()) as usize;
            allocation.store(offset, bytes);
        }
        Place::Shared(_) => {
            let offset = shared_offset(env, at)?;
            let noted = env
                .shared
                .shadow
                .write(at.warp.index, at.pc, offset, at.bytes);
            noted.map_err(|conflict| conflict_fault(env, at, conflict))?;
            env.shared.data[offset..offset + at.bytes].copy_from_slice(bytes);
        }
        Place::Param(_) => return Err(illegal(env, at, "writes to the kernel's parameters")),
        _ => return Err(illegal(env, at, "writes an address of no state space")),
    }
    Ok(())
}

fn store_local(
    warp: &mut Warp,
    env: &Env<'_>,
    (pc, lane): (usize, usize),
    offset: u64,
    bytes: &[u8],
) -> Outcome<()> {
    let at = Lane {
        warp,
        pc,
        lane,
        place: Place::Local(offset),
        bytes: bytes.len(),
    };
    check_aligned(env, at)?;
    let range = local_range(env, at, offset)?;
    warp.local[range.clone()].copy_from_slice(bytes);
    warp.local_written.set(range);
    Ok(())
}

fn local_range(env: &Env<'_>, at: Lane<'_>, offset: u64) -> Outcome<std::ops::Range<usize>> {
    let size = u64::from(env.kernel.local_bytes());
    if offset > size || at.bytes as u64 > size - offset {
        return Err(illegal(
            env,
            at,
            "accesses local memory outside of the thread's variables",
        ));
    }
    let start = at.lane * size as usize + offset as usize;
    Ok(start..start + at.bytes)
}

fn shared_offset(env: &Env<'_>, at: Lane<'_>) -> Outcome<usize> {
    let Place::Shared(offset) = at.place else {
        return Err(illegal(env, at, "is not in shared memory"));
    };
    let size = env.shared.data.len() as u64;
    if offset > size || at.bytes as u64 > size - offset {
        return Err(illegal(
            env,
            at,
            "accesses shared memory past the block's own",
        ));
    }
    Ok(offset as usize)
}

/// An access must be aligned to all its bytes (PTX ISA, "Addresses as Operands").
#[inline]
fn check_aligned(env: &Env<'_>, at: Lane<'_>) -> Outcome<()> {
    let address = raw(at.place);
    let required = (at.bytes as u64).next_power_of_two();
    if address.is_multiple_of(required) {
        return Ok(());
    }
    let message = format!(
        "accesses {} bytes at an address that is no multiple of them",
        at.bytes
    );
    Err(located(env, at, FaultKind::MisalignedAddress, message))
}

fn raw(place: Place) -> u64 {
    match place {
        Place::Global(address)
        | Place::Shared(address)
        | Place::Local(address)
        | Place::Param(address)
        | Place::Wild(address) => address,
    }
}

#[cold]
fn illegal(env: &Env<'_>, at: Lane<'_>, what: &str) -> Box<Fault> {
    located(env, at, FaultKind::IllegalAddress, what.to_owned())
}

#[cold]
fn uninitialised(env: &Env<'_>, at: Lane<'_>, what: &str) -> Box<Fault> {
    located(env, at, FaultKind::Uninitialized, what.to_owned())
}

#[cold]
fn conflict_fault(env: &Env<'_>, at: Lane<'_>, conflict: Conflict) -> Box<Fault> {
    let place = Place::Shared(conflict.offset as u64);
    let mut fault = located(
        env,
        Lane { place, ..at },
        conflict.kind,
        conflict.what.to_owned(),
    );
    fault.other = conflict.other.map(|(pc, warp)| {
        let who = if warp == at.warp.index {
            "the same warp".to_owned()
        } else {
            format!("warp {warp}")
        };
        (env.program.site(env.kernel, pc), who)
    });
    fault
}

/// A fault with its address and what is near it.
#[cold]
fn located(env: &Env<'_>, at: Lane<'_>, kind: FaultKind, message: String) -> Box<Fault> {
    let address = raw(at.place);
    let mut fault = env.fault(kind, message, at.warp, at.pc, 1 << at.lane);
    fault.address = Some(address);
    let space = match at.place {
        Place::Global(_) => "global",
        Place::Shared(_) => "shared",
        Place::Local(_) => "local",
        Place::Param(_) => "parameter",
        Place::Wild(_) => "no",
    };
    fault.notes.push(format!(
        "{} bytes at 0x{address:x} in {space} space",
        at.bytes
    ));
    match at.place {
        Place::Global(_) => fault.notes.extend(nearest(env, address, at.bytes as u64)),
        Place::Shared(_) => {
            fault
                .notes
                .push(format!("the block has {} bytes", env.shared.data.len()));
        }
        _ => {}
    }
    fault
}

/// The allocation next to an address in words.
fn nearest(env: &Env<'_>, address: u64, bytes: u64) -> Option<String> {
    let info = env.memory.nearest(address)?;
    let end = info.base + info.len;
    let place = if address >= end {
        format!("{} bytes past the end of", address - end)
    } else if address < info.base {
        format!("{} bytes before", info.base - address)
    } else if address + bytes > end {
        "across the end of".to_owned()
    } else {
        format!("{} bytes into", address - info.base)
    };
    let freed = if info.live { "" } else { ", freed" };
    Some(format!(
        "{place} the allocation of {} bytes at 0x{:x} ({}{freed})",
        info.len, info.base, info.origin
    ))
}

/// The addresses of one instruction, for counting.
struct Seen {
    global: [u64; 32],
    globals: usize,
    shared: [u32; 32],
    shareds: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            global: [0; 32],
            globals: 0,
            shared: [0; 32],
            shareds: 0,
        }
    }
}

impl Seen {
    #[inline]
    fn add(&mut self, place: Place) {
        match place {
            Place::Global(address) => {
                self.global[self.globals] = address;
                self.globals += 1;
            }
            Place::Shared(offset) => {
                self.shared[self.shareds] = offset as u32;
                self.shareds += 1;
            }
            _ => {}
        }
    }

    fn count(&self, env: &mut Env<'_>, store: bool, bytes: usize) {
        if self.globals > 0 {
            env.counters
                .global(store, &self.global[..self.globals], bytes);
        }
        if self.shareds > 0 {
            env.counters.shared(&self.shared[..self.shareds], bytes);
        }
    }
}
