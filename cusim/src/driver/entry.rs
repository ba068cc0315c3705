//! Where programs begin: initialisation, versions, finding the other functions.

use std::ffi::c_void;

use super::abi::{Export, In, InStr, Out, driver_api};
use super::state::{initialize, lock};
use super::status::Status;

/// CUDA 13.0: what this driver would be, were it NVIDIA's.
const VERSION: i32 = 13000;

const FOUND: u32 = 0;
const SYMBOL_NOT_FOUND: u32 = 1;

/// The exported function `name`.
fn exported(name: &str) -> Option<&'static Export> {
    super::exports().find(|export| export.name == name)
}

/// The newest function of a base name: `cuMemAlloc` is `cuMemAlloc_v2` today. Those whose third version
/// or later has other arguments than callers of earlier toolkits pass are asked for by their full name.
fn find(name: &str, version: i32) -> Option<&'static Export> {
    let newest = match (name, version) {
        ("cuCtxCreate", ..13000) => "cuCtxCreate_v2",
        ("cuCtxCreate", _) => "cuCtxCreate_v4",
        ("cuDeviceGetUuid", ..11040) => "cuDeviceGetUuid",
        ("cuStreamGetCtx", ..12050) => "cuStreamGetCtx",
        ("cuGetProcAddress", ..12000) => "cuGetProcAddress",
        ("cuEventElapsedTime", ..12080) => "cuEventElapsedTime",
        ("cuCtxGetDevice", ..13000) => "cuCtxGetDevice",
        ("cuCtxSynchronize", ..13000) => "cuCtxSynchronize",
        ("cuLaunchHostFunc", ..13020) => "cuLaunchHostFunc",
        ("cuStreamGetCaptureInfo", ..11030) => "cuStreamGetCaptureInfo",
        ("cuStreamGetCaptureInfo", 13000..) => "cuStreamGetCaptureInfo_v3",
        ("cuGraphInstantiate", 12000..) => "cuGraphInstantiateWithFlags",
        ("cuGraphExecUpdate", ..12000) => "cuGraphExecUpdate",
        ("cuGraphGetEdges", ..13000) => "cuGraphGetEdges",
        ("cuGraphNodeGetDependencies", ..13000) => "cuGraphNodeGetDependencies",
        ("cuGraphNodeGetDependentNodes", ..13000) => "cuGraphNodeGetDependentNodes",
        _ => "",
    };
    exported(newest)
        .or_else(|| exported(&format!("{name}_v2")))
        .or_else(|| exported(name))
}

/// What asking for the per-thread default stream appends; every stream is in order with every other,
/// so both are one.
fn base_name(name: &str) -> &str {
    let name = name.strip_suffix("_ptsz").unwrap_or(name);
    name.strip_suffix("_ptds").unwrap_or(name)
}

driver_api! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        initialize();
        Ok(())
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }

    fn cuGetProcAddress(symbol: InStr, function: Out<*mut c_void>, version: i32, _flags: u64) {
        let found = find(base_name(symbol.get()?), version);
        function.set(found.map_or(std::ptr::null_mut(), Export::address))?;
        found.map(|_| ()).ok_or(Status::NOT_FOUND)
    }

    fn cuGetProcAddress_v2(
        symbol: InStr,
        function: Out<*mut c_void>,
        version: i32,
        _flags: u64,
        result: Out<u32>,
    ) {
        let found = find(base_name(symbol.get()?), version);
        function.set(found.map_or(std::ptr::null_mut(), Export::address))?;
        // With a place for the result, an unknown name is an answer and not an error.
        if result.is_null() {
            return found.map(|_| ()).ok_or(Status::NOT_FOUND);
        }
        result.set(if found.is_some() { FOUND } else { SYMBOL_NOT_FOUND })
    }

    fn cuProfilerStart() {
        lock()?.current().map(|_| ())
    }

    fn cuProfilerStop() {
        lock()?.current().map(|_| ())
    }

    fn cuFlushGPUDirectRDMAWrites(_target: u32, _scope: u32) {
        lock()?.current().map(|_| ())
    }

    fn cuGetExportTable(_table: Out<*const c_void>, _id: In<u8>) {
        super::stubs::not_supported(
            "cuGetExportTable (it leads to the private tables of NVIDIA's CUDA runtime; load kernels through \
             the driver API instead)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(symbol: &str, version: i32) -> Option<&'static str> {
        find(base_name(symbol), version).map(|export| export.name)
    }

    #[test]
    fn names_lead_to_the_version_the_caller_was_compiled_for() {
        assert_eq!(name("cuMemAlloc", 12080), Some("cuMemAlloc_v2"));
        assert_eq!(
            name("cuMemcpyHtoDAsync_ptsz", 12080),
            Some("cuMemcpyHtoDAsync_v2")
        );
        assert_eq!(name("cuCtxCreate", 12080), Some("cuCtxCreate_v2"));
        assert_eq!(name("cuCtxCreate", 13000), Some("cuCtxCreate_v4"));
        assert_eq!(name("cuGetProcAddress", 12000), Some("cuGetProcAddress_v2"));
        assert_eq!(name("cuLaunchKernel_ptsz", 12080), Some("cuLaunchKernel"));
        assert_eq!(name("cuNoSuchCall", 12080), None);
    }

    #[test]
    fn no_name_is_exported_twice() {
        let mut names: Vec<_> = super::super::exports().map(|export| export.name).collect();
        let len = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), len);
    }
}
