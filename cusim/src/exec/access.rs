//! Loads and stores, with every check.

use super::address::{self, Place, Targets};
use super::cta::Env;
use super::report;
use super::warp::{Warp, lanes_of};
use super::words::{collect, deposit, gather, scatter};
use crate::fault::Fault;
use crate::program::op::{Access, Order};

pub(super) type Outcome<T> = Result<T, Box<Fault>>;

pub(super) fn load(
    warp: &mut Warp,
    env: &mut Env<'_>,
    load: &Access,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let bytes = load.width * load.regs.len();
    let at = address::addresses(warp, load.address);
    let mut rest = mask;
    while rest != 0 {
        let targets = address::next_targets(load.space, &at, &mut rest);
        read(warp, env, &targets, bytes, pc, load.order)?;
    }
    if load.order != Order::Weak {
        env.looked();
    }
    deposit(warp, &env.words, load, mask);
    Ok(())
}

pub(super) fn store(
    warp: &mut Warp,
    env: &mut Env<'_>,
    store: &Access,
    pc: usize,
    mask: u32,
) -> Outcome<()> {
    let bytes = store.width * store.regs.len();
    collect(warp, &mut env.words, store);
    let at = address::addresses(warp, store.address);
    let mut rest = mask;
    while rest != 0 {
        let targets = address::next_targets(store.space, &at, &mut rest);
        write(warp, env, &targets, bytes, pc, store.order)?;
    }
    env.changed();
    Ok(())
}

/// Reads `bytes` bytes for every lane of `targets` into `env.words`.
pub(super) fn read(
    warp: &mut Warp,
    env: &mut Env<'_>,
    targets: &Targets,
    bytes: usize,
    pc: usize,
    order: Order,
) -> Outcome<()> {
    let access = report::Access::new(warp, pc, targets, bytes);
    access.check_aligned(env)?;
    match targets.place {
        Place::Global => read_global(warp, env, access)?,
        Place::Shared => read_shared(env, access, order != Order::Weak)?,
        Place::Local => read_local(warp, env, access)?,
        Place::Param => {
            check_bounds(env, access, "reads")?;
            let params = env.config.params;
            gather(params, targets, 0, bytes, &mut env.words);
        }
        Place::Nowhere => return Err(access.illegal(env, "reads", targets.lanes)),
    }
    synchronize(env, access, order);
    Ok(())
}

/// Writes `bytes` bytes for every lane of `targets` from `env.words`.
pub(super) fn write(
    warp: &mut Warp,
    env: &mut Env<'_>,
    targets: &Targets,
    bytes: usize,
    pc: usize,
    order: Order,
) -> Outcome<()> {
    let access = report::Access::new(warp, pc, targets, bytes);
    access.check_aligned(env)?;
    match targets.place {
        Place::Global => write_global(warp, env, access)?,
        Place::Shared => write_shared(env, access, order != Order::Weak)?,
        Place::Local => write_local(warp, env, access)?,
        Place::Param | Place::Nowhere => {
            return Err(access.illegal(env, "writes", targets.lanes));
        }
    }
    synchronize(env, access, order);
    Ok(())
}

/// Accesses with an order pass on, or take over, what is known of other warps.
fn synchronize(env: &mut Env<'_>, access: report::Access<'_>, order: Order) {
    if order == Order::Weak {
        return;
    }
    let acquires = matches!(order, Order::Acquire | Order::AcquireRelease);
    let releases = matches!(order, Order::Release | Order::AcquireRelease);
    for lane in lanes_of(access.targets.lanes) {
        let address = access.targets.at[lane];
        let shadow = &mut env.shared.shadow;
        shadow.synchronize(access.warp, address, acquires, releases);
    }
}

