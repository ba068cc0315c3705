//! Which device a program runs on: a GPU with NVIDIA's driver, or this emulator.
//!
//! Programs ask the loader for `libcuda.so`. The emulator's library has that as its SONAME, so once it
//! has been opened, by whatever file name, it is what the loader answers with. Hence the choice must be
//! made before the first CUDA call of the process.

#![allow(unsafe_code)] // opening libraries and calling their functions

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use thiserror::Error;

use crate::client;

/// What to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// A GPU if there is one, else the emulator.
    #[default]
    Auto,
    /// A GPU; without one it is an error.
    Gpu,
    /// The emulator, whether there is a GPU or not.
    Cusim,
}

impl std::str::FromStr for Choice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "" | "auto" => Ok(Choice::Auto),
            "gpu" => Ok(Choice::Gpu),
            "cusim" => Ok(Choice::Cusim),
            _ => Err(()),
        }
    }
}

/// The device this process runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A GPU.
    Gpu {
        /// Its name.
        name: String,
    },
    /// The emulator.
    Cusim {
        /// Compute capability it models, as one number.
        sm: u32,
        /// Seed of its schedule.
        seed: u64,
    },
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Gpu { name } => write!(f, "GPU: {name}"),
            Device::Cusim { sm, seed } => {
                write!(
                    f,
                    "cusim: emulated sm_{sm} on the CPU, no GPU (seed {seed})"
                )
            }
        }
    }
}

/// Why there is no device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectError {
    /// The environment variable has another value.
    #[error("{variable}={value} is none of auto, gpu, cusim")]
    BadChoice {
        /// Its name.
        variable: String,
        /// Its value.
        value: String,
    },
    /// A GPU was asked for.
    #[error("no GPU: {reason}")]
    NoGpu {
        /// What was tried, and what came of it.
        reason: String,
    },
    /// The emulator's library is nowhere.
    #[error("the emulator's library was not found; looked for {}", list(.looked))]
    LibraryNotFound {
        /// Where.
        looked: Vec<PathBuf>,
    },
    /// A library has the emulator's name and is not this version of it.
    #[error("{} is not cusim {}: {reason}", .path.display(), env!("CARGO_PKG_VERSION"))]
    WrongLibrary {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The process runs on another device already.
    #[error("{asked:?} was asked for, and the process runs on {device} already")]
    AlreadySelected {
        /// What was asked for.
        asked: Choice,
        /// The device.
        device: Device,
    },
    /// A driver was loaded before the choice was made.
    #[error("{asked:?} was asked for, and `libcuda.so` is loaded already and is {loaded}")]
    DriverLoaded {
        /// What was asked for.
        asked: Choice,
        /// Which driver it is.
        loaded: &'static str,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}

/// The device that was selected.
static SELECTED: Mutex<Option<Device>> = Mutex::new(None);

/// The emulator's library, once it is open. It stays open: the loader must keep answering with it.
static CUSIM: OnceLock<Library> = OnceLock::new();

/// The name programs open a driver by, and the one NVIDIA's has.
const DRIVER: &str = "libcuda.so";
const NVIDIA_DRIVER: &str = "libcuda.so.1";

/// Where the emulator's library is, instead of where it is looked for.
const LIBRARY_VARIABLE: &str = "CUSIM_LIBRARY";
const LIBRARY: &str = "libcusim.so";

impl Device {
    /// Selects what the environment variable `variable` says: `auto` (also when it is not set), `gpu`
    /// or `cusim`.
    ///
    /// # Errors
    /// [`SelectError::BadChoice`], and those of [`Device::select`].
    pub fn from_env(variable: &str) -> Result<Device, SelectError> {
        let value = std::env::var_os(variable).unwrap_or_default();
        let value = value.to_string_lossy();
        let choice = value.parse().map_err(|()| SelectError::BadChoice {
            variable: variable.to_owned(),
            value: value.clone().into_owned(),
        })?;
        Device::select(choice)
    }

    /// Selects the device of this process, before its first CUDA call. Calling it again is fine, from any
    /// thread, as long as the answer is the same.
    ///
    /// # Errors
    /// [`SelectError`] when there is no such device, or another has been selected.
    pub fn select(choice: Choice) -> Result<Device, SelectError> {
        let mut selected = SELECTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = &*selected {
            return device.confirm(choice);
        }
        let device = match choice {
            Choice::Gpu => select_gpu()?,
            Choice::Cusim => select_cusim()?,
            // A program started with the emulator as its driver is meant to run on it.
            Choice::Auto if loaded_driver() == Some(Driver::Cusim) => select_cusim()?,
            Choice::Auto => select_gpu().or_else(|_| select_cusim())?,
        };
        *selected = Some(device.clone());
        Ok(device)
    }

    /// Whether this is the emulator.
    pub fn is_emulated(&self) -> bool {
        matches!(self, Device::Cusim { .. })
    }

    fn confirm(&self, asked: Choice) -> Result<Device, SelectError> {
        let fits = match asked {
            Choice::Auto => true,
            Choice::Gpu => !self.is_emulated(),
            Choice::Cusim => self.is_emulated(),
        };
        if fits {
            Ok(self.clone())
        } else {
            let device = self.clone();
            Err(SelectError::AlreadySelected { asked, device })
        }
    }
}

/// A kind of driver library.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Cusim,
    Other,
}

impl Driver {
    fn of(library: &Library) -> Self {
        if client::version(library).is_some() {
            Driver::Cusim
        } else {
            Driver::Other
        }
    }
}

/// What answers for `libcuda.so` in this process, if anything does yet.
fn loaded_driver() -> Option<Driver> {
    /// `RTLD_NOLOAD` of Linux: only what is open already.
    const NO_LOAD: c_int = 4;
    // SAFETY: nothing is loaded, so no initialiser runs; the handle only keeps open what was.
    let library = unsafe { Library::open(Some(DRIVER), RTLD_LAZY | RTLD_LOCAL | NO_LOAD) };
    Some(Driver::of(&library.ok()?))
}

fn open(path: &Path) -> Result<Library, libloading::Error> {
    // SAFETY: drivers, NVIDIA's and this one, have initialisers that ask nothing of the process.
    unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_LOCAL) }
}

