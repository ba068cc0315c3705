//! Launching kernels. A launch runs to its end before the call returns, but fails as one that runs
//! later does: the call succeeds, and whatever follows in the context reports the failure.

use std::cmp::Ordering;
use std::sync::Arc;

use super::abi::{HostIn, In, driver_api, host_in};
use super::context::Context;
use super::function::Function;
use super::handle::Handle;
use super::occupancy;
use super::order::Lane;
use super::state::{State, lock};
use super::status::Status;
use super::stream::Stream;
use super::work::{Order, Work, submit};
use crate::arch::Arch;
use crate::exec::{self, LaunchConfig};
use crate::fault::FaultKind;
use crate::profile::{self, KernelProfile};
use crate::record::Recording;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ExtendedConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle<Stream>,
    attributes: In<Attribute>,
    count: u32,
}

/// `CUlaunchAttribute`: its number, and a union as words.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

/// Numbers of launch attributes that change what a kernel does.
const COOPERATIVE: u32 = 2;
const CLUSTER_DIMENSION: u32 = 4;
/// Ignored, access policy, synchronisation policy, cluster scheduling, programmatic serialisation,
/// priority, memory domains, preferred cluster, shared-memory carveout: they change when, not what.
const WITHOUT_EFFECT: [u32; 11] = [0, 1, 3, 5, 6, 8, 9, 10, 11, 14, 15];

/// Markers in the `extra` array of a launch.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_BUFFER_SIZE: usize = 2;

/// Where the arguments are.
#[derive(Clone, Copy)]
struct Arguments {
    /// A pointer to each argument.
    each: In<HostIn>,
    /// Or pairs of markers and values that describe one block.
    extra: In<usize>,
}

/// How a kernel is launched.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    cooperative: bool,
}

/// A launch that was checked, with its arguments.
pub(super) struct Launch {
    pub(super) context: Handle<Context>,
    function: Handle<Function>,
    shape: Shape,
    params: Vec<u8>,
}

impl Arguments {
    /// The parameter block of a kernel, filled.
    fn pack(self, function: &Function) -> Result<Vec<u8>, Status> {
        let kernel = function.kernel();
        let mut block = vec![0; kernel.param_bytes() as usize];
        match (self.each.is_null(), self.extra.is_null()) {
            (false, true) => {
                for (index, parameter) in kernel.params().iter().enumerate() {
                    let (start, size) = (parameter.offset as usize, parameter.size as usize);
                    let argument = self.each.at(index)?.bytes(size)?;
                    let place = block.get_mut(start..start + size);
                    place
                        .ok_or(Status::INVALID_VALUE)?
                        .copy_from_slice(argument);
                }
            }
            (true, false) => self.copy_extra(&mut block)?,
            (true, true) if kernel.params().is_empty() => {}
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(block)
    }

    fn copy_extra(self, block: &mut [u8]) -> Result<(), Status> {
        let (mut buffer, mut size) = (0, None);
        for pair in (0..).step_by(2) {
            match self.extra.at(pair)? {
                EXTRA_END => break,
                EXTRA_BUFFER => buffer = self.extra.at(pair + 1)?,
                EXTRA_BUFFER_SIZE => {
                    let place = host_in(self.extra.at(pair + 1)? as u64);
                    let word = place.bytes(size_of::<usize>())?.first_chunk().copied();
                    size = word.map(usize::from_ne_bytes);
                }
                _ => return Err(Status::INVALID_VALUE),
            }
        }
        let given = size.ok_or(Status::INVALID_VALUE)?;
        match given.cmp(&block.len()) {
            // A driver would let the kernel read what happens to lie behind.
            Ordering::Less => return Err(Status::INVALID_VALUE),
            Ordering::Greater => return Err(Status::LAUNCH_OUT_OF_RESOURCES),
            Ordering::Equal => {}
        }
        block.copy_from_slice(host_in(buffer as u64).bytes(block.len())?);
        Ok(())
    }
}

impl Shape {
    /// The checks a driver makes before it starts a kernel.
    fn check(&self, arch: &Arch, function: &Function) -> Result<(), Status> {
        let within = |sizes: [u32; 3], limits: [u32; 3]| {
            sizes
                .iter()
                .zip(limits)
                .all(|(&size, limit)| (1..=limit).contains(&size))
        };
        if !within(self.grid, Arch::GRID_DIM) || !within(self.block, Arch::BLOCK_DIM) {
            return Err(Status::INVALID_VALUE);
        }
        let threads: u32 = self
            .block
            .iter()
            .fold(1, |all, &size| all.saturating_mul(size));
        if threads > Arch::THREADS_PER_BLOCK {
            return Err(Status::INVALID_VALUE);
        }
        let kernel = function.kernel();
        if kernel
            .required_threads()
            .is_some_and(|required| required != self.block)
        {
            return Err(Status::INVALID_VALUE);
        }
        if threads > function.max_threads() {
            return Err(Status::INVALID_VALUE);
        }
        let resident = occupancy::resident_blocks(arch, function, threads, self.shared);
        let blocks = self
            .grid
            .iter()
            .map(|&size| u64::from(size))
            .product::<u64>();
        if self.cooperative && blocks > resident {
            return Err(Status::COOPERATIVE_LAUNCH_TOO_LARGE);
        }
        if self.shared > function.max_dynamic_shared {
            self.explain_shared(arch, function);
            return Err(Status::INVALID_VALUE);
        }
        Ok(())
    }

