//! What the emulator saw: failed kernels, counters of launches. And the exports through which a
//! program asks for it.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt::Display;
use std::str::FromStr;

use super::abi::{InStr, Reply, driver_api, reply};
use super::state::{State, lock_always};
use super::status::Status;
use crate::client::{Record, VERSION, read_checks, triple, write_counters};
use crate::exec::{Counters, Options};
use crate::fault::Fault;

/// Reports and launches that are kept: the latest.
const KEPT: usize = 256;

/// What was seen, and how launches run.
pub(super) struct Observations {
    pub(super) options: Options,
    reports: VecDeque<Record>,
    launches: VecDeque<Record>,
}

fn keep(records: &mut VecDeque<Record>, record: Record) {
    if records.len() == KEPT {
        records.pop_front();
    }
    records.push_back(record);
}

/// The number that a variable of the environment holds, or the default.
fn number<T: FromStr + Default + Display>(name: &str) -> T {
    let Some(text) = std::env::var_os(name) else {
        return T::default();
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| {
        let number = T::default();
        eprintln!("cusim: {name} is not a number; using {number}");
        number
    })
}

impl Observations {
    /// Nothing seen; options as `CUSIM_SEED` and `CUSIM_THREADS` have them.
    pub(super) fn from_environment() -> Self {
        Self {
            options: Options {
                seed: number("CUSIM_SEED"),
                threads: number("CUSIM_THREADS"),
                ..Options::default()
            },
            reports: VecDeque::new(),
            launches: VecDeque::new(),
        }
    }

    pub(super) fn launched(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        counters: &Counters,
    ) {
        let record = Record::default()
            .with("kernel", kernel)
            .with("grid", triple(grid))
            .with("block", triple(block));
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
    fn answer(&mut self, request: &str) -> Result<String, Status> {
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
            ("seed", number) => {
                seen.options.seed = number.parse().map_err(|_| Status::INVALID_VALUE)?;
                Vec::new()
            }
            ("checks", words) => {
                seen.options.checks = read_checks(words).ok_or(Status::INVALID_VALUE)?;
                Vec::new()
            }
            _ => return Err(Status::INVALID_VALUE),
        };
        Ok(Record::write_all(records))
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
        let text = lock_always().answer(request)?;
        reply(function, data, &text)
    }
}
