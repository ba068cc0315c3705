//! A CUDA driver that needs no GPU: it executes PTX on the CPU and checks every access.
//!
//! The crate is two things. As a shared library, `libcusim.so` with the SONAME `libcuda.so`, it is a
//! driver: programs that open one by name, such as those of cudarc, get this one instead and load and
//! launch their kernels unchanged. As a Rust library it chooses which driver a process runs on, and
//! reports what the emulator saw:
//!
//! ```no_run
//! # fn main() -> Result<(), cusim::SelectError> {
//! let device = cusim::Device::from_env("MY_DEVICE")?; // auto, gpu or cusim
//! println!("{device}");
//! // … the program, through cudarc …
//! for report in cusim::reports() {
//!     eprintln!("{report}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The first line must come before the first CUDA call of the process.
//!
//! # What a failing kernel does
//!
//! A launch that fails returns success, as one that fails later on a GPU does. Every call after it in the
//! same context returns the error: `CUDA_ERROR_ILLEGAL_ADDRESS`, `CUDA_ERROR_MISALIGNED_ADDRESS`, or
//! `CUDA_ERROR_LAUNCH_FAILED` for what hardware would not notice: races, reads of memory nobody wrote,
//! deadlocks. What happened, where and by whom goes to stderr at once, and stays in [`reports`].
//!
//! # Environment
//!
//! | variable | meaning |
//! |---|---|
//! | `CUSIM_ARCH` | the GPU to model: 80 (default), 86, 89, 90, 100 or 120 |
//! | `CUSIM_SEED` | the schedule; 0 by default |
//! | `CUSIM_CHECKS` | what is checked: of `init`, `race` and `arithmetic` those named, with commas between; `all`; `none`. `init,race` by default |
//! | `CUSIM_MMA` | how tensor cores round: `fast` (default), `ampere` or `hopper` |
//! | `CUSIM_PERTURB` | 1: approximate instructions give any result within their documented bounds |
//! | `CUSIM_THREADS` | the most threads that run the blocks of a launch; one for each core by default |
//! | `CUSIM_PROFILE` | a file for the [profile] of all launches, written when the process ends: `.json`, `.html`, or else a table |
//! | `CUSIM_FAIL` | calls that are to fail: `alloc:3` for the third allocation, also `launch`, `copy`, `module` and `sync`, or any function by its name; `=CUDA_ERROR_…` behind it chooses the error; several with commas between |
//! | `CUSIM_LIBRARY` | path of the shared library, instead of where it is looked for |

pub mod arch;
pub mod client;
mod driver;
pub mod exec;
pub mod fault;
pub mod image;
pub mod memory;
pub mod mutation;
pub mod profile;
pub mod program;
pub mod ptx;
pub mod record;
pub mod select;

pub use client::{
    Launch, Report, last_launch, launches, record, reports, set_checks, set_mma,
    set_multiprocessors, set_perturb, set_profile, set_seed, take_launches, take_profiles,
    take_recordings, take_reports,
};
pub use select::{Choice, Device, SelectError};
