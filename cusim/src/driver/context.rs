//! Contexts: the primary one and others, and which of them a thread works in.

use std::collections::HashSet;

use super::abi::{In, Out, driver_api};
use super::handle::{Handle, Object};
use super::state::{State, check_initialized, current_handle, lock, with_stack};
use super::status::Status;

/// A context.
pub(crate) struct Context {
    pub(super) device: usize,
    /// Contexts of other devices whose memory kernels of this one may access.
    pub(super) peers: HashSet<Handle<Context>>,
    flags: u32,
    limits: [usize; LIMITS.len()],
    cache_config: u32,
    shared_config: u32,
    /// What a failed kernel left behind.
    pub(super) failed: Option<Status>,
}

impl Object for Context {
    const TAG: u64 = 1;
    const WRONG: Status = Status::INVALID_CONTEXT;
}

/// The primary context of a device.
#[derive(Default)]
pub(super) struct Primary {
    handle: Option<Handle<Context>>,
    users: u32,
    flags: u32,
}

/// Flags of contexts: scheduling, mapping, local memory, core dumps, synchronous memory operations.
const FLAGS: u32 = 0xff;

/// `CUlimit` by number: stack size, printf buffer, heap, synchronisation depth, pending launches, L2
/// fetch granularity, persisting L2.
const LIMITS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0];

impl State {
    fn create_context(&mut self, device: usize, flags: u32) -> Handle<Context> {
        self.contexts.insert(Context {
            device,
            peers: HashSet::new(),
            flags,
            limits: LIMITS,
            cache_config: 0,
            shared_config: 0,
            failed: None,
        })
    }

    /// The host waits for all that was issued.
    fn synchronize_context(&mut self, context: Handle<Context>) -> Result<(), Status> {
        self.check_no_capture_in(context)?;
        self.check_unsafe()?;
        self.timeline.synchronize_all();
        Ok(())
    }

    /// Destroys a context with everything in it.
    fn destroy_context(&mut self, handle: Handle<Context>) -> Result<(), Status> {
        self.contexts.remove(handle)?;
        self.abandon_captures_in(handle);
        // All that was issued is over before anything goes.
        self.timeline.synchronize_all();
        self.memory.begin("cuCtxDestroy", Vec::new());
        self.streams.retain(|stream| stream.context != handle);
        self.events.retain(|event| event.context != handle);
        self.functions.retain(|function| function.context != handle);
        for module in self.modules.extract(|module| module.context == handle) {
            self.free_globals(&module.globals);
        }
        let lost: Vec<u64> = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.context == handle)
            .map(|(&address, _)| address)
            .collect();
        for address in lost {
            self.release("cuCtxDestroy", address)?;
        }
        for library in self.libraries.iter_mut() {
            library.modules.remove(&handle);
        }
        let blocks = self
            .host
            .iter()
            .filter(|(_, block)| block.context == handle);
        let blocks: Vec<usize> = blocks.map(|(&address, _)| address).collect();
        for address in blocks {
            self.unmap(address)?;
        }
        Ok(())
    }
}

fn check_flags(flags: u32) -> Result<(), Status> {
    // The lowest three bits are one number, of which 0, 1, 2 and 4 mean something.
    if flags & !FLAGS != 0 || matches!(flags & 7, 3 | 5 | 6 | 7) {
        Err(Status::INVALID_VALUE)
    } else {
        Ok(())
    }
}

fn create(out: Out<Handle<Context>>, flags: u32, device: i32) -> Result<(), Status> {
    let out = out.required()?;
    let mut state = lock()?;
    check_flags(flags)?;
    let device = state.device(device)?;
    let handle = state.create_context(device, flags);
    with_stack(|stack| stack.push(handle));
    out.set(handle)
}

