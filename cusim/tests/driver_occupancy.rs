//! Occupancy of the emulated driver, by the limits that are documented.

#![allow(unsafe_code)] // the driver API is C

use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, DriverError};
use cudarc::nvrtc::Ptx;

/// One kernel without shared memory, and one with 40 KiB.
const PTX: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.visible .entry small() { ret; }
.visible .entry large() .maxntid 256, 1, 1
{
    .shared .align 16 .b8 staged[40960];
    ret;
}
"#;

fn function(name: &str) -> (Arc<CudaContext>, CudaFunction) {
    cusim::Device::select(cusim::Choice::Cusim).expect("the emulator's library");
    let context = CudaContext::new(0).expect("a context");
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    (context, module.load_function(name).expect("a kernel"))
}

fn blocks(function: &CudaFunction, threads: u32, shared: usize) -> Result<u32, DriverError> {
    function.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None)
}

#[test]
fn blocks_are_limited_by_number_warps_and_shared_memory() {
    let (_context, small) = function("small");
    assert_eq!(blocks(&small, 32, 0), Ok(32));
    assert_eq!(blocks(&small, 33, 0), Ok(32));
    assert_eq!(blocks(&small, 256, 0), Ok(8));
    assert_eq!(blocks(&small, 1024, 0), Ok(2));
    // 1 KiB of each block is the system's: three of 48 KiB make 147 of 164 KiB.
    assert_eq!(blocks(&small, 32, 48 << 10), Ok(3));
    let (_context, large) = function("large");
    assert_eq!(blocks(&large, 32, 0), Ok(4), "164 / 41");
    assert_eq!(blocks(&large, 256, 8 << 10), Ok(3), "164 / 49");
}

#[test]
fn blocks_that_cannot_be_launched_do_not_fit() {
    let (_context, large) = function("large");
    assert_eq!(blocks(&large, 1024, 0), Ok(2), "more than .maxntid");
    assert_eq!(blocks(&large, 1025, 0), Ok(0), "more than any block has");
    assert_eq!(
        blocks(&large, 32, (8 << 10) + 1),
        Ok(0),
        "more than was asked for"
    );
    let max = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    large.set_attribute(max, 120 << 10).expect("an attribute");
    assert_eq!(blocks(&large, 32, 120 << 10), Ok(1));
    let invalid = DriverError(CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(blocks(&large, 0, 0), Err(invalid));
}

#[test]
fn the_best_block_fills_a_multiprocessor() {
    extern "C" fn none(_threads: i32) -> usize {
        0
    }
    extern "C" fn much_for_many(threads: i32) -> usize {
        if threads > 64 { 48 << 10 } else { 0 }
    }
    let (_context, small) = function("small");
    let best = |shared, limit| small.occupancy_max_potential_block_size(shared, 0, limit, None);
    // 108 multiprocessors of 2048 threads.
    assert_eq!(best(none, 0), Ok((216, 1024)));
    assert_eq!(
        best(none, 300),
        Ok((8 * 108, 256)),
        "eight of 256 are more than seven of 288"
    );
    assert_eq!(best(much_for_many, 0), Ok((2 * 108, 1024)));
    let (_context, large) = function("large");
    let best = large.occupancy_max_potential_block_size(none, 0, 0, None);
    assert_eq!(best, Ok((4 * 108, 256)));
}

#[test]
fn shared_memory_is_shared_out() {
    let (_context, small) = function("small");
    let available =
        |blocks, threads| small.occupancy_available_dynamic_smem_per_block(blocks, threads);
    assert_eq!(available(1, 128), Ok(48 << 10), "what it is allowed");
    let max = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    small.set_attribute(max, 163 << 10).expect("an attribute");
    assert_eq!(available(1, 128), Ok(163 << 10));
    assert_eq!(available(2, 128), Ok(81 << 10));
    assert_eq!(available(4, 128), Ok(40 << 10));
    let invalid = DriverError(CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(available(3, 1024), Err(invalid), "two of these fit");
    assert_eq!(available(0, 128), Err(invalid));
}

#[test]
fn wrong_functions_are_refused() {
    let (_context, _small) = function("small");
    let mut blocks = 0;
    for wrong in [0usize, 1, 0x7fff_0000_1234, usize::MAX] {
        let wrong = std::ptr::without_provenance_mut(wrong);
        let result =
            unsafe { sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, wrong, 32, 0) };
        assert_eq!(result, CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
}
