//! Functions: the kernels of a module, and their attributes.

use std::ffi::{CString, c_char};
use std::sync::Arc;

use super::abi::{Out, driver_api};
use super::context::Context;
use super::handle::{Handle, Object};
use super::library::LibraryKernel;
use super::module::Module;
use super::state::{State, lock};
use super::status::Status;
use crate::arch::Arch;
use crate::program::{Kernel, KernelId, Program};

/// A kernel of a loaded module.
pub(crate) struct Function {
    pub(super) context: Handle<Context>,
    pub(super) module: Handle<Module>,
    pub(super) program: Arc<Program>,
    pub(super) id: KernelId,
    pub(super) name: CString,
    /// The most dynamic shared memory a launch may ask for.
    pub(super) max_dynamic_shared: u32,
    carveout: i32,
    /// Whether clusters of more than eight blocks are allowed.
    non_portable_cluster: bool,
}

impl Object for Function {
    const TAG: u64 = 5;
    const WRONG: Status = Status::INVALID_HANDLE;
}

/// The attributes that can be set, and the others this driver answers (`CUfunction_attribute`).
mod attribute {
    pub(super) const MAX_THREADS_PER_BLOCK: u32 = 0;
    pub(super) const SHARED_BYTES: u32 = 1;
    pub(super) const CONST_BYTES: u32 = 2;
    pub(super) const LOCAL_BYTES: u32 = 3;
    pub(super) const REGISTERS: u32 = 4;
    pub(super) const PTX_VERSION: u32 = 5;
    pub(super) const BINARY_VERSION: u32 = 6;
    pub(super) const CACHE_MODE_CA: u32 = 7;
    pub(super) const MAX_DYNAMIC_SHARED: u32 = 8;
    pub(super) const CARVEOUT: u32 = 9;
    pub(super) const CLUSTER_REQUIRED: u32 = 10;
    pub(super) const CLUSTER_X: u32 = 11;
    pub(super) const CLUSTER_Z: u32 = 13;
    pub(super) const NON_PORTABLE_CLUSTER: u32 = 14;
    pub(super) const CLUSTER_POLICY: u32 = 15;
}

impl Function {
    pub(super) fn new(
        context: Handle<Context>,
        module: Handle<Module>,
        program: &Arc<Program>,
        id: KernelId,
        name: CString,
    ) -> Self {
        let kernel = program.get(id);
        Self {
            context,
            module,
            program: program.clone(),
            id,
            name,
            max_dynamic_shared: Arch::SHARED_PER_BLOCK.saturating_sub(kernel.static_shared()),
            carveout: -1,
            non_portable_cluster: false,
        }
    }

    pub(super) fn kernel(&self) -> &Kernel {
        self.program.get(self.id)
    }

    fn attribute(&self, arch: &Arch, attribute: u32) -> Result<i32, Status> {
        use attribute::*;
        let kernel = self.kernel();
        let value = match attribute {
            MAX_THREADS_PER_BLOCK => self.max_threads(),
            SHARED_BYTES => kernel.static_shared(),
            // Registers are chosen by ptxas; what programs do with the number is to divide by it.
            REGISTERS => 32,
            LOCAL_BYTES => kernel.local_bytes(),
            PTX_VERSION | BINARY_VERSION => arch.sm,
            MAX_DYNAMIC_SHARED => self.max_dynamic_shared,
            CARVEOUT => return Ok(self.carveout),
            NON_PORTABLE_CLUSTER => u32::from(self.non_portable_cluster),
            CONST_BYTES | CACHE_MODE_CA | CLUSTER_REQUIRED | CLUSTER_POLICY => 0,
            CLUSTER_X..=CLUSTER_Z => 0,
            _ => return Err(Status::INVALID_VALUE),
        };
        Ok(i32::try_from(value).unwrap_or(i32::MAX))
    }

    /// The most threads a block may have: the device's limit, or what the kernel was compiled for.
    pub(super) fn max_threads(&self) -> u32 {
        let kernel = self.kernel();
        kernel
            .required_threads()
            .or(kernel.max_threads())
            .map_or(Arch::THREADS_PER_BLOCK, |[x, y, z]| {
                x.saturating_mul(y).saturating_mul(z)
            })
    }