fn select_gpu() -> Result<Device, SelectError> {
    if loaded_driver() == Some(Driver::Cusim) {
        return Err(SelectError::DriverLoaded {
            asked: Choice::Gpu,
            loaded: "the emulator",
        });
    }
    let no_gpu = |reason| SelectError::NoGpu { reason };
    let library = open(Path::new(NVIDIA_DRIVER))
        .map_err(|error| no_gpu(format!("{NVIDIA_DRIVER} cannot be opened ({error})")))?;
    if Driver::of(&library) == Driver::Cusim {
        return Err(no_gpu(format!("{NVIDIA_DRIVER} is the emulator")));
    }
    let name =
        first_gpu(&library).map_err(|reason| no_gpu(format!("{NVIDIA_DRIVER}: {reason}")))?;
    // The driver has been initialised: it must not be unloaded.
    std::mem::forget(library);
    Ok(Device::Gpu { name })
}

/// The name of the first device a driver reports.
fn first_gpu(driver: &Library) -> Result<String, String> {
    type Init = unsafe extern "C" fn(u32) -> u32;
    type Count = unsafe extern "C" fn(*mut c_int) -> u32;
    type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> u32;
    // SAFETY: the CUDA driver API gives these functions these types.
    let (init, count, name) = unsafe {
        (
            driver.get::<Init>(b"cuInit\0"),
            driver.get::<Count>(b"cuDeviceGetCount\0"),
            driver.get::<Name>(b"cuDeviceGetName\0"),
        )
    };
    let (Ok(init), Ok(count), Ok(name)) = (init, count, name) else {
        return Err("it has no cuInit, cuDeviceGetCount or cuDeviceGetName".to_owned());
    };
    let check = |call: &str, result: u32| match result {
        0 => Ok(()),
        code => Err(format!("{call} returned {code}")),
    };
    // SAFETY: `cuInit` may be called at any time, from any thread, any number of times.
    check("cuInit", unsafe { init(0) })?;
    let mut devices = 0;
    // SAFETY: the place for the result is valid.
    check("cuDeviceGetCount", unsafe { count(&mut devices) })?;
    if devices < 1 {
        return Err("it reports no device".to_owned());
    }
    let mut text = [0 as c_char; 256];
    // SAFETY: the room is as large as is said, and the last byte stays NUL.
    check("cuDeviceGetName", unsafe {
        name(text.as_mut_ptr(), 255, 0)
    })?;
    // SAFETY: the text is NUL-terminated, at the latest by its last byte.
    let name = unsafe { CStr::from_ptr(text.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}

fn select_cusim() -> Result<Device, SelectError> {
    let library = match CUSIM.get() {
        Some(library) => library,
        None => {
            let (path, library) = find_cusim()?;
            let wrong = |reason| SelectError::WrongLibrary {
                path: path.clone(),
                reason,
            };
            match client::version(&library) {
                Some(client::VERSION) => {}
                Some(version) => {
                    let expected = client::VERSION;
                    return Err(wrong(format!("its interface is {version}, not {expected}")));
                }
                None => return Err(wrong("it is another library".to_owned())),
            }
            CUSIM.get_or_init(|| library)
        }
    };
    if loaded_driver() != Some(Driver::Cusim) {
        return Err(SelectError::DriverLoaded {
            asked: Choice::Cusim,
            loaded: "another driver",
        });
    }
    let (sm, seed) = client::describe(library);
    Ok(Device::Cusim { sm, seed })
}

/// Opens the emulator's library.
fn find_cusim() -> Result<(PathBuf, Library), SelectError> {
    if loaded_driver() == Some(Driver::Cusim)
        && let Ok(library) = open(Path::new(DRIVER))
    {
        return Ok((DRIVER.into(), library));
    }
    let looked = match std::env::var_os(LIBRARY_VARIABLE) {
        Some(path) => vec![PathBuf::from(path)],
        None => candidates(),
    };
    for path in &looked {
        if let Ok(library) = open(path) {
            return Ok((path.clone(), library));
        }
    }
    Err(SelectError::LibraryNotFound { looked })
}

/// On the loader's path, where cargo puts it for what it runs; and near the executable, where cargo leaves
/// it for what is started by hand.
fn candidates() -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from(LIBRARY)];
    let executable = std::env::current_exe().unwrap_or_default();
    for directory in executable.ancestors().skip(1).take(3) {
        paths.push(directory.join(LIBRARY));
        paths.push(directory.join("deps").join(LIBRARY));
    }
    paths
}

