//! Libraries: modules that are loaded into each context where one of their kernels is used.

use std::collections::HashMap;
use std::sync::Arc;

use super::abi::{HostIn, In, InStr, Out, driver_api};
use super::context::Context;
use super::function::Function;
use super::handle::{Handle, Object};
use super::module::{self, Module};
use super::state::{State, lock};
use super::status::Status;
use crate::program::Program;

/// A library.
pub(crate) struct Library {
    program: Arc<Program>,
    /// Its module in every context that has used it.
    pub(super) modules: HashMap<Handle<Context>, Handle<Module>>,
    kernels: HashMap<String, Handle<LibraryKernel>>,
}

impl Object for Library {
    const TAG: u64 = 6;
    const WRONG: Status = Status::INVALID_HANDLE;
}

/// A kernel of a library, in no context yet.
pub(crate) struct LibraryKernel {
    library: Handle<Library>,
    name: String,
}

impl Object for LibraryKernel {
    const TAG: u64 = 7;
    const WRONG: Status = Status::INVALID_HANDLE;
}

impl State {
    fn load_library(&mut self, program: Program) -> Handle<Library> {
        self.libraries.insert(Library {
            program: Arc::new(program),
            modules: HashMap::new(),
            kernels: HashMap::new(),
        })
    }

    /// The module of a library in the current context.
    fn library_module(&mut self, library: Handle<Library>) -> Result<Handle<Module>, Status> {
        let context = self.current()?;
        let found = self.libraries.get(library)?;
        if let Some(&module) = found.modules.get(&context) {
            return Ok(module);
        }
        let program = found.program.clone();
        let module = self.insert_module(context, program)?;
        self.libraries
            .get_mut(library)?
            .modules
            .insert(context, module);
        Ok(module)
    }

    /// The function of a library's kernel in the current context.
    pub(super) fn kernel_function(
        &mut self,
        kernel: Handle<LibraryKernel>,
    ) -> Result<Handle<Function>, Status> {
        let found = self.library_kernels.get(kernel)?;
        let (library, name) = (found.library, found.name.clone());
        let module = self.library_module(library)?;
        self.module_function(module, &name)
    }
}

driver_api! {
    fn cuLibraryLoadData(
        out: Out<Handle<Library>>,
        image: HostIn,
        jit_options: In<u32>,
        jit_values: In<usize>,
        jit_count: u32,
        _options: In<u32>,
        _values: In<usize>,
        _count: u32,
    ) {
        let out = out.required()?;
        let mut state = lock()?;
        let program = module::compile(state.arch, image, module::Log::from(jit_count, jit_options, jit_values)?)?;
        out.set(state.load_library(program))
    }

    fn cuLibraryLoadFromFile(
        out: Out<Handle<Library>>,
        path: InStr,
        jit_options: In<u32>,
        jit_values: In<usize>,
        jit_count: u32,
        _options: In<u32>,
        _values: In<usize>,
        _count: u32,
    ) {
        let out = out.required()?;
        let image = std::fs::read(path.get()?).map_err(|_| Status::FILE_NOT_FOUND)?;
        let mut state = lock()?;
        let log = module::Log::from(jit_count, jit_options, jit_values)?;
        let program = module::compile_bytes(state.arch, &image, log)?;
        out.set(state.load_library(program))
    }

    fn cuLibraryUnload(library: Handle<Library>) {
        let mut state = lock()?;
        let removed = state.libraries.remove(library)?;
        state.library_kernels.retain(|kernel| kernel.library != library);
        for module in removed.modules.into_values() {
            state.remove_module(module)?;
        }
        Ok(())
    }

    fn cuLibraryGetKernel(out: Out<Handle<LibraryKernel>>, library: Handle<Library>, name: InStr) {
        let (out, name) = (out.required()?, name.get()?);
        let mut state = lock()?;
        let found = state.libraries.get(library)?;
        if let Some(&kernel) = found.kernels.get(name) {
            return out.set(kernel);
        }
        found.program.kernel(name).ok_or(Status::NOT_FOUND)?;
        let name = name.to_owned();
        let kernel = state.library_kernels.insert(LibraryKernel { library, name: name.clone() });
        state.libraries.get_mut(library)?.kernels.insert(name, kernel);
        out.set(kernel)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle<Library>) {
        let state = lock()?;
        count.set(state.libraries.get(library)?.program.kernels().count() as u32)
    }

    fn cuLibraryGetModule(out: Out<Handle<Module>>, library: Handle<Library>) {
        let module = lock()?.library_module(library)?;
        out.set(module)
    }

    fn cuLibraryGetGlobal(
        address: Out<u64>,
        bytes: Out<usize>,
        library: Handle<Library>,
        name: InStr,
    ) {
        let name = name.get()?;
        let mut state = lock()?;
        let module = state.library_module(library)?;
        let found = state.global(module, name)?;
        address.set_if_wanted(found.0);
        bytes.set_if_wanted(found.1);
        Ok(())
    }

    fn cuKernelGetFunction(out: Out<Handle<Function>>, kernel: Handle<LibraryKernel>) {
        let function = lock()?.kernel_function(kernel)?;
        out.set(function)
    }

    fn cuKernelGetLibrary(out: Out<Handle<Library>>, kernel: Handle<LibraryKernel>) {
        let state = lock()?;
        out.set(state.library_kernels.get(kernel)?.library)
    }
}
