//! Memory of the emulated driver, through cudarc's bindings: what programs rely on, and every kind of misuse.

#![allow(unsafe_code)] // the driver API is C

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUmemorytype, CUpointer_attribute, CUresult};
use cudarc::driver::{CudaContext, result};

fn context() -> Arc<CudaContext> {
    cusim::Device::select(cusim::Choice::Cusim)
        .expect("the emulator's library is built with the tests");
    CudaContext::new(0).expect("the emulator has a device")
}

/// A call that is to succeed.
fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

fn alloc(bytes: usize) -> u64 {
    unsafe { result::malloc_sync(bytes) }.expect("memory is left")
}

fn free(address: u64) -> CUresult {
    unsafe { sys::cuMemFree_v2(address) }
}

fn read(address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ok(unsafe { sys::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), address, len) });
    bytes
}

fn write(address: u64, bytes: &[u8]) {
    ok(unsafe { sys::cuMemcpyHtoD_v2(address, bytes.as_ptr().cast(), bytes.len()) });
}

fn counting(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

#[test]
fn slices_survive_the_round_trip() {
    let context = context();
    let stream = context.new_stream().expect("a stream");
    let data: Vec<f32> = (0..1000).map(|index| index as f32).collect();
    let device = stream.clone_htod(&data).expect("a copy to the device");
    let mut middle = stream.alloc_zeros::<f32>(1000).expect("an allocation");
    stream
        .memcpy_dtod(&device.slice(100..200), &mut middle.slice_mut(300..400))
        .expect("a copy");
    let back = stream.clone_dtoh(&middle).expect("a copy back");
    assert_eq!(back[300..400], data[100..200]);
    assert!(
        back[..300]
            .iter()
            .chain(&back[400..])
            .all(|&value| value == 0.0)
    );
}

#[test]
fn allocations_are_aligned_apart_and_accounted_for() {
    let context = context();
    let (first, second) = (alloc(1), alloc(3));
    assert_eq!((first % 256, second % 256), (0, 0));
    assert!(
        first.abs_diff(second) > 256,
        "a gap shows accesses out of bounds"
    );
    let (free_bytes, total) = context.mem_get_info().expect("sizes");
    assert!(free_bytes < total && free_bytes > 0);
    assert_eq!(total, context.total_mem().expect("a size"));

    let (mut base, mut len) = (0, 0);
    ok(unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut len, second + 2) });
    assert_eq!((base, len), (second, 3));
    let outside = unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut len, second + 3) };
    assert_eq!(outside, CUresult::CUDA_ERROR_NOT_FOUND);
    ok(free(first));
    ok(free(second));
    assert_ne!(alloc(1), first, "an address is used once");
}

