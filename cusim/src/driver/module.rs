//! Modules: PTX made executable, with its variables in device memory.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt::Display;
use std::sync::Arc;

use super::abi::{HostIn, HostOut, In, InStr, Out, driver_api, host_in, host_out};
use super::context::Context;
use super::function::Function;
use super::handle::{Handle, Object};
use super::state::{State, lock};
use super::status::Status;
use crate::arch::Arch;
use crate::image::{ImageError, image_len, ptx_from_image};
use crate::program::{GlobalVar, Program};
use crate::ptx;

/// A module.
pub(crate) struct Module {
    pub(super) context: Handle<Context>,
    program: Arc<Program>,
    /// Addresses of the program's variables, in its order.
    pub(super) globals: Vec<u64>,
    functions: HashMap<String, Handle<Function>>,
}

impl Object for Module {
    const TAG: u64 = 8;
    const WRONG: Status = Status::INVALID_HANDLE;
}

/// Where the caller wants the compiler's complaints, besides stderr.
pub(super) struct Log {
    buffer: u64,
    room: usize,
}

/// `CU_JIT_ERROR_LOG_BUFFER` and the size of that buffer, among the options of a load.
const ERROR_LOG_BUFFER: u32 = 5;
const ERROR_LOG_BUFFER_BYTES: u32 = 6;

impl Log {
    pub(super) fn from(count: u32, options: In<u32>, values: In<usize>) -> Result<Self, Status> {
        let mut log = Log { buffer: 0, room: 0 };
        for index in 0..count as usize {
            match options.at(index)? {
                ERROR_LOG_BUFFER => log.buffer = values.at(index)? as u64,
                // Values of 32 bits are passed in the place of a pointer.
                ERROR_LOG_BUFFER_BYTES => log.room = values.at(index)? as u32 as usize,
                // All others choose how to compile, and nothing is compiled.
                _ => {}
            }
        }
        Ok(log)
    }

    fn none() -> Self {
        Log { buffer: 0, room: 0 }
    }

    /// Says why a module was refused.
    fn refuse(&self, status: Status, reason: &dyn Display) -> Status {
        let sentence = format!("module not loaded ({}): {reason}", status.name());
        eprintln!("cusim: {sentence}");
        if self.buffer != 0 && self.room != 0 {
            let kept = sentence.len().min(self.room - 1);
            let buffer: HostOut = host_out(self.buffer);
            if let Ok(buffer) = buffer.bytes(kept + 1) {
                buffer[..kept].copy_from_slice(&sentence.as_bytes()[..kept]);
                buffer[kept] = 0;
            }
        }
        status
    }
}

/// First word of the structure that host code keeps around a fat binary: magic, version, address of
/// the fat binary, name of a file.
const WRAPPER: [u8; 4] = 0x4662_43b1_u32.to_le_bytes();
const FAT_BINARY: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();

/// The image at an address that comes without a length.
fn delimit<'a>(image: HostIn, log: &Log) -> Result<&'a [u8], Status> {
    if image.starts_with(&WRAPPER)? {
        let inner = image.bytes(16)?.last_chunk::<8>().copied();
        let inner = inner.map(u64::from_le_bytes).unwrap_or_default();
        let inner = host_in(inner);
        return if inner.starts_with(&FAT_BINARY)? {
            delimit(inner, log)
        } else {
            Err(log.refuse(Status::INVALID_IMAGE, &"the wrapper holds no fat binary"))
        };
    }
    if !image.starts_with(&FAT_BINARY)? {
        return image.until_nul();
    }
    let start = image
        .bytes(16)?
        .first_chunk()
        .ok_or(Status::INVALID_IMAGE)?;
    match image_len(start) {
        Ok(Some(len)) => image.bytes(len),
        Ok(None) => image.until_nul(),
        Err(error) => Err(log.refuse(Status::INVALID_IMAGE, &error)),
    }
}

/// The program in an image at an address.
pub(super) fn compile(arch: &Arch, image: HostIn, log: Log) -> Result<Program, Status> {
    compile_image(arch, delimit(image, &log)?, &log)
}

/// The program in an image from a file.
pub(super) fn compile_bytes(arch: &Arch, image: &[u8], log: Log) -> Result<Program, Status> {
    compile_image(arch, image, &log)
}

