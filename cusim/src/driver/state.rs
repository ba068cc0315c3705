//! What the driver knows: the devices, their contexts, and everything that lives in them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::capture::Capture;
use super::context::{Context, Primary};
use super::event::Event;
use super::function::Function;
use super::graph::{Exec, Graph, Node};
use super::handle::{Handle, Table};
use super::host::HostBlock;
use super::library::{Library, LibraryKernel};
use super::module::Module;
use super::observe::Observations;
use super::order::Timeline;
use super::pool::Pool;
use super::status::Status;
use super::stream::Stream;
use crate::arch::Arch;
use crate::memory::GlobalMemory;

/// Everything behind the one lock of the devices. Kernels run under it: programs see one launch after
/// another, in the order they were issued.
pub(super) struct State {
    pub(super) arch: &'static Arch,
    pub(super) memory: GlobalMemory,
    /// Which context owns the allocation at an address.
    pub(super) owners: HashMap<u64, Owner>,
    /// Host memory the driver allocated or registered, by address.
    pub(super) host: BTreeMap<usize, HostBlock>,
    /// Addresses of what graphs allocate.
    pub(super) of_graphs: HashSet<u64>,
    pub(super) contexts: Table<Context>,
    pub(super) devices: Vec<Device>,
    pub(super) streams: Table<Stream>,
    pub(super) events: Table<Event>,
    pub(super) modules: Table<Module>,
    pub(super) functions: Table<Function>,
    pub(super) libraries: Table<Library>,
    pub(super) library_kernels: Table<LibraryKernel>,
    pub(super) pools: Table<Pool>,
    pub(super) captures: Table<Capture>,
    /// The capture that a stream is in, by the number that orders its work.
    pub(super) captured_lanes: HashMap<u64, Handle<Capture>>,
    pub(super) graphs: Table<Graph>,
    pub(super) nodes: Table<Node>,
    pub(super) execs: Table<Exec>,
    pub(super) observations: Observations,
    pub(super) timeline: Timeline,
}

/// A device.
pub(super) struct Device {
    pub(super) primary: Primary,
    pub(super) default_pool: Handle<Pool>,
    pub(super) current_pool: Handle<Pool>,
}

/// Whose an allocation is.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) context: Handle<Context>,
    /// The pool it came from, for allocations ordered by a stream.
    pub(super) pool: Option<Handle<Pool>>,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| {
    let arch = arch_from_environment();
    let mut pools = Table::new();
    let devices = (0..devices_from_environment()).map(|number| {
        let default_pool = pools.insert(Pool::new(number));
        Device {
            primary: Primary::default(),
            default_pool,
            current_pool: default_pool,
        }
    });
    let devices: Vec<Device> = devices.collect();
    Mutex::new(State {
        arch,
        memory: GlobalMemory::of_devices(devices.len(), arch.global_memory),
        owners: HashMap::new(),
        host: BTreeMap::new(),
        of_graphs: HashSet::new(),
        contexts: Table::new(),
        devices,
        streams: Table::new(),
        events: Table::new(),
        modules: Table::new(),
        functions: Table::new(),
        libraries: Table::new(),
        library_kernels: Table::new(),
        pools,
        captures: Table::new(),
        captured_lanes: HashMap::new(),
        graphs: Table::new(),
        nodes: Table::new(),
        execs: Table::new(),
        observations: Observations::from_environment(),
        timeline: Timeline::default(),
    })
});

/// The most devices there can be; more would only be a mistake in `CUSIM_DEVICES`.
const MOST_DEVICES: usize = 64;

/// How many devices there are: `CUSIM_DEVICES`, or one.
fn devices_from_environment() -> usize {
    let Ok(text) = std::env::var("CUSIM_DEVICES") else {
        return 1;
    };
    let number = text.parse().ok();
    number.filter(|number| (1..=MOST_DEVICES).contains(number)).unwrap_or_else(|| {
        eprintln!("cusim: CUSIM_DEVICES={text} is not a number from 1 to {MOST_DEVICES}; there is one device");
        1
    })
}

/// The GPU to model: `CUSIM_ARCH`, or sm_80.
fn arch_from_environment() -> &'static Arch {
    const DEFAULT: &Arch = match Arch::all().first() {
        Some(arch) => arch,
        None => panic!("no GPU is modelled"),
    };
    let Some(wanted) = std::env::var_os("CUSIM_ARCH") else {
        return DEFAULT;
    };
    let found = wanted
        .to_str()
        .and_then(|text| text.trim_start_matches("sm_").parse().ok())
        .and_then(Arch::of);
    found.unwrap_or_else(|| {
        eprintln!(
            "cusim: CUSIM_ARCH={} is not a GPU cusim models; using sm_{}",
            wanted.to_string_lossy(),
            DEFAULT.sm
        );
        DEFAULT
    })
}

/// Set by `cuInit`.
static INITIALIZED: AtomicBool = AtomicBool::new(false);

pub(super) fn initialize() {
    INITIALIZED.store(true, Ordering::Release);
}

/// What every call but a few begins with.
pub(super) fn check_initialized() -> Result<(), Status> {
    if INITIALIZED.load(Ordering::Acquire) {
        Ok(())
    } else {
        Err(Status::NOT_INITIALIZED)
    }
}

/// The state, for calls that need no context.
pub(super) fn lock() -> Result<MutexGuard<'static, State>, Status> {
    check_initialized()?;
    Ok(lock_always())
}

/// The state, even before `cuInit`. A panic under the lock has been reported as a bug at the boundary;
/// the state is made of plain values, so what is there stays usable.
pub(super) fn lock_always() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The contexts of this thread; the last is current.
    static STACK: RefCell<Vec<Handle<Context>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `change` on the context stack of this thread.
pub(super) fn with_stack<R>(change: impl FnOnce(&mut Vec<Handle<Context>>) -> R) -> R {
    STACK.with_borrow_mut(change)
}

/// The current context of this thread, which may have been destroyed.
pub(super) fn current_handle() -> Option<Handle<Context>> {
    with_stack(|stack| stack.last().copied()).filter(|handle| !handle.is_null())
}

impl State {
    /// The current context, in whatever condition.
    pub(super) fn current(&self) -> Result<Handle<Context>, Status> {
        let handle = current_handle().ok_or(Status::INVALID_CONTEXT)?;
        if self.contexts.contains(handle) {
            Ok(handle)
        } else {
            Err(Status::CONTEXT_IS_DESTROYED)
        }
    }

    /// The current context, in which no kernel has failed.
    pub(super) fn healthy(&self) -> Result<Handle<Context>, Status> {
        let handle = self.current()?;
        self.check_health(handle)?;
        Ok(handle)
    }

    /// After a kernel failed, everything else in its context fails alike.
    pub(super) fn check_health(&self, context: Handle<Context>) -> Result<(), Status> {
        match self.contexts.get(context)?.failed {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }
}
