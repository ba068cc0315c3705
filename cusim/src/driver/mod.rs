//! The driver itself: the functions of the CUDA driver API, as a C library exports them.
//!
//! Unsafe code is in `abi`, whose types stand for what C passes; everything above it is safe. Each file
//! implements one chapter of the API; `stubs` has the names of the rest.

#![allow(unsafe_code)] // the whole module is a boundary to C

mod abi;
mod alloc;
mod context;
mod copy;
mod device;
mod entry;
mod event;
mod function;
mod handle;
mod host;
mod inject;
mod launch;
mod library;
mod module;
mod observe;
mod occupancy;
mod order;
mod pool;
mod state;
mod status;
mod stream;
mod stubs;

use abi::Export;

/// Every function of the driver API that the library exports.
fn exports() -> impl Iterator<Item = &'static Export> {
    [
        alloc::EXPORTS,
        context::EXPORTS,
        copy::EXPORTS,
        device::EXPORTS,
        entry::EXPORTS,
        event::EXPORTS,
        function::EXPORTS,
        host::EXPORTS,
        launch::EXPORTS,
        library::EXPORTS,
        module::EXPORTS,
        observe::EXPORTS,
        occupancy::EXPORTS,
        pool::EXPORTS,
        status::EXPORTS,
        stream::EXPORTS,
        stubs::EXPORTS,
    ]
    .into_iter()
    .flatten()
}
