//! Loads and stores, with every check.

use super::address::{self, Place, Targets};
use super::cta::Env;
use super::warp::{Warp, lanes_of};
use super::words::{collect, deposit, gather, scatter};
use super::{race, report};
use crate::fault::Fault;
use crate::memory::Page;
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
        Place::Global => global(warp, env, access, order, false)?,
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
        Place::Global => global(warp, env, access, order, true)?,
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
    let (scope, acquires, releases) = match order {
        Order::Weak => return,
        Order::Relaxed(scope) => (scope, false, false),
        Order::Acquire(scope) => (scope, true, false),
        Order::Release(scope) => (scope, false, true),
        Order::AcquireRelease(scope) => (scope, true, true),
    };
    for lane in lanes_of(access.targets.lanes) {
        let address = access.targets.at[lane];
        let shadow = &mut env.shared.shadow;
        shadow.synchronize(access.warp, lane, (address, scope), acquires, releases);
    }
}

/// An operation of the host that accesses what these lanes do, with nothing that orders the two, and the lanes.
fn host_conflict(
    env: &Env<'_>,
    targets: &Targets,
    bytes: usize,
    is_write: bool,
) -> Option<(u32, u32)> {
    let conflict =
        |low: u64, high: u64| env.memory.host_conflict(low..high + bytes as u64, is_write);
    // Nothing between the lowest and the highest address is the usual case. What is there may be none of theirs.
    let (low, high) = targets.bounds();
    conflict(low, high)?;
    let operation =
        lanes_of(targets.lanes).find_map(|lane| conflict(targets.at[lane], targets.at[lane]))?;
    let lanes = targets.lanes_where(|at| conflict(at, at) == Some(operation));
    Some((operation, lanes))
}

/// Reads or writes global memory page by page.
fn global(
    warp: &mut Warp,
    env: &mut Env<'_>,
    access: report::Access<'_>,
    order: Order,
    is_write: bool,
) -> Outcome<()> {
    let (targets, bytes) = (access.targets, access.bytes);
    env.counters.global(is_write, targets, bytes);
    let memory = env.memory;
    if env.config.options.checks.race
        && let Some((operation, lanes)) = host_conflict(env, targets, bytes, is_write)
    {
        return Err(race::host_fault(env, access, operation, is_write, lanes));
    }
    let (low, high) = targets.bounds();
    let checks = env.config.options.checks;
    let now = checks
        .race
        .then(|| race::record(env, access, order, is_write));
    let mut rest = targets.lanes;
    while rest != 0 {
        let at = targets.at[rest.trailing_zeros() as usize & 31];
        let Some(index) = memory.locate(at, bytes as u64, &mut warp.hint) else {
            let missing = missing(warp, env, access);
            let verb = if is_write { "writes" } else { "reads" };
            return Err(access.illegal(env, verb, missing));
        };
        let allocation = memory.allocation(index);
        let addresses = allocation.page_of(at);
        let is_here = |at: u64| addresses.contains(&at) && at + bytes as u64 <= addresses.end;
        let mut part = *targets;
        let all = is_here(low) && is_here(high);
        part.lanes = rest
            & if all {
                rest
            } else {
                targets.lanes_where(is_here)
            };
        rest &= !part.lanes;
        if let Some(details) = &mut env.details {
            details.access(index, is_write, &part, bytes);
        }
        allocation.with_page(at, |page| {
            if let Some(now) = now
                && let Err((other, address)) = race::note(env, page, &part, bytes, now)
            {
                return Err(race::fault(env, access, &now, &other, address));
            }
            if is_write {
                memory.save(page, at);
                mark(page, &part, bytes);
                let start = page.start();
                scatter(page.bytes_mut(), &part, start, bytes, &env.words);
                return Ok(());
            }
            if checks.init {
                let unwritten = unwritten(page, &part, bytes);
                if unwritten != 0 {
                    return Err(access.uninitialized(env, unwritten));
                }
            }
            gather(page.bytes(), &part, page.start(), bytes, &mut env.words);
            Ok(())
        })?;
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

/// The lowest address of the lanes that take part, and the bytes up to the end of the highest.
fn span(targets: &Targets, bytes: usize) -> (u64, usize) {
    let lanes = || lanes_of(targets.lanes).map(|lane| targets.at[lane]);
    let low = lanes().min().unwrap_or(0);
    (low, (lanes().max().unwrap_or(0) - low) as usize + bytes)
}

/// Lanes that read what was never written.
fn unwritten(page: &Page, targets: &Targets, bytes: usize) -> u32 {
    let (low, span) = span(targets, bytes);
    if page.is_written(low, span) {
        return 0;
    }
    targets.lanes_where(|at| !page.is_written(at, bytes))
}

fn mark(page: &mut Page, targets: &Targets, bytes: usize) {
    let (low, span) = span(targets, bytes);
    if targets.lanes.count_ones() as usize * bytes == span && is_dense(targets, bytes) {
        page.mark(low, span);
    } else {
        lanes_of(targets.lanes).for_each(|lane| page.mark(targets.at[lane], bytes));
    }
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
    env.counters.shared(false, targets, bytes);
    let init = env.config.options.checks.init;
    let shadow = &mut env.shared.shadow;
    let stamp = shadow.stamp(access.warp, access.pc, is_atomic);
    for lane in lanes_of(targets.lanes) {
        let noted = shadow.read(stamp, lane, targets.at[lane] as usize, bytes, init);
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
    env.counters.shared(true, targets, bytes);
    let shadow = &mut env.shared.shadow;
    let stamp = shadow.stamp(access.warp, access.pc, is_atomic);
    for lane in lanes_of(targets.lanes) {
        let noted = shadow.write(stamp, lane, targets.at[lane] as usize, bytes);
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