fn read_global(warp: &mut Warp, env: &mut Env<'_>, access: report::Access<'_>) -> Outcome<()> {
    let (targets, bytes) = (access.targets, access.bytes);
    env.counters.global(false, targets, bytes);
    let (low, high) = targets.bounds();
    let span = high - low + bytes as u64;
    let init = env.config.options.checks.init;
    let Some(index) = env.memory.locate(low, span, &mut warp.hint) else {
        return read_scattered(warp, env, access);
    };
    let allocation = env.memory.allocation(index);
    let base = allocation.base();
    let first = (low - base) as usize;
    if init && !allocation.is_written(first, span as usize) {
        let unwritten =
            targets.lanes_where(|at| !allocation.is_written((at - base) as usize, bytes));
        if unwritten != 0 {
            return Err(access.uninitialized(env, unwritten));
        }
    }
    gather(allocation.bytes(), targets, base, bytes, &mut env.words);
    Ok(())
}

/// Lanes that read from several allocations, or from none.
fn read_scattered(warp: &mut Warp, env: &mut Env<'_>, access: report::Access<'_>) -> Outcome<()> {
    let (targets, bytes) = (access.targets, access.bytes);
    let missing = missing(warp, env, access);
    if missing != 0 {
        return Err(access.illegal(env, "reads", missing));
    }
    for lane in lanes_of(targets.lanes) {
        let at = targets.at[lane];
        let Some(index) = env.memory.locate(at, bytes as u64, &mut warp.hint) else {
            continue;
        };
        let allocation = env.memory.allocation(index);
        let base = allocation.base();
        let is_written = allocation.is_written((at - base) as usize, bytes);
        if !is_written && env.config.options.checks.init {
            return Err(access.uninitialized(env, 1 << lane));
        }
        let one = Targets {
            lanes: 1 << lane,
            ..*targets
        };
        gather(allocation.bytes(), &one, base, bytes, &mut env.words);
    }
    Ok(())
}

/// Lanes whose bytes are in no allocation.
fn missing(warp: &mut Warp, env: &Env<'_>, access: report::Access<'_>) -> u32 {
    let bytes = access.bytes as u64;
    let hint = &mut warp.hint;
    access
        .targets
        .lanes_where(|at| env.memory.locate(at, bytes, hint).is_none())
}

fn write_global(warp: &mut Warp, env: &mut Env<'_>, access: report::Access<'_>) -> Outcome<()> {
    let (targets, bytes) = (access.targets, access.bytes);
    env.counters.global(true, targets, bytes);
    let (low, high) = targets.bounds();
    let span = high - low + bytes as u64;
    if let Some(index) = env.memory.locate(low, span, &mut warp.hint) {
        let allocation = env.memory.allocation_mut(index);
        let base = allocation.base();
        let dense = targets.lanes.count_ones() as usize * bytes == span as usize
            && is_dense(targets, bytes);
        if dense {
            allocation.mark((low - base) as usize, span as usize);
        } else {
            for lane in lanes_of(targets.lanes) {
                allocation.mark((targets.at[lane] - base) as usize, bytes);
            }
        }
        scatter(allocation.bytes_mut(), targets, base, bytes, &env.words);
        return Ok(());
    }
    let missing = missing(warp, env, access);
    if missing != 0 {
        return Err(access.illegal(env, "writes", missing));
    }
    for lane in lanes_of(targets.lanes) {
        let at = targets.at[lane];
        let Some(index) = env.memory.locate(at, bytes as u64, &mut warp.hint) else {
            continue;
        };
        let allocation = env.memory.allocation_mut(index);
        let base = allocation.base();
        allocation.mark((at - base) as usize, bytes);
        let one = Targets {
            lanes: 1 << lane,
            ..*targets
        };
        scatter(allocation.bytes_mut(), &one, base, bytes, &env.words);
    }
    Ok(())
}

/// True when each lane that takes part goes on where the last one ended.
fn is_dense(targets: &Targets, bytes: usize) -> bool {
    let mut lanes = lanes_of(targets.lanes).map(|lane| targets.at[lane]);
    let Some(mut next) = lanes.next() else {
        return false;
    };
    lanes.all(|at| {
        next += bytes as u64;
        at == next
    })
}

