//! Memory that the host and the device share: managed, pinned and registered.

#![allow(unsafe_code)] // the driver API is C

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUpointer_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// Adds one to the word of each thread.
const PTX: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.visible .entry increment(.param .u64 words)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [words];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd1, %rd1, %rd2;
    ld.u32 %r2, [%rd1];
    add.s32 %r2, %r2, 1;
    st.u32 [%rd1], %r2;
    ret;
}
"#;

struct Own {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    increment: CudaFunction,
}

fn own() -> Own {
    cusim::Device::select(cusim::Choice::Cusim).expect("the emulator's library");
    let context = CudaContext::new_non_primary(0, 0).expect("a context");
    let stream = context.new_stream().expect("a stream");
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    Own {
        increment: module.load_function("increment").expect("a kernel"),
        context,
        stream,
    }
}

impl Own {
    fn increment(&self, address: u64, threads: u32) {
        let mut launch = self.stream.launch_builder(&self.increment);
        launch.arg(&address);
        let config = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        unsafe { launch.launch(config) }.expect("a launch");
    }
}

fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

fn attribute(attribute: CUpointer_attribute, address: u64) -> Result<u64, CUresult> {
    let mut value = 0_u64;
    match unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), attribute, address) } {
        CUresult::CUDA_SUCCESS => Ok(value),
        error => Err(error),
    }
}

