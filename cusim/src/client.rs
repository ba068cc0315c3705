//! What a program can ask the emulator it runs on: reports of failed kernels, counters of launches, and
//! the switches.
//!
//! The emulator is a library of its own, opened as a driver. A program that links this crate has a second
//! copy of the code with a state of its own; so all of this goes through exports of the library
//! that was loaded, as text, and works the same for a program that only loaded it.

#![allow(unsafe_code)] // calling exports of the loaded library

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::sync::Arc;

use libloading::os::unix::Library;

use crate::exec::{Checks, Counters, MmaMode};
use crate::fault::FaultKind;
use crate::profile::KernelProfile;
use crate::record::Recording;
use crate::select::emulator;

/// Version of the exports used here. It changes with the meaning of a request or reply.
pub(crate) const VERSION: u32 = 4;

/// `cusim_version`.
pub(crate) type VersionFunction = unsafe extern "C" fn() -> u32;

/// `cusim_request`: a request, a function to call with the reply, and a pointer to pass it.
pub(crate) type RequestFunction =
    unsafe extern "C" fn(request: *const c_char, reply: ReplyFunction, data: *mut c_void) -> u32;

/// Takes a reply: the pointer passed with the request, and the bytes, which live for the call only.
pub(crate) type ReplyFunction =
    unsafe extern "C" fn(data: *mut c_void, reply: *const u8, bytes: usize);

/// A failed kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What went wrong.
    pub kind: FaultKind,
    /// The `CUresult` that later calls of the context return.
    pub status: u32,
    /// The kernel.
    pub kernel: String,
    /// What went wrong, in one sentence.
    pub message: String,
    /// The instruction.
    pub instruction: String,
    /// `file:line` of the CUDA source, where the module tells.
    pub source: Option<String>,
    /// Line in the PTX text.
    pub ptx_line: u32,
    /// The block.
    pub cta: [u32; 3],
    /// The warp in the block.
    pub warp: u32,
    /// Its lanes, one bit each.
    pub lanes: u32,
    /// The address at fault, where it is about one.
    pub address: Option<u64>,
    /// The whole report, as it was printed.
    pub text: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A kernel that ran to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// The kernel.
    pub kernel: String,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub dynamic_shared: u32,
    /// What was counted.
    pub counters: Counters,
}

/// The failed kernels so far, oldest first; none on a GPU.
pub fn reports() -> Vec<Report> {
    request("reports").iter().filter_map(Report::read).collect()
}

/// The same, and forgets them.
pub fn take_reports() -> Vec<Report> {
    request("take reports")
        .iter()
        .filter_map(Report::read)
        .collect()
}

/// The latest launches that ran to their end, oldest first; none on a GPU.
pub fn launches() -> Vec<Launch> {
    request("launches")
        .iter()
        .filter_map(Launch::read)
        .collect()
}

/// The same, and forgets them.
pub fn take_launches() -> Vec<Launch> {
    request("take launches")
        .iter()
        .filter_map(Launch::read)
        .collect()
}

/// The latest launch that ran to its end; none on a GPU.
pub fn last_launch() -> Option<Launch> {
    launches().pop()
}

/// Chooses the schedule of launches from now on: the same seed gives the same schedule and the same
/// results, bit for bit. Without effect on a GPU.
pub fn set_seed(seed: u64) {
    request(&format!("seed {seed}"));
}

/// Models a part of the GPU from now on, with only so many multiprocessors, as an instance of a divided GPU has: what programs are told,
/// and how many blocks of a cooperative launch run at once. At least 1 and at most as many as the GPU has. Without effect
/// on a GPU.
pub fn set_multiprocessors(number: u32) {
    request(&format!("multiprocessors {number}"));
}

/// Whether launches from now on are recorded, to be replayed later. Without effect on a GPU.
pub fn record(on: bool) {
    request(if on { "record on" } else { "record off" });
}

/// The launches recorded so far, oldest first, and forgets them; none on a GPU.
///
/// Those that failed are among them.
pub fn take_recordings() -> Vec<Recording> {
    let reply = emulator().map_or_else(Vec::new, |library| ask_bytes(library, "take recordings"));
    let mut recordings: Vec<Recording> = postcard::from_bytes(&reply).unwrap_or_default();
    // Most are launches of the same few modules.
    let mut modules = HashSet::<Arc<str>>::new();
    for recording in &mut recordings {
        match modules.get(&recording.module) {
            Some(module) => recording.module = module.clone(),
            None => drop(modules.insert(recording.module.clone())),
        }
    }
    recordings
}

/// Chooses what launches from now on are checked for, beyond what every access needs. Without effect on a
/// GPU.
pub fn set_checks(checks: Checks) {
    let Checks {
        init,
        race,
        arithmetic,
    } = checks;
    let words = [(init, "init"), (race, "race"), (arithmetic, "arithmetic")];
    let words: Vec<&str> = words
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, word)| *word)
        .collect();
    request(&format!("checks {}", words.join(",")));
}