    /// The commonest refusal, whose error says nothing.
    fn explain_shared(&self, arch: &Arch, function: &Function) {
        eprintln!(
            "cusim: {} asks for {} bytes of dynamic shared memory and may have {}: above that, set \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES first, to at most {}",
            function.name.to_string_lossy(),
            self.shared,
            function.max_dynamic_shared,
            arch.shared_per_block_optin
                .saturating_sub(function.kernel().static_shared()),
        );
    }

    fn attribute(&mut self, attribute: &Attribute, arch: &Arch) -> Result<(), Status> {
        match attribute.id {
            COOPERATIVE => self.cooperative |= attribute.value[0] != 0,
            CLUSTER_DIMENSION if attribute.value[..3] == [1, 1, 1] => {}
            CLUSTER_DIMENSION if !arch.has_clusters() => return Err(Status::INVALID_VALUE),
            CLUSTER_DIMENSION => {
                super::stubs::not_supported("cuLaunchKernelEx with clusters of several blocks")?;
            }
            id if WITHOUT_EFFECT.contains(&id) => {}
            _ => super::stubs::not_supported("cuLaunchKernelEx with this launch attribute")?,
        }
        Ok(())
    }
}

/// What the hardware reports for a kernel that failed like this.
fn status(kind: &FaultKind) -> Status {
    match kind {
        FaultKind::IllegalAddress => Status::ILLEGAL_ADDRESS,
        FaultKind::MisalignedAddress => Status::MISALIGNED_ADDRESS,
        FaultKind::Undefined => Status::ILLEGAL_INSTRUCTION,
        // What the hardware would not notice fails the launch all the same, so that no test passes.
        FaultKind::Uninitialized
        | FaultKind::Race
        | FaultKind::AsyncPending
        | FaultKind::Deadlock
        | FaultKind::Arithmetic
        | FaultKind::Trap => Status::LAUNCH_FAILED,
    }
}

impl State {
    fn prepare(
        &self,
        function: Handle<Function>,
        stream: Handle<Stream>,
        shape: Shape,
        arguments: Arguments,
    ) -> Result<Launch, Status> {
        let context = self.working_stream(stream)?;
        let found = self.functions.get(function)?;
        if found.context != context {
            return Err(Status::INVALID_HANDLE);
        }
        shape.check(self.arch, found)?;
        let params = arguments.pack(found)?;
        Ok(Launch {
            context,
            function,
            shape,
            params,
        })
    }

    /// Runs a kernel. One that fails is no error of this call: what follows in its context fails.
    pub(super) fn launch(&mut self, (lane, kind): Lane, launch: &Launch) -> Result<(), Status> {
        let Launch {
            context,
            function,
            shape,
            params,
        } = launch;
        // The module of a graph's node may have been unloaded.
        let function = self.functions.get(*function)?;
        let unordered = self.timeline.unordered(lane, kind);
        let module = self.modules.get(function.module)?;
        let config = LaunchConfig {
            grid: shape.grid,
            block: shape.block,
            dynamic_shared: shape.shared,
            params,
            global_addresses: &module.globals,
            arch: self.arch,
            options: &self.observations.options,
            cooperative: shape.cooperative,
            unordered: &unordered,
        };
        if let Some(recordings) = &mut self.observations.recordings {
            recordings.push(Recording::of(
                &function.program,
                function.id,
                &self.memory,
                &config,
            ));
        }
        let outcome = exec::profile(&function.program, function.id, &mut self.memory, &config);
        self.timeline.began(lane, self.memory.operation());
        let name = function.name.to_string_lossy().into_owned();
        match outcome {
            Ok(profile) => {
                let seen = &mut self.observations;
                if seen.options.profile {
                    let (program, kernel) = (&function.program, function.kernel());
                    let launched =
                        KernelProfile::new(program, kernel, shape.grid, shape.block, &profile);
                    profile::collect(&mut seen.profiles, launched);
                }
                let launched = (shape.grid, shape.block, shape.shared);
                seen.launched(&name, launched, &profile.counters);
            }
            Err(fault) => {
                let status = status(&fault.kind);
                self.contexts.get_mut(*context)?.failed = Some(status);
                self.observations.failed(status, &fault);
            }
        }
        Ok(())
    }
}

fn run(
    call: &'static str,
    function: Handle<Function>,
    stream: Handle<Stream>,
    shape: Shape,
    arguments: Arguments,
) -> Result<(), Status> {
    let mut state = lock()?;
    state.working_stream(stream)?;
    let function = state.function(function)?;
    let launch = state.prepare(function, stream, shape, arguments)?;
    drop(state);
    submit(call, Order::In(stream), Work::Launch(Arc::new(launch)))
}

driver_api! {
    fn cuLaunchKernel(
        function: Handle<Function>,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: Handle<Stream>,
        each: In<HostIn>,
        extra: In<usize>,
    ) {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
            cooperative: false,
        };
        run("cuLaunchKernel", function, stream, shape, Arguments { each, extra })
    }

    fn cuLaunchKernelEx(
        config: In<ExtendedConfig>,
        function: Handle<Function>,
        each: In<HostIn>,
        extra: In<usize>,
    ) {
        let config = config.get()?;
        let mut shape = Shape {
            grid: config.grid,
            block: config.block,
            shared: config.shared,
            cooperative: false,
        };
        let arch = lock()?.arch;
        for index in 0..config.count as usize {
            shape.attribute(&config.attributes.at(index)?, arch)?;
        }
        run("cuLaunchKernelEx", function, config.stream, shape, Arguments { each, extra })
    }

    fn cuLaunchCooperativeKernel(
        function: Handle<Function>,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: Handle<Stream>,
        each: In<HostIn>,
    ) {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
            cooperative: true,
        };
        run("cuLaunchCooperativeKernel", function, stream, shape, Arguments { each, extra: In::NULL })
    }
}
