//! The driver itself: the functions of the CUDA driver API, as a C library exports them.
//!
//! Unsafe code is in `abi`, whose types stand for what C passes; everything above it is safe. Each file
//! implements one chapter of the API; `stubs` has the names of the rest.

#![allow(unsafe_code)] // the whole module is a boundary to C

mod abi;
mod alloc;
mod capture;
mod context;
mod copy;
mod device;
mod entry;
mod event;
mod function;
mod graph;
mod graph_query;
mod handle;
mod host;
mod inject;
mod launch;
mod legality;
mod library;
mod module;
mod observe;
mod occupancy;
mod order;
mod peer;
mod planes;
mod pool;
mod shared;
mod state;
mod status;
mod stream;
mod stubs;
mod transfer;
mod work;

use abi::Export;

/// Every function of the driver API that the library exports.
fn exports() -> impl Iterator<Item = &'static Export> {
    [
        alloc::EXPORTS,
        capture::EXPORTS,
        context::EXPORTS,
        copy::EXPORTS,
        device::EXPORTS,
        entry::EXPORTS,
        event::EXPORTS,
        function::EXPORTS,
        graph::EXPORTS,
        graph_query::EXPORTS,
        host::EXPORTS,
        launch::EXPORTS,
        legality::EXPORTS,
        library::EXPORTS,
        module::EXPORTS,
        observe::EXPORTS,
        occupancy::EXPORTS,
        peer::EXPORTS,
        pool::EXPORTS,
        status::EXPORTS,
        stream::EXPORTS,
        stubs::EXPORTS,
    ]
    .into_iter()
    .flatten()
}