fn read_shared(env: &mut Env<'_>, access: report::Access<'_>, is_atomic: bool) -> Outcome<()> {
    let (targets, bytes) = (access.targets, access.bytes);
    check_bounds(env, access, "reads")?;
    env.counters.shared(targets, bytes);
    let init = env.config.options.checks.init;
    let shadow = &mut env.shared.shadow;
    let stamp = shadow.stamp(access.warp, access.pc, is_atomic);
    for lane in lanes_of(targets.lanes) {
        let noted = shadow.read(stamp, targets.at[lane] as usize, bytes, init);
        if let Err(conflict) = noted {
            return Err(access.conflict(env, conflict, lane));
        }
    }
    gather(&env.shared.data, targets, 0, bytes, &mut env.words);
    Ok(())
}

fn write_shared(env: &mut Env<'_>, access: report::Access<'_>, is_atomic: bool) -> Outcome<()> {
    let (targets, bytes) = (access.targets, access.bytes);
    check_bounds(env, access, "writes")?;
    env.counters.shared(targets, bytes);
    let shadow = &mut env.shared.shadow;
    let stamp = shadow.stamp(access.warp, access.pc, is_atomic);
    for lane in lanes_of(targets.lanes) {
        let noted = shadow.write(stamp, targets.at[lane] as usize, bytes);
        if let Err(conflict) = noted {
            return Err(access.conflict(env, conflict, lane));
        }
    }
    scatter(&mut env.shared.data, targets, 0, bytes, &env.words);
    Ok(())
}

fn read_local(warp: &mut Warp, env: &mut Env<'_>, access: report::Access<'_>) -> Outcome<()> {
    check_bounds(env, access, "reads")?;
    let (own, bytes) = (thread_memory(env, access.targets), access.bytes);
    if env.config.options.checks.init {
        let written = &warp.local_written;
        let unwritten = lanes_of(own.lanes)
            .filter(|&lane| !written.all(own.at[lane] as usize..own.at[lane] as usize + bytes))
            .fold(0, |mask, lane| mask | 1 << lane);
        if unwritten != 0 {
            return Err(access.uninitialized(env, unwritten));
        }
    }
    gather(&warp.local, &own, 0, bytes, &mut env.words);
    Ok(())
}

fn write_local(warp: &mut Warp, env: &mut Env<'_>, access: report::Access<'_>) -> Outcome<()> {
    check_bounds(env, access, "writes")?;
    let own = thread_memory(env, access.targets);
    for lane in lanes_of(own.lanes) {
        let start = own.at[lane] as usize;
        warp.local_written.set(start..start + access.bytes);
    }
    scatter(&mut warp.local, &own, 0, access.bytes, &env.words);
    Ok(())
}

/// Where the local memory of each lane lies in that of the warp.
fn thread_memory(env: &Env<'_>, targets: &Targets) -> Targets {
    let size = u64::from(env.kernel.local_bytes());
    let mut own = *targets;
    for (lane, at) in own.at.iter_mut().enumerate() {
        *at += lane as u64 * size;
    }
    // Lanes that do not take part must stay inside as well.
    let lead = own.at[own.lanes.trailing_zeros() as usize & 31];
    for (lane, at) in own.at.iter_mut().enumerate() {
        if own.lanes >> lane & 1 == 0 {
            *at = lead;
        }
    }
    own
}

/// All bytes must be inside their place.
#[inline(always)]
pub(super) fn check_bounds(env: &Env<'_>, access: report::Access<'_>, verb: &str) -> Outcome<()> {
    let size = env.size_of(access.targets.place);
    let bytes = access.bytes as u64;
    let is_outside = |at: u64| at > size || bytes > size - at;
    if is_outside(access.targets.bounds().1) {
        let lanes = access.targets.lanes_where(is_outside);
        return Err(access.illegal(env, verb, lanes));
    }
    Ok(())
}