#[test]
fn absurd_and_empty_allocations_fail() {
    let _context = context();
    let mut address = 0;
    let absurd = unsafe { sys::cuMemAlloc_v2(&mut address, 1 << 60) };
    assert_eq!(absurd, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let empty = unsafe { sys::cuMemAlloc_v2(&mut address, 0) };
    assert_eq!(empty, CUresult::CUDA_ERROR_INVALID_VALUE);
    let nowhere = unsafe { sys::cuMemAlloc_v2(std::ptr::null_mut(), 16) };
    assert_eq!(nowhere, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn freeing_what_is_not_there_fails() {
    let _context = context();
    let address = alloc(64);
    assert_eq!(free(address + 16), CUresult::CUDA_ERROR_INVALID_VALUE);
    ok(free(address));
    assert_eq!(free(address), CUresult::CUDA_ERROR_INVALID_VALUE);
    ok(free(0));
}

#[test]
fn copies_out_of_bounds_fail_and_change_nothing() {
    let _context = context();
    let address = alloc(16);
    write(address, &[7; 16]);
    let data = [1_u8; 32];
    let data = data.as_ptr().cast();
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    unsafe {
        assert_eq!(sys::cuMemcpyHtoD_v2(address, data, 17), invalid);
        assert_eq!(sys::cuMemcpyHtoD_v2(address + 8, data, 9), invalid);
        assert_eq!(sys::cuMemcpyHtoD_v2(address, std::ptr::null(), 4), invalid);
        assert_eq!(sys::cuMemcpyDtoD_v2(address, address + 8, 9), invalid);
        assert_eq!(sys::cuMemsetD8_v2(address, 0, 17), invalid);
        assert_eq!(
            sys::cuMemsetD32_v2(address + 2, 0, 1),
            invalid,
            "misaligned"
        );
        assert_eq!(
            sys::cuMemsetD16_v2(address + 1, 0, 1),
            invalid,
            "misaligned"
        );
    }
    assert_eq!(read(address, 16), [7; 16]);
    ok(free(address));
    let mut byte = 0_u8;
    let after_free = unsafe { sys::cuMemcpyDtoH_v2((&raw mut byte).cast(), address, 1) };
    assert_eq!(after_free, invalid);
}

#[test]
fn fills_write_their_pattern() {
    let _context = context();
    let address = alloc(16);
    unsafe {
        ok(sys::cuMemsetD8_v2(address, 1, 16));
        ok(sys::cuMemsetD16_v2(address + 4, 0x0302, 2));
        ok(sys::cuMemsetD32_v2(address + 8, 0x0706_0504, 1));
    }
    assert_eq!(
        read(address, 16),
        [1, 1, 1, 1, 2, 3, 2, 3, 4, 5, 6, 7, 1, 1, 1, 1]
    );
    ok(free(address));
}

#[test]
fn rows_are_filled_and_copied_with_their_pitches() {
    let _context = context();
    let (mut address, mut pitch) = (0, 0);
    ok(unsafe { sys::cuMemAllocPitch_v2(&mut address, &mut pitch, 10, 4, 4) });
    assert!(pitch >= 10 && pitch % 256 == 0);
    ok(unsafe { sys::cuMemsetD2D8_v2(address, pitch, 9, 10, 4) });

    // Columns 3..8 of rows 1..3 of a host matrix of 20 columns, to columns 2..7 of the same rows.
    let host = counting(20 * 4);
    // SAFETY: all fields are integers and pointers, for which zero is a value.
    let mut copy: sys::CUDA_MEMCPY2D = unsafe { MaybeUninit::zeroed().assume_init() };
    copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_HOST;
    copy.srcHost = host.as_ptr().cast();
    copy.srcPitch = 20;
    copy.srcXInBytes = 3;
    copy.srcY = 1;
    copy.dstMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = address;
    copy.dstPitch = pitch;
    copy.dstXInBytes = 2;
    copy.dstY = 1;
    copy.WidthInBytes = 5;
    copy.Height = 2;
    ok(unsafe { sys::cuMemcpy2D_v2(&copy) });

    for row in 0..4 {
        let mut expected = vec![9; 10];
        if (1..3).contains(&row) {
            expected[2..7].copy_from_slice(&host[row * 20 + 3..row * 20 + 8]);
        }
        assert_eq!(
            read(address + (row * pitch) as u64, 10),
            expected,
            "row {row}"
        );
    }

    copy.srcPitch = 7;
    let overlapping = unsafe { sys::cuMemcpy2D_v2(&copy) };
    assert_eq!(
        overlapping,
        CUresult::CUDA_ERROR_INVALID_VALUE,
        "rows wider than their pitch"
    );
    ok(free(address));
}

#[test]
fn planes_are_copied() {
    let _context = context();
    let address = alloc(2 * 3 * 4);
    let host = counting(2 * 3 * 4);
    // SAFETY: all fields are integers and pointers, for which zero is a value.
    let mut copy: sys::CUDA_MEMCPY3D = unsafe { MaybeUninit::zeroed().assume_init() };
    copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_HOST;
    copy.srcHost = host.as_ptr().cast();
    (copy.srcPitch, copy.srcHeight) = (4, 3);
    copy.dstMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = address;
    (copy.dstPitch, copy.dstHeight) = (4, 3);
    (copy.WidthInBytes, copy.Height, copy.Depth) = (4, 3, 2);
    ok(unsafe { sys::cuMemcpy3D_v2(&copy) });
    assert_eq!(read(address, host.len()), host);
    ok(free(address));
}

#[test]
fn the_unified_copy_tells_the_memories_apart() {
    let _context = context();
    let address = alloc(8);
    let (from, mut to) = ([5_u8; 8], [0_u8; 8]);
    unsafe {
        ok(sys::cuMemcpy(
            address,
            from.as_ptr().expose_provenance() as u64,
            8,
        ));
        ok(sys::cuMemcpy(
            to.as_mut_ptr().expose_provenance() as u64,
            address,
            8,
        ));
        assert_eq!(
            sys::cuMemcpy(address + (1 << 30), address, 8),
            CUresult::CUDA_ERROR_INVALID_VALUE,
            "a wild address of the device is not one of the host"
        );
    }
    assert_eq!(to, from);
    ok(free(address));
}

#[test]
fn pinned_memory_is_memory() {
    let context = context();
    let stream = context.default_stream();
    let mut pinned = unsafe { context.alloc_pinned::<u32>(1000) }.expect("host memory");
    let values = pinned.as_mut_slice().expect("no copy is under way");
    for (index, value) in values.iter_mut().enumerate() {
        *value = index as u32;
    }
    let device = stream.clone_htod(&pinned).expect("a copy");
    assert_eq!(stream.clone_dtoh(&device).expect("a copy")[999], 999);

    let mut local = [0_u8; 64];
    let pointer: *mut c_void = local.as_mut_ptr().cast();
    unsafe {
        ok(sys::cuMemHostRegister_v2(pointer, 64, 0));
        let again = sys::cuMemHostRegister_v2(pointer.byte_add(32), 64, 0);
        assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        ok(sys::cuMemHostUnregister(pointer));
        let gone = sys::cuMemHostUnregister(pointer);
        assert_eq!(gone, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        assert_eq!(
            sys::cuMemFreeHost(pointer),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
}

#[test]
fn pointers_know_where_they_point() {
    let context = context();
    let address = alloc(100);
    let ask = |attribute, value: &mut u64, address| unsafe {
        sys::cuPointerGetAttribute((&raw mut *value).cast(), attribute, address)
    };
    let mut value = 0;
    ok(ask(
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
        &mut value,
        address + 50,
    ));
    assert_eq!(value, address);
    ok(ask(
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        &mut value,
        address + 50,
    ));
    assert_eq!(value, 100);
    ok(ask(
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT,
        &mut value,
        address,
    ));
    assert_eq!(value, context.cu_ctx().addr() as u64);
    value = 0;
    ok(ask(
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        &mut value,
        address,
    ));
    assert_eq!(value, CUmemorytype::CU_MEMORYTYPE_DEVICE as u64);
    let of_host = ask(
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_HOST_POINTER,
        &mut value,
        address,
    );
    assert_eq!(of_host, CUresult::CUDA_ERROR_INVALID_VALUE);
    let unknown = (&raw const value).addr() as u64;
    let unknown = ask(
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        &mut value,
        unknown,
    );
    assert_eq!(unknown, CUresult::CUDA_ERROR_INVALID_VALUE);
    ok(free(address));
}

#[test]
fn pools_count_what_is_in_use() {
    let context = context();
    let stream = context.new_stream().expect("a stream");
    // SAFETY: all fields are numbers and a pointer, for which zero is a value.
    let mut properties: sys::CUmemPoolProps = unsafe { MaybeUninit::zeroed().assume_init() };
    properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    let mut pool = std::ptr::null_mut();
    ok(unsafe { sys::cuMemPoolCreate(&mut pool, &properties) });
    let count = |attribute| {
        let mut bytes = 0_u64;
        ok(unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()) });
        bytes
    };
    let mut address = 0;
    let stream = stream.cu_stream();
    ok(unsafe { sys::cuMemAllocFromPoolAsync(&mut address, 300, pool, stream) });
    let used = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
    let high = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    assert_eq!((count(used), count(high)), (300, 300));
    ok(unsafe { sys::cuMemFreeAsync(address, stream) });
    assert_eq!((count(used), count(high)), (0, 300));
    ok(unsafe { sys::cuMemPoolDestroy(pool) });
    let gone = unsafe { sys::cuMemPoolTrimTo(pool, 0) };
    assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_VALUE);
}