/// Chooses how tensor cores round in launches from now on. Without effect on a GPU.
pub fn set_mma(mode: MmaMode) {
    let named = MMA_MODES.iter().find(|(_, known)| *known == mode);
    if let Some((name, _)) = named {
        request(&format!("mma {name}"));
    }
}

/// Whether approximate instructions of launches from now on give results anywhere within their documented
/// bounds, by the seed, instead of the correctly rounded ones. Without effect on a GPU.
pub fn set_perturb(perturb: bool) {
    request(&format!("perturb {}", u8::from(perturb)));
}

/// Whether launches from now on are counted in detail, for [`take_profiles`]; they take longer. Without effect
/// on a GPU.
pub fn set_profile(profile: bool) {
    request(&format!("profile {}", u8::from(profile)));
}

/// What the launches since the last call took in detail, by kernel, and forgets it; none on a GPU.
pub fn take_profiles() -> Vec<KernelProfile> {
    let reply = emulator().map(|library| ask_bytes(library, "take profiles"));
    // Nothing else comes from a library of this version.
    postcard::from_bytes(&reply.unwrap_or_default()).unwrap_or_default()
}

/// What a request for checks asks for: their names with commas between, `all` or `none`.
pub(crate) fn read_checks(words: &str) -> Option<Checks> {
    match words {
        "all" => return Some(Checks::ALL),
        "none" => return Some(Checks::NONE),
        _ => {}
    }
    let mut checks = Checks::NONE;
    for word in words
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        match word {
            "init" => checks.init = true,
            "race" => checks.race = true,
            "arithmetic" => checks.arithmetic = true,
            _ => return None,
        }
    }
    Some(checks)
}

const MMA_MODES: &[(&str, MmaMode)] = &[
    ("fast", MmaMode::Fast),
    ("ampere", MmaMode::Ampere),
    ("hopper", MmaMode::Hopper),
];

/// The mode of tensor cores of a name.
pub(crate) fn read_mma(name: &str) -> Option<MmaMode> {
    let found = MMA_MODES.iter().find(|(known, _)| *known == name);
    found.map(|(_, mode)| *mode)
}

/// A switch: 0 or 1.
pub(crate) fn read_switch(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// The version of the emulator's exports, if this library is the emulator.
pub(crate) fn version(library: &Library) -> Option<u32> {
    // SAFETY: no other library has this name, and this one gives it this type.
    let version = unsafe { library.get::<VersionFunction>(b"cusim_version\0") }.ok()?;
    // SAFETY: it only returns a constant.
    Some(unsafe { version() })
}

/// Compute capability and seed of an emulator.
pub(crate) fn describe(library: &Library) -> (u32, u64) {
    let records = ask(library, "describe");
    let device = records.first();
    let number = |key| device.and_then(|device| device.number(key)).unwrap_or(0);
    (number("sm") as u32, number("seed"))
}

fn request(request: &str) -> Vec<Record> {
    emulator().map_or_else(Vec::new, |library| ask(library, request))
}

/// Sends a request; there is no reply to one the library does not know.
fn ask(library: &Library, request: &str) -> Vec<Record> {
    Record::read_all(&String::from_utf8_lossy(&ask_bytes(library, request)))
}

fn ask_bytes(library: &Library, request: &str) -> Vec<u8> {
    /// Appends a reply to the `Vec<u8>` at `data`.
    unsafe extern "C" fn collect(data: *mut c_void, bytes: *const u8, len: usize) {
        // SAFETY: the library calls this with the pointer that was passed with it and that many bytes,
        // while `ask_bytes` waits.
        let (reply, bytes) = unsafe {
            (
                &mut *data.cast::<Vec<u8>>(),
                std::slice::from_raw_parts(bytes, len),
            )
        };
        reply.extend_from_slice(bytes);
    }
    let mut reply = Vec::<u8>::new();
    let data: *mut c_void = (&raw mut reply).cast();
    // SAFETY: no other library has this name, and the version says that it has this type.
    let function = unsafe { library.get::<RequestFunction>(b"cusim_request\0") };
    if let (Ok(function), Ok(request)) = (function, CString::new(request)) {
        // SAFETY: the request is NUL-terminated, and the reply is collected where `data` points.
        unsafe { function(request.as_ptr(), collect, data) };
    }
    reply
}

/// Fields by name: what replies are made of. They travel as text between the separators that ASCII has for
/// the purpose, which occur in no name, path or sentence.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Record(BTreeMap<String, String>);

const RECORD_END: char = '\u{1e}';
const FIELD_END: char = '\u{1f}';

impl Record {
    pub(crate) fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.insert(key.to_owned(), value.to_string());
        self
    }

    pub(crate) fn write_all(records: impl IntoIterator<Item = Record>) -> String {
        let mut text = String::new();
        for record in records {
            for (key, value) in record.0 {
                text.extend([key.as_str(), "=", value.as_str()]);
                text.push(FIELD_END);
            }
            text.push(RECORD_END);
        }
        text
    }

    fn read_all(text: &str) -> Vec<Record> {
        let fields = |record: &str| {
            let fields = record.split_terminator(FIELD_END);
            let pairs = fields.filter_map(|field| field.split_once('='));
            Record(
                pairs
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            )
        };
        text.split_terminator(RECORD_END).map(fields).collect()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.parse().ok()
    }

    fn triple(&self, key: &str) -> Option<[u32; 3]> {
        let mut numbers = self.0.get(key)?.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some([next()?, next()?, next()?])
    }
}