/// The emulator this process runs on, if it does: selected, or loaded as a driver by other means.
pub(crate) fn emulator() -> Option<&'static Library> {
    if let Some(library) = CUSIM.get() {
        return Some(library);
    }
    if loaded_driver() != Some(Driver::Cusim) {
        return None;
    }
    let library = open(Path::new(DRIVER)).ok()?;
    Some(CUSIM.get_or_init(|| library))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_have_three_names() {
        assert_eq!("".parse(), Ok(Choice::Auto));
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("gpu".parse(), Ok(Choice::Gpu));
        assert_eq!("cusim".parse(), Ok(Choice::Cusim));
        assert_eq!("GPU".parse::<Choice>(), Err(()));
    }

    #[test]
    fn a_selected_device_is_confirmed_or_refused() {
        let device = Device::Cusim { sm: 80, seed: 0 };
        assert_eq!(device.confirm(Choice::Auto), Ok(device.clone()));
        assert_eq!(device.confirm(Choice::Cusim), Ok(device.clone()));
        let refused = SelectError::AlreadySelected {
            asked: Choice::Gpu,
            device: device.clone(),
        };
        assert_eq!(device.confirm(Choice::Gpu), Err(refused));
    }

    #[test]
    fn devices_say_what_they_are() {
        let device = Device::Cusim { sm: 90, seed: 7 };
        assert_eq!(
            device.to_string(),
            "cusim: emulated sm_90 on the CPU, no GPU (seed 7)"
        );
    }
}