driver_api! {
    fn cuCtxCreate_v2(out: Out<Handle<Context>>, flags: u32, device: i32) {
        create(out, flags, device)
    }

    fn cuCtxCreate_v3(out: Out<Handle<Context>>, affinity: In<u8>, count: i32, flags: u32, device: i32) {
        if count != 0 || !affinity.is_null() {
            return Err(Status::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(out, flags, device)
    }

    fn cuCtxCreate_v4(out: Out<Handle<Context>>, params: In<u8>, flags: u32, device: i32) {
        // What the parameters could ask for: execution affinity, and sharing with graphics.
        if !params.is_null() {
            return Err(Status::NOT_SUPPORTED);
        }
        create(out, flags, device)
    }

    fn cuCtxDestroy_v2(context: Handle<Context>) {
        let mut state = lock()?;
        if state.devices.iter().any(|device| device.primary.handle == Some(context)) {
            return Err(Status::INVALID_CONTEXT);
        }
        state.destroy_context(context)?;
        with_stack(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuDevicePrimaryCtxRetain(out: Out<Handle<Context>>, device: i32) {
        let out = out.required()?;
        let mut state = lock()?;
        let device = state.device(device)?;
        let handle = match state.devices[device].primary.handle {
            Some(handle) => handle,
            None => {
                let flags = state.devices[device].primary.flags;
                let handle = state.create_context(device, flags);
                state.devices[device].primary.handle = Some(handle);
                handle
            }
        };
        state.devices[device].primary.users += 1;
        out.set(handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        let mut state = lock()?;
        let device = state.device(device)?;
        let primary = &mut state.devices[device].primary;
        let handle = primary.handle.ok_or(Status::INVALID_CONTEXT)?;
        primary.users = primary.users.saturating_sub(1);
        if primary.users == 0 {
            primary.handle = None;
            state.destroy_context(handle)?;
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        let mut state = lock()?;
        let device = state.device(device)?;
        let primary = &mut state.devices[device].primary;
        if let Some(handle) = primary.handle.take() {
            primary.users = 0;
            state.destroy_context(handle)?;
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let mut state = lock()?;
        let device = state.device(device)?;
        check_flags(flags)?;
        let primary = &mut state.devices[device].primary;
        primary.flags = flags;
        if let Some(handle) = primary.handle {
            state.contexts.get_mut(handle)?.flags = flags;
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let state = lock()?;
        let primary = &state.devices[state.device(device)?].primary;
        flags.set(primary.flags)?;
        active.set(i32::from(primary.handle.is_some()))
    }

    fn cuCtxPushCurrent_v2(context: Handle<Context>) {
        lock()?.contexts.get(context)?;
        with_stack(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(out: Out<Handle<Context>>) {
        check_initialized()?;
        let context = with_stack(Vec::pop).ok_or(Status::INVALID_CONTEXT)?;
        out.set_if_wanted(context);
        Ok(())
    }

    fn cuCtxSetCurrent(context: Handle<Context>) {
        if !context.is_null() {
            lock()?.contexts.get(context)?;
        }
        with_stack(|stack| {
            stack.pop();
            if !context.is_null() {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(out: Out<Handle<Context>>) {
        check_initialized()?;
        out.set(current_handle().unwrap_or(Handle::NULL))
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        let state = lock()?;
        let found = state.device_of(state.current()?)?;
        device.set(found as i32)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle<Context>) {
        let state = lock()?;
        let context = if context.is_null() { state.current()? } else { context };
        device.set(state.device_of(context)? as i32)
    }

    fn cuCtxGetId(context: Handle<Context>, id: Out<u64>) {
        let state = lock()?;
        let context = if context.is_null() { state.current()? } else { context };
        state.contexts.get(context)?;
        // No two handles are the same.
        id.set(context.number())
    }

    fn cuCtxGetApiVersion(context: Handle<Context>, version: Out<u32>) {
        let state = lock()?;
        if !context.is_null() {
            state.contexts.get(context)?;
        }
        version.set(3020)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        let state = lock()?;
        let current = state.current()?;
        flags.set(state.contexts.get(current)?.flags)
    }

    fn cuCtxSetFlags(flags: u32) {
        let mut state = lock()?;
        check_flags(flags)?;
        let current = state.current()?;
        state.contexts.get_mut(current)?.flags = flags;
        Ok(())
    }

    fn cuCtxSynchronize() {
        let mut state = lock()?;
        let context = state.healthy()?;
        state.synchronize_context(context)
    }

    fn cuCtxSynchronize_v2(context: Handle<Context>) {
        let mut state = lock()?;
        let context = if context.is_null() { state.current()? } else { context };
        state.check_health(context)?;
        state.synchronize_context(context)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let state = lock()?;
        let current = state.current()?;
        let limits = &state.contexts.get(current)?.limits;
        value.set(*limits.get(limit as usize).ok_or(Status::UNSUPPORTED_LIMIT)?)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let mut state = lock()?;
        let current = state.current()?;
        let limits = &mut state.contexts.get_mut(current)?.limits;
        *limits.get_mut(limit as usize).ok_or(Status::UNSUPPORTED_LIMIT)? = value;
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        let state = lock()?;
        let current = state.current()?;
        config.set(state.contexts.get(current)?.cache_config)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        let mut state = lock()?;
        let current = state.current()?;
        if config > 3 {
            return Err(Status::INVALID_VALUE);
        }
        state.contexts.get_mut(current)?.cache_config = config;
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        let state = lock()?;
        let current = state.current()?;
        config.set(state.contexts.get(current)?.shared_config)
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        let mut state = lock()?;
        let current = state.current()?;
        if config > 2 {
            return Err(Status::INVALID_VALUE);
        }
        state.contexts.get_mut(current)?.shared_config = config;
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        lock()?.current()?;
        least.set_if_wanted(super::stream::LEAST_PRIORITY);
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        lock()?.healthy().map(|_| ())
    }
}