    fn set_attribute(&mut self, arch: &Arch, attribute: u32, value: i32) -> Result<(), Status> {
        match attribute {
            attribute::MAX_DYNAMIC_SHARED => {
                let value = u32::try_from(value).map_err(|_| Status::INVALID_VALUE)?;
                let room = arch
                    .shared_per_block_optin
                    .checked_sub(self.kernel().static_shared());
                if room.is_none_or(|room| value > room) {
                    return Err(Status::INVALID_VALUE);
                }
                self.max_dynamic_shared = value;
            }
            attribute::CARVEOUT if (-1..=100).contains(&value) => self.carveout = value,
            attribute::NON_PORTABLE_CLUSTER if arch.has_clusters() => {
                self.non_portable_cluster = value != 0;
            }
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }
}

impl State {
    /// The function behind a handle, which may be that of a library's kernel.
    pub(super) fn function(
        &mut self,
        handle: Handle<Function>,
    ) -> Result<Handle<Function>, Status> {
        if self.functions.contains(handle) {
            Ok(handle)
        } else {
            self.kernel_function(handle.cast())
        }
    }
}

/// Where the parameter is that `index` names: offset and size.
fn parameter(function: &Function, index: usize) -> Result<(usize, usize), Status> {
    let parameter = function.kernel().params().get(index);
    parameter
        .map(|parameter| (parameter.offset as usize, parameter.size as usize))
        .ok_or(Status::INVALID_VALUE)
}

/// Runs `work` on a function or a library's kernel, with the model of the device.
fn with<R>(
    handle: Handle<Function>,
    work: impl FnOnce(&mut Function, &Arch) -> Result<R, Status>,
) -> Result<R, Status> {
    let mut state = lock()?;
    let handle = state.function(handle)?;
    let arch = state.arch;
    work(state.functions.get_mut(handle)?, arch)
}

driver_api! {
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle<Function>) {
        value.set(with(function, |function, arch| function.attribute(arch, attribute))?)
    }

    fn cuFuncSetAttribute(function: Handle<Function>, attribute: u32, value: i32) {
        with(function, |function, arch| function.set_attribute(arch, attribute, value))
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, kernel: Handle<LibraryKernel>, device: i32) {
        lock()?.check_device(device)?;
        value.set(with(kernel.cast(), |function, arch| function.attribute(arch, attribute))?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: Handle<LibraryKernel>, device: i32) {
        lock()?.check_device(device)?;
        with(kernel.cast(), |function, arch| function.set_attribute(arch, attribute, value))
    }

    fn cuFuncSetCacheConfig(function: Handle<Function>, config: u32) {
        with(function, |_, _| if config > 3 { Err(Status::INVALID_VALUE) } else { Ok(()) })
    }

    fn cuKernelSetCacheConfig(kernel: Handle<LibraryKernel>, config: u32, device: i32) {
        lock()?.check_device(device)?;
        with(kernel.cast(), |_, _| if config > 3 { Err(Status::INVALID_VALUE) } else { Ok(()) })
    }

    fn cuFuncSetSharedMemConfig(function: Handle<Function>, config: u32) {
        with(function, |_, _| if config > 2 { Err(Status::INVALID_VALUE) } else { Ok(()) })
    }

    fn cuFuncGetModule(out: Out<Handle<Module>>, function: Handle<Function>) {
        out.set(with(function, |function, _| Ok(function.module))?)
    }

    fn cuFuncGetName(out: Out<*const c_char>, function: Handle<Function>) {
        // Lives until the module is unloaded, as the interface has it.
        out.set(with(function, |function, _| Ok(function.name.as_ptr()))?)
    }

    fn cuFuncGetParamCount(function: Handle<Function>, count: Out<usize>) {
        count.set(with(function, |function, _| Ok(function.kernel().params().len()))?)
    }

    fn cuFuncGetParamInfo(
        function: Handle<Function>,
        index: usize,
        offset: Out<usize>,
        size: Out<usize>,
    ) {
        let found = with(function, |function, _| parameter(function, index))?;
        size.set_if_wanted(found.1);
        offset.set(found.0)
    }

    fn cuKernelGetParamInfo(
        kernel: Handle<LibraryKernel>,
        index: usize,
        offset: Out<usize>,
        size: Out<usize>,
    ) {
        let found = with(kernel.cast(), |function, _| parameter(function, index))?;
        size.set_if_wanted(found.1);
        offset.set(found.0)
    }

    fn cuKernelGetParamCount(kernel: Handle<LibraryKernel>, count: Out<usize>) {
        count.set(with(kernel.cast(), |function, _| Ok(function.kernel().params().len()))?)
    }

    fn cuKernelGetName(out: Out<*const c_char>, kernel: Handle<LibraryKernel>) {
        out.set(with(kernel.cast(), |function, _| Ok(function.name.as_ptr()))?)
    }

    fn cuFuncIsLoaded(loaded: Out<u32>, function: Handle<Function>) {
        with(function, |_, _| Ok(()))?;
        loaded.set(1)
    }

    fn cuFuncLoad(function: Handle<Function>) {
        with(function, |_, _| Ok(()))
    }
}
