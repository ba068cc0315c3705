//! Calls that cusim exports and does not implement: they fail, and say which they are.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::abi::boundary;
use super::status::Status;

/// Says once for every call that it is missing.
pub(super) fn not_supported(call: &'static str) -> Result<(), Status> {
    static SAID: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let first = SAID
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(call);
    if first {
        eprintln!("cusim: {call} is not implemented and returns CUDA_ERROR_NOT_SUPPORTED");
    }
    Err(Status::NOT_SUPPORTED)
}

/// Declares exported functions that take no notice of their arguments, which the calling conventions
/// of 64-bit systems leave to the caller.
macro_rules! stubs {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)] // the CUDA driver API's name
            extern "C" fn $name() -> Status {
                boundary(stringify!($name), || not_supported(stringify!($name)))
            }
        )*

        /// What this module exports.
        pub(super) static EXPORTS: &[super::abi::Export] =
            &[$(super::abi::Export::new(stringify!($name), $name as *const ())),*];
    };
}