/// How three numbers are written in a field.
pub(crate) fn triple([x, y, z]: [u32; 3]) -> String {
    format!("{x} {y} {z}")
}

/// Counters as fields of a record. Named one by one: a counter that is missing here does not compile.
macro_rules! counters {
    ($($name:ident)*) => {
        pub(crate) fn write_counters(record: Record, counters: &Counters) -> Record {
            let Counters { $($name),* } = counters;
            record$(.with(stringify!($name), $name))*
        }

        fn read_counters(record: &Record) -> Option<Counters> {
            Some(Counters { $($name: record.number(stringify!($name))?),* })
        }
    };
}

counters! {
    instructions thread_instructions integer float convert moves memory tensor warp barrier control divergent_branches mma_flops
    global_load_requests global_load_sectors global_load_bytes
    global_store_requests global_store_sectors global_store_bytes
    global_vector_bytes copy_async_bytes shared_wavefronts shared_wavefronts_ideal
}

impl Report {
    fn read(record: &Record) -> Option<Self> {
        let kind = record.text("kind")?;
        let kind = KINDS.iter().find(|known| format!("{known:?}") == kind)?;
        Some(Self {
            kind: *kind,
            status: record.number("status")? as u32,
            kernel: record.text("kernel")?,
            message: record.text("message")?,
            instruction: record.text("instruction")?,
            source: record.text("source"),
            ptx_line: record.number("ptx_line")? as u32,
            cta: record.triple("cta")?,
            warp: record.number("warp")? as u32,
            lanes: record.number("lanes")? as u32,
            address: record.number("address"),
            text: record.text("text")?,
        })
    }
}

impl Launch {
    fn read(record: &Record) -> Option<Self> {
        Some(Self {
            kernel: record.text("kernel")?,
            grid: record.triple("grid")?,
            block: record.triple("block")?,
            dynamic_shared: u32::try_from(record.number("dynamic_shared")?).ok()?,
            counters: read_counters(record)?,
        })
    }
}

/// Every kind of fault.
const KINDS: &[FaultKind] = &[
    FaultKind::IllegalAddress,
    FaultKind::MisalignedAddress,
    FaultKind::Uninitialized,
    FaultKind::Race,
    FaultKind::AsyncPending,
    FaultKind::Deadlock,
    FaultKind::Trap,
    FaultKind::Undefined,
    FaultKind::Arithmetic,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let records = vec![
            Record::default()
                .with("a", "x=y\nz")
                .with("grid", triple([1, 2, 3])),
            Record::default(),
            Record::default().with("n", 7),
        ];
        let read = Record::read_all(&Record::write_all(records.clone()));
        assert_eq!(read, records);
        assert_eq!(read[0].triple("grid"), Some([1, 2, 3]));
        assert_eq!(read[0].triple("a"), None);
        assert_eq!(read[2].number("n"), Some(7));
        assert_eq!(Record::read_all(""), []);
    }

    #[test]
    fn launches_come_back_as_they_were() {
        let counters = Counters {
            instructions: 7,
            shared_wavefronts_ideal: u64::MAX,
            ..Counters::default()
        };
        let record = Record::default()
            .with("kernel", "k")
            .with("grid", triple([1, 2, 3]))
            .with("block", triple([32, 1, 1]))
            .with("dynamic_shared", 64);
        let expected = Launch {
            kernel: "k".to_owned(),
            grid: [1, 2, 3],
            block: [32, 1, 1],
            dynamic_shared: 64,
            counters,
        };
        assert_eq!(Launch::read(&record), None, "a launch has counters");
        let record = write_counters(record, &counters);
        assert_eq!(Launch::read(&record), Some(expected));
    }

    #[test]
    fn checks_are_asked_for_by_name() {
        let race_only = Checks {
            race: true,
            ..Checks::NONE
        };
        assert_eq!(read_checks("init,race"), Some(Checks::default()));
        assert_eq!(read_checks("race"), Some(race_only));
        assert_eq!(read_checks(""), Some(Checks::NONE));
        assert_eq!(read_checks("none"), Some(Checks::NONE));
        assert_eq!(read_checks("init, race, arithmetic"), Some(Checks::ALL));
        assert_eq!(read_checks("all"), Some(Checks::ALL));
        assert_eq!(read_checks("rice"), None);
    }
}