fn compile_image(arch: &Arch, image: &[u8], log: &Log) -> Result<Program, Status> {
    let text = ptx_from_image(image, arch.sm).map_err(|error| {
        let status = match error {
            ImageError::NoPtx(_) | ImageError::TooNew { .. } => Status::NO_BINARY_FOR_GPU,
            _ => Status::INVALID_IMAGE,
        };
        log.refuse(status, &error)
    })?;
    if !ptx::begins(&text) {
        let reason = "the image is neither PTX, which begins with .version, nor a fat binary";
        return Err(log.refuse(Status::INVALID_IMAGE, &reason));
    }
    let module = ptx::parse(&text).map_err(|error| log.refuse(Status::INVALID_PTX, &error))?;
    check_target(arch, &module.target)
        .map_err(|reason| log.refuse(Status::INVALID_PTX, &reason))?;
    let program = Program::load(&module);
    let program = program.map_err(|error| log.refuse(Status::INVALID_PTX, &error))?;
    let program = program.with_text(text.as_ref().into());
    check_shared(&program).map_err(|reason| log.refuse(Status::INVALID_PTX, &reason))?;
    Ok(program)
}

/// More shared memory than this can be had dynamically only.
fn check_shared(program: &Program) -> Result<(), String> {
    let limit = Arch::SHARED_PER_BLOCK;
    match program
        .kernels()
        .find(|kernel| kernel.static_shared() > limit)
    {
        Some(kernel) => Err(format!(
            "{} declares {} bytes of shared memory; static shared memory is limited to {limit}",
            kernel.name(),
            kernel.static_shared(),
        )),
        None => Ok(()),
    }
}

/// PTX runs on its target and what came after it; with `a` or `f` behind it, only on its own kind.
fn check_target(arch: &Arch, target: &str) -> Result<(), String> {
    let digits = target.trim_start_matches("sm_");
    let number = digits.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let Ok(wanted) = number.parse::<u32>() else {
        return Err(format!("unknown target {target}"));
    };
    let fits = match &digits[number.len()..] {
        "" => wanted <= arch.sm,
        "f" => wanted <= arch.sm && wanted / 10 == arch.sm / 10,
        _ => wanted == arch.sm,
    };
    if fits {
        Ok(())
    } else {
        Err(format!(
            "the PTX is for {target}, and the device is sm_{} (CUSIM_ARCH chooses another)",
            arch.sm
        ))
    }
}

impl State {
    /// Loads a program into a context.
    pub(super) fn insert_module(
        &mut self,
        context: Handle<Context>,
        program: Arc<Program>,
    ) -> Result<Handle<Module>, Status> {
        let globals = self.place_globals(context, &program)?;
        Ok(self.modules.insert(Module {
            context,
            program,
            globals,
            functions: HashMap::new(),
        }))
    }

    /// Allocates and fills the variables of a program.
    fn place_globals(
        &mut self,
        context: Handle<Context>,
        program: &Program,
    ) -> Result<Vec<u64>, Status> {
        let device = self.device_of(context)?;
        // An operation of its own, which is over before whatever follows begins.
        self.memory.begin("a module load", Vec::new());
        let mut addresses = Vec::new();
        for global in program.globals() {
            let origin = format!("variable {}", global.name);
            let placed = self.memory.alloc_on(device, global.size.max(1), &origin);
            match placed {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    self.free_globals(&addresses);
                    return Err(State::explain("cuModuleLoadData", &error));
                }
            }
        }
        for (global, &address) in program.globals().iter().zip(&addresses) {
            if global.size == 0 {
                continue;
            }
            let bytes = initial_contents(global, &addresses);
            if let Err(error) = self.memory.write(address, &bytes) {
                self.free_globals(&addresses);
                return Err(State::explain("cuModuleLoadData", &error));
            }
        }
        Ok(addresses)
    }

    pub(super) fn free_globals(&mut self, addresses: &[u64]) {
        for &address in addresses {
            // These are live: nobody else can free them.
            let _ = self.memory.free(address);
        }
    }

    pub(super) fn remove_module(&mut self, handle: Handle<Module>) -> Result<(), Status> {
        let module = self.modules.remove(handle)?;
        self.functions.retain(|function| function.module != handle);
        self.free_globals(&module.globals);
        Ok(())
    }

    pub(super) fn module_function(
        &mut self,
        handle: Handle<Module>,
        name: &str,
    ) -> Result<Handle<Function>, Status> {
        let module = self.modules.get_mut(handle)?;
        if let Some(&function) = module.functions.get(name) {
            return Ok(function);
        }
        let id = module.program.kernel(name).ok_or(Status::NOT_FOUND)?;
        let c_name = CString::new(name).map_err(|_| Status::NOT_FOUND)?;
        let function = Function::new(module.context, handle, &module.program, id, c_name);
        let function = self.functions.insert(function);
        module.functions.insert(name.to_owned(), function);
        Ok(function)
    }

    /// Address and size of a variable.
    pub(super) fn global(
        &self,
        handle: Handle<Module>,
        name: &str,
    ) -> Result<(u64, usize), Status> {
        let module = self.modules.get(handle)?;
        let variables = module.program.globals().iter().zip(&module.globals);
        variables
            .filter(|(variable, _)| *variable.name == *name)
            .map(|(variable, &address)| (address, variable.size as usize))
            .next()
            .ok_or(Status::NOT_FOUND)
    }
}