#[test]
fn managed_memory_is_one_memory() {
    let own = own();
    let mut address = 0;
    ok(unsafe { sys::cuMemAllocManaged(&mut address, 4096, 1) });
    let host = std::ptr::with_exposed_provenance_mut::<u32>(address as usize);
    // SAFETY: the allocation has 1024 words, which only this thread and its launches access.
    let words = || unsafe { std::slice::from_raw_parts_mut(host, 1024) };
    words().fill(41);
    own.increment(address, 1000);
    own.stream.synchronize().expect("no fault");
    assert_eq!((words()[999], words()[1000]), (42, 41));
    words()[0] = 6;
    own.increment(address, 1);
    assert_eq!((words()[0], words()[1]), (7, 42));
    own.stream.synchronize().expect("no fault");
    // Copies and fills see what the host stored, and the host what they did.
    unsafe {
        ok(sys::cuMemsetD32_v2(address, 9, 2));
        assert_eq!(words()[..3], [9, 9, 42]);
        words()[2] = 5;
        let mut copied = [0_u32; 3];
        ok(sys::cuMemcpyDtoH_v2(
            copied.as_mut_ptr().cast(),
            address,
            12,
        ));
        assert_eq!(copied, [9, 9, 5]);
        ok(sys::cuMemcpy(address + 4, address + 8, 4));
    }
    assert_eq!(words()[1], 5);
    assert_eq!(
        attribute(
            CUpointer_attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED,
            address
        ),
        Ok(1)
    );
    for pointer in [
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_HOST_POINTER,
    ] {
        assert_eq!(attribute(pointer, address), Ok(address));
    }
    unsafe {
        ok(sys::cuMemFree_v2(address));
        let again = sys::cuMemFree_v2(address);
        assert_eq!(again, CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn managed_memory_has_bounds() {
    let own = own();
    let mut address = 0;
    ok(unsafe { sys::cuMemAllocManaged(&mut address, 64, 1) });
    own.increment(address, 17);
    let failed = own.stream.synchronize().expect_err("one word too far");
    assert_eq!(failed.0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let refused = unsafe { sys::cuMemAllocManaged(&mut address, 64, 9) };
    assert_ne!(refused, CUresult::CUDA_SUCCESS);
}

#[test]
fn hints_are_taken_for_managed_memory_alone() {
    let own = own();
    let (mut managed, mut device) = (0, 0);
    let stream = own.stream.cu_stream();
    unsafe {
        ok(sys::cuMemAllocManaged(&mut managed, 4096, 1));
        ok(sys::cuMemAlloc_v2(&mut device, 4096));
        ok(sys::cuMemPrefetchAsync(managed, 4096, 0, stream));
        ok(sys::cuMemPrefetchAsync(managed, 100, -1, stream));
        let read_mostly = sys::CUmem_advise::CU_MEM_ADVISE_SET_READ_MOSTLY;
        ok(sys::cuMemAdvise(managed, 4096, read_mostly, 0));
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        assert_eq!(sys::cuMemPrefetchAsync(device, 16, 0, stream), invalid);
        assert_eq!(sys::cuMemPrefetchAsync(managed, 4097, 0, stream), invalid);
        assert_eq!(sys::cuMemAdvise(device, 16, read_mostly, 0), invalid);
        assert_eq!(
            sys::cuMemPrefetchAsync(managed, 16, 7, stream),
            CUresult::CUDA_ERROR_INVALID_DEVICE
        );
    }
}

#[test]
fn pinned_memory_is_mapped() {
    let own = own();
    let mut pointer = std::ptr::null_mut();
    let mut address = 0;
    unsafe {
        ok(sys::cuMemHostAlloc(&mut pointer, 256, 2));
        let words = std::slice::from_raw_parts_mut(pointer.cast::<u32>(), 64);
        words.fill(7);
        ok(sys::cuMemHostGetDevicePointer_v2(&mut address, pointer, 0));
        own.increment(address, 64);
        assert_eq!(words[63], 8);
        assert_eq!(
            attribute(
                CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
                address
            ),
            Ok(address)
        );
        ok(sys::cuMemFreeHost(pointer));
    }
    own.increment(address, 1);
    let failed = own.stream.synchronize().expect_err("it was freed");
    assert_eq!(failed.0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn registered_memory_is_mapped_until_it_is_not() {
    let own = own();
    let mut words = vec![1_u32; 64];
    let pointer: *mut c_void = words.as_mut_ptr().cast();
    let mut address = 0;
    unsafe {
        let unknown = sys::cuMemHostGetDevicePointer_v2(&mut address, pointer, 0);
        assert_eq!(unknown, CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(sys::cuMemHostRegister_v2(pointer, 256, 2));
        ok(sys::cuMemHostGetDevicePointer_v2(
            &mut address,
            pointer.byte_add(128),
            0,
        ));
        own.increment(address, 32);
        ok(sys::cuMemHostUnregister(pointer));
    }
    assert_eq!((words[31], words[32], words[63]), (1, 2, 2));
}

#[test]
fn absurd_sizes_are_errors() {
    let _own = own();
    let (mut address, mut pointer) = (0, std::ptr::null_mut());
    let mut word = 0_u32;
    let word: *mut c_void = (&raw mut word).cast();
    let absurd = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    unsafe {
        for bytes in [1 << 45, usize::MAX] {
            assert_eq!(sys::cuMemAllocManaged(&mut address, bytes, 1), absurd);
            assert_eq!(sys::cuMemHostAlloc(&mut pointer, bytes, 0), absurd);
            assert_eq!(sys::cuMemHostRegister_v2(word, bytes, 0), invalid);
        }
        assert_eq!(sys::cuMemAllocManaged(&mut address, 0, 1), invalid);
        assert_eq!(sys::cuMemAllocManaged(std::ptr::null_mut(), 16, 1), invalid);
        let nowhere = std::ptr::without_provenance_mut(0x7000_0000_0000);
        assert_eq!(sys::cuMemHostRegister_v2(nowhere, 4096, 0), invalid);
    }
}

#[test]
fn what_the_host_stores_meanwhile_is_kept() {
    unsafe extern "C" fn store(data: *mut c_void) {
        // SAFETY: the test passes the second of two words that live longer than this call.
        unsafe { data.cast::<u32>().write(77) };
    }
    let own = own();
    let mut address = 0;
    ok(unsafe { sys::cuMemAllocManaged(&mut address, 8, 1) });
    own.increment(address, 1);
    let second = std::ptr::with_exposed_provenance_mut::<c_void>(address as usize + 4);
    ok(unsafe { sys::cuLaunchHostFunc(own.stream.cu_stream(), Some(store), second) });
    own.increment(address, 2);
    let host = std::ptr::with_exposed_provenance::<[u32; 2]>(address as usize);
    // SAFETY: two words were allocated there, and nothing runs.
    assert_eq!(unsafe { *host }, [2, 78]);
}

#[test]
fn the_device_says_that_memory_is_shared() {
    let own = own();
    use sys::CUdevice_attribute as Attribute;
    for has in [
        Attribute::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY,
        Attribute::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY,
        Attribute::CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
        Attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
    ] {
        assert_eq!(own.context.attribute(has).expect("an attribute"), 1);
    }
    let pageable = Attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS;
    assert_eq!(own.context.attribute(pageable).expect("an attribute"), 0);
}
