//! What the emulator saw: failed kernels, counters of launches. And the exports through which a
//! program asks for it.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt::Debug;

use super::abi::{InStr, Reply, at_exit, driver_api, reply};
use super::state::{State, lock_always};
use super::status::Status;
use crate::arch::Arch;
use crate::client::{Record, VERSION, read_checks, read_mma, read_switch, triple, write_counters};
use crate::exec::{Counters, Options};
use crate::fault::Fault;
use crate::profile::{self, KernelProfile};
use crate::record::Recording;

/// Reports and launches that are kept: the latest.
const KEPT: usize = 256;

/// What was seen, and how launches run.
pub(super) struct Observations {
    pub(super) options: Options,
    reports: VecDeque<Record>,
    launches: VecDeque<Record>,
    /// Recorded launches; none are recorded when this is `None`.
    pub(super) recordings: Option<Vec<Recording>>,
    /// Profiled launches, by kernel.
    pub(super) profiles: Vec<KernelProfile>,
}

/// Where the profile of the process goes.
fn profile_path() -> Option<String> {
    let path = std::env::var("CUSIM_PROFILE").ok();
    path.filter(|path| !path.is_empty())
}

/// Writes the profile of the process, which is about to end.
extern "C" fn write_profile() {
    let Some(path) = profile_path() else { return };
    let report = profile::report_for(&path, &lock_always().observations.profiles);
    if let Err(error) = std::fs::write(&path, report) {
        eprintln!("cusim: CUSIM_PROFILE={path}: {error}");
    }
}

fn keep(records: &mut VecDeque<Record>, record: Record) {
    if records.len() == KEPT {
        records.pop_front();
    }
    records.push_back(record);
}

/// The value of a variable, or the fallback where it is not set or makes no sense.
fn from_environment<T: Debug>(name: &str, fallback: T, read: fn(&str) -> Option<T>) -> T {
    let Some(text) = std::env::var_os(name) else {
        return fallback;
    };
    text.to_str().and_then(read).unwrap_or_else(|| {
        eprintln!(
            "cusim: {name}={} makes no sense; using {fallback:?}",
            text.to_string_lossy()
        );
        fallback
    })
}

impl Observations {
    /// Nothing seen; options as the environment has them.
    pub(super) fn from_environment() -> Self {
        let fallback = Options::default();
        let options = Options {
            seed: from_environment("CUSIM_SEED", fallback.seed, |text| text.parse().ok()),
            checks: from_environment("CUSIM_CHECKS", fallback.checks, read_checks),
            mma: from_environment("CUSIM_MMA", fallback.mma, read_mma),
            perturb: from_environment("CUSIM_PERTURB", fallback.perturb, read_switch),
            threads: from_environment("CUSIM_THREADS", fallback.threads, |text| text.parse().ok()),
            max_instructions: fallback.max_instructions,
            profile: profile_path().is_some(),
        };
        if options.profile {
            at_exit(write_profile);
        }
        Self {
            options,
            reports: VecDeque::new(),
            launches: VecDeque::new(),
            recordings: None,
            profiles: Vec::new(),
        }
    }

    pub(super) fn launched(
        &mut self,
        kernel: &str,
        (grid, block, dynamic_shared): ([u32; 3], [u32; 3], u32),
        counters: &Counters,
    ) {
        let record = Record::default()
            .with("kernel", kernel)
            .with("grid", triple(grid))
            .with("block", triple(block))
            .with("dynamic_shared", dynamic_shared);
        keep(&mut self.launches, write_counters(record, counters));
    }

    /// Prints the report at once: the program may well end before it asks.
    pub(super) fn failed(&mut self, status: Status, fault: &Fault) {
        let text = fault.to_string();
        eprintln!("{text}");
        let mut record = Record::default()
            .with("kind", format!("{:?}", fault.kind))
            .with("status", status.0)
            .with("kernel", &fault.kernel)
            .with("message", &fault.message)
            .with("instruction", &fault.site.instruction)
            .with("ptx_line", fault.site.ptx_line)
            .with("cta", triple(fault.cta))
            .with("warp", fault.warp)
            .with("lanes", fault.lanes)
            .with("text", text);
        if let Some(source) = &fault.site.source {
            record = record.with("source", source);
        }
        if let Some(address) = fault.address {
            record = record.with("address", address);
        }
        keep(&mut self.reports, record);
    }
}

impl State {
    /// The reply to a request.
    fn answer(&mut self, request: &str) -> Result<Vec<u8>, Status> {
        let seen = &mut self.observations;
        let (verb, object) = request.split_once(' ').unwrap_or((request, ""));
        let records = match (verb, object) {
            ("describe", "") => {
                let device = Record::default()
                    .with("sm", self.arch.sm)
                    .with("seed", seen.options.seed);
                vec![device]
            }
            ("reports", "") => seen.reports.iter().cloned().collect(),
            ("take", "reports") => seen.reports.drain(..).collect(),
            ("launches", "") => seen.launches.iter().cloned().collect(),
            ("take", "launches") => seen.launches.drain(..).collect(),
            ("record", "on") => {
                seen.recordings.get_or_insert_default();
                Vec::new()
            }
            ("record", "off") => {
                seen.recordings = None;
                Vec::new()
            }
            ("take", "recordings") => {
                let taken = seen.recordings.as_mut().map(std::mem::take);
                let taken = taken.unwrap_or_default();
                return postcard::to_allocvec(&taken).map_err(|_| Status::OUT_OF_MEMORY);
            }
            ("profile", switch) => {
                seen.options.profile = read_switch(switch).ok_or(Status::INVALID_VALUE)?;
                Vec::new()
            }
            ("take", "profiles") => {
                let taken = std::mem::take(&mut seen.profiles);
                return postcard::to_allocvec(&taken).map_err(|_| Status::OUT_OF_MEMORY);
            }
            ("seed", number) => {
                seen.options.seed = number.parse().map_err(|_| Status::INVALID_VALUE)?;
                Vec::new()
            }
            ("multiprocessors", number) => {
                let number = number.parse().map_err(|_| Status::INVALID_VALUE)?;
                let whole = Arch::of(self.arch.sm);
                let part = whole.and_then(|whole| whole.with_multiprocessors(number));
                self.arch = part.ok_or(Status::INVALID_VALUE)?;
                Vec::new()
            }
            ("checks", words) => {
                seen.options.checks = read_checks(words).ok_or(Status::INVALID_VALUE)?;
                Vec::new()
            }
            ("mma", name) => {
                seen.options.mma = read_mma(name).ok_or(Status::INVALID_VALUE)?;
                Vec::new()
            }
            ("perturb", switch) => {
                seen.options.perturb = read_switch(switch).ok_or(Status::INVALID_VALUE)?;
                Vec::new()
            }
            _ => return Err(Status::INVALID_VALUE),
        };
        Ok(Record::write_all(records).into_bytes())
    }
}

/// The version of these exports.
#[unsafe(no_mangle)]
extern "C" fn cusim_version() -> u32 {
    VERSION
}

driver_api! {
    fn cusim_request(request: InStr, function: Reply, data: *mut c_void) {
        let request = request.get()?;
        let bytes = lock_always().answer(request)?;
        reply(function, data, &bytes)
    }
}