/// The bytes a variable starts with, addresses of other variables filled in.
fn initial_contents(variable: &GlobalVar, addresses: &[u64]) -> Vec<u8> {
    let mut bytes = variable.bytes.clone();
    for &(offset, target, addend) in &variable.relocations {
        let start = offset as usize;
        let place = bytes.get_mut(start..start + size_of::<u64>());
        if let (Some(place), Some(address)) = (place, addresses.get(target)) {
            place.copy_from_slice(&address.wrapping_add_signed(addend).to_le_bytes());
        }
    }
    bytes
}

fn load(out: Out<Handle<Module>>, image: HostIn, log: Log) -> Result<(), Status> {
    let out = out.required()?;
    let mut state = lock()?;
    let context = state.healthy()?;
    let program = compile(state.arch, image, log)?;
    let module = state.insert_module(context, Arc::new(program))?;
    out.set(module)
}

driver_api! {
    fn cuModuleLoadData(out: Out<Handle<Module>>, image: HostIn) {
        load(out, image, Log::none())
    }

    fn cuModuleLoadDataEx(
        out: Out<Handle<Module>>,
        image: HostIn,
        count: u32,
        options: In<u32>,
        values: In<usize>,
    ) {
        load(out, image, Log::from(count, options, values)?)
    }

    fn cuModuleLoadFatBinary(out: Out<Handle<Module>>, image: HostIn) {
        load(out, image, Log::none())
    }

    fn cuModuleLoad(out: Out<Handle<Module>>, path: InStr) {
        let out = out.required()?;
        let image = std::fs::read(path.get()?).map_err(|_| Status::FILE_NOT_FOUND)?;
        let mut state = lock()?;
        let context = state.healthy()?;
        let program = compile_bytes(state.arch, &image, Log::none())?;
        let module = state.insert_module(context, Arc::new(program))?;
        out.set(module)
    }

    fn cuModuleUnload(module: Handle<Module>) {
        lock()?.remove_module(module)
    }

    fn cuModuleGetFunction(out: Out<Handle<Function>>, module: Handle<Module>, name: InStr) {
        let (out, name) = (out.required()?, name.get()?);
        let function = lock()?.module_function(module, name)?;
        out.set(function)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle<Module>) {
        let state = lock()?;
        count.set(state.modules.get(module)?.program.kernels().count() as u32)
    }

    fn cuModuleGetGlobal_v2(
        address: Out<u64>,
        bytes: Out<usize>,
        module: Handle<Module>,
        name: InStr,
    ) {
        let found = lock()?.global(module, name.get()?)?;
        address.set_if_wanted(found.0);
        bytes.set_if_wanted(found.1);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        // Eager: a module is decoded when it is loaded.
        mode.set(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_runs_on_its_target_and_later_ones() {
        let on = |sm, target| check_target(Arch::of(sm).expect("a model"), target).is_ok();
        assert!(on(80, "sm_80") && on(90, "sm_80") && on(120, "sm_52"));
        assert!(!on(80, "sm_90"));
        assert!(on(90, "sm_90a") && !on(100, "sm_90a"));
        assert!(on(100, "sm_100f") && !on(120, "sm_100f"));
        assert!(!on(80, "compute"));
    }
}
