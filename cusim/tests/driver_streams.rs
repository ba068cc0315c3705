//! Contexts, streams and events of the emulated driver, through cudarc's bindings.

#![allow(unsafe_code)] // the driver API is C

use std::ffi::{CStr, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cudarc::driver::sys::{self, CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DevicePtr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

fn context() -> Arc<CudaContext> {
    cusim::Device::select(cusim::Choice::Cusim)
        .expect("the emulator's library is built with the tests");
    CudaContext::new(0).expect("the emulator has a device")
}

/// A call that is to succeed.
fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

#[test]
fn the_device_is_the_modelled_gpu() {
    let context = context();
    assert_eq!(CudaContext::device_count().expect("a count"), 1);
    let (major, minor) = context.compute_capability().expect("a capability");
    let name = context.name().expect("a name");
    assert!(name.contains("cusim"), "{name} must not be taken for a GPU");
    assert!(name.contains(&format!("sm_{major}{minor}")), "{name}");
    assert!(context.has_async_alloc());
    assert!(CudaContext::new(1).is_err());
    let mut version = 0;
    ok(unsafe { sys::cuDriverGetVersion(&mut version) });
    assert!(version >= 12080);
}

#[test]
fn events_keep_the_time() {
    let context = context();
    let stream = context.new_stream().expect("a stream");
    let timing = Some(CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(timing).expect("an event");
    std::thread::sleep(Duration::from_millis(20));
    let end = stream.record_event(timing).expect("an event");
    assert!(end.is_complete());
    let elapsed = start.elapsed_ms(&end).expect("a time");
    assert!((20.0..10_000.0).contains(&elapsed), "{elapsed} ms");
    assert!(end.elapsed_ms(&start).expect("a time") < 0.0);

    let untimed = stream.record_event(None).expect("an event");
    assert!(start.elapsed_ms(&untimed).is_err());
}

#[test]
fn streams_wait_for_events_and_report_what_they_are() {
    let context = context();
    let stream = context.new_stream_with_priority(-1).expect("a stream");
    let other = stream.fork().expect("a stream");
    other.join(&stream).expect("nothing to wait for");
    other.synchronize().expect("an idle stream");
    let mut priority = 9;
    ok(unsafe { sys::cuStreamGetPriority(stream.cu_stream(), &mut priority) });
    assert_eq!(priority, -1);
    let mut flags = 9;
    ok(unsafe { sys::cuStreamGetFlags(stream.cu_stream(), &mut flags) });
    assert_eq!(
        flags, 1,
        "cudarc's streams do not wait for the default stream"
    );
    ok(unsafe { sys::cuStreamQuery(stream.cu_stream()) });
    context
        .per_thread_stream()
        .synchronize()
        .expect("a default stream");
}

#[test]
fn functions_of_the_host_run_in_their_stream() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn count(data: *mut c_void) {
        CALLS.fetch_add(data.addr() as u32, Ordering::SeqCst);
    }
    let context = context();
    let stream = context.new_stream().expect("a stream");
    let data = std::ptr::without_provenance_mut(5);
    ok(unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(count), data) });
    stream.synchronize().expect("a stream");
    assert_eq!(CALLS.load(Ordering::SeqCst), 5);
    let nothing = unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), None, data) };
    assert_eq!(nothing, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn wrong_handles_are_errors_and_not_crashes() {
    let context = context();
    let mut stream = std::ptr::null_mut();
    ok(unsafe { sys::cuStreamCreate(&mut stream, 0) });
    ok(unsafe { sys::cuStreamDestroy_v2(stream) });
    let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
    unsafe {
        assert_eq!(sys::cuStreamDestroy_v2(stream), invalid);
        assert_eq!(sys::cuStreamSynchronize(stream), invalid);
        assert_eq!(
            sys::cuEventRecord(std::ptr::null_mut(), std::ptr::null_mut()),
            invalid
        );
        assert_eq!(sys::cuEventSynchronize(context.cu_ctx().cast()), invalid);
        assert_eq!(sys::cuModuleUnload(stream.cast()), invalid);
        let wild = std::ptr::without_provenance_mut(0x1234_5678);
        assert_eq!(sys::cuStreamQuery(wild), invalid);
        assert_eq!(
            sys::cuCtxSetCurrent(wild.cast()),
            CUresult::CUDA_ERROR_INVALID_CONTEXT
        );
        assert_eq!(
            sys::cuStreamCreate(&mut stream, 99),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        let nowhere = std::ptr::null_mut();
        assert_eq!(
            sys::cuStreamCreate(nowhere, 0),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
}

#[test]
fn every_thread_has_a_stack_of_contexts() {
    let primary = context();
    std::thread::scope(|scope| {
        scope.spawn(|| unsafe {
            let mut current = std::ptr::null_mut();
            ok(sys::cuCtxGetCurrent(&mut current));
            assert!(current.is_null(), "a new thread has no context");
            assert_eq!(
                sys::cuCtxSynchronize(),
                CUresult::CUDA_ERROR_INVALID_CONTEXT
            );

            let mut own = std::ptr::null_mut();
            ok(sys::cuCtxCreate_v2(&mut own, 0, 0));
            ok(sys::cuCtxPushCurrent_v2(primary.cu_ctx()));
            ok(sys::cuCtxGetCurrent(&mut current));
            assert_eq!(current, primary.cu_ctx());
            ok(sys::cuCtxPopCurrent_v2(&mut current));
            assert_eq!(current, primary.cu_ctx());
            ok(sys::cuCtxGetCurrent(&mut current));
            assert_eq!(current, own);

            // What lives in a context goes with it.
            let (mut stream, mut address) = (std::ptr::null_mut(), 0);
            ok(sys::cuStreamCreate(&mut stream, 0));
            ok(sys::cuMemAlloc_v2(&mut address, 64));
            ok(sys::cuCtxDestroy_v2(own));
            assert_eq!(
                sys::cuCtxSynchronize(),
                CUresult::CUDA_ERROR_INVALID_CONTEXT
            );
            ok(sys::cuCtxPushCurrent_v2(primary.cu_ctx()));
            assert_eq!(
                sys::cuStreamSynchronize(stream),
                CUresult::CUDA_ERROR_INVALID_HANDLE
            );
            assert_eq!(
                sys::cuMemFree_v2(address),
                CUresult::CUDA_ERROR_INVALID_VALUE
            );
        });
    });
}

#[test]
fn the_memory_of_a_context_goes_with_it() {
    const PTX: &CStr =
        c".version 7.0 .target sm_80 .address_size 64 .visible .global .u32 kept[25];";
    let primary = context();
    let (mut own, mut module, mut stream) = (
        std::ptr::null_mut(),
        std::ptr::null_mut(),
        std::ptr::null_mut(),
    );
    let (mut allocated, mut pooled, mut variable, mut bytes) = (0, 0, 0, 0);
    let used = || {
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        let (mut pool, mut used) = (std::ptr::null_mut(), 0_u64);
        unsafe {
            ok(sys::cuDeviceGetDefaultMemPool(&mut pool, 0));
            ok(sys::cuMemPoolGetAttribute(
                pool,
                attribute,
                (&raw mut used).cast(),
            ));
        }
        used
    };
    unsafe {
        ok(sys::cuCtxCreate_v2(&mut own, 0, 0));
        ok(sys::cuMemAlloc_v2(&mut allocated, 64));
        ok(sys::cuStreamCreate(&mut stream, 0));
        ok(sys::cuMemAllocAsync(&mut pooled, 1 << 24, stream));
        ok(sys::cuModuleLoadData(&mut module, PTX.as_ptr().cast()));
        ok(sys::cuModuleGetGlobal_v2(
            &mut variable,
            &mut bytes,
            module,
            c"kept".as_ptr(),
        ));
        assert_eq!(bytes, 100);
        // Other tests use the pool too, but not as much of it.
        assert!(used() >= 1 << 24);
        ok(sys::cuCtxDestroy_v2(own));
        assert!(used() < 1 << 24);
        ok(sys::cuCtxPushCurrent_v2(primary.cu_ctx()));
        for address in [allocated, pooled, variable] {
            let found = sys::cuMemGetAddressRange_v2(&mut 0, &mut 0, address);
            assert_eq!(found, CUresult::CUDA_ERROR_NOT_FOUND);
        }
        assert_eq!(
            sys::cuModuleUnload(module),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
    }
}

#[test]
fn contexts_keep_their_settings() {
    let context = CudaContext::new_non_primary(
        {
            self::context();
            0
        },
        0,
    )
    .expect("a context");
    let stack = sys::CUlimit::CU_LIMIT_STACK_SIZE;
    context.set_limit(stack, 4096).expect("a limit");
    assert_eq!(context.get_limit(stack).expect("a limit"), 4096);
    let carveout = sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_SHARED;
    context.set_cache_config(carveout).expect("a preference");
    assert_eq!(context.get_cache_config().expect("a preference"), carveout);
    let mut version = 0;
    ok(unsafe { sys::cuCtxGetApiVersion(context.cu_ctx(), &mut version) });
    assert!(version > 0);
}

#[test]
fn several_threads_share_the_device() {
    let context = context();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let context = &context;
            scope.spawn(move || {
                let stream = context.new_stream().expect("a stream");
                for round in 0..20_u8 {
                    let data = vec![thread ^ round; 4096];
                    let device = stream.clone_htod(&data).expect("a copy");
                    assert_eq!(stream.clone_dtoh(&device).expect("a copy"), data);
                }
            });
        }
    });
}

#[test]
fn results_have_names_and_descriptions() {
    context();
    let name = |result| unsafe {
        let mut text = std::ptr::null();
        ok(sys::cuGetErrorName(result, &mut text));
        CStr::from_ptr(text).to_str().expect("ASCII").to_owned()
    };
    assert_eq!(name(CUresult::CUDA_SUCCESS), "CUDA_SUCCESS");
    assert_eq!(
        name(CUresult::CUDA_ERROR_LAUNCH_FAILED),
        "CUDA_ERROR_LAUNCH_FAILED"
    );
    let error = cudarc::driver::DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let text = error.error_string().expect("a description");
    assert_eq!(text.to_str(), Ok("out of memory"));
}

#[test]
fn functions_are_found_by_name() {
    context();
    let find = |name: &CStr| unsafe {
        let mut function = std::ptr::null_mut();
        let mut found = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
        ok(sys::cuGetProcAddress_v2(
            name.as_ptr(),
            &mut function,
            12080,
            0,
            &mut found,
        ));
        (function, found)
    };
    let (function, _) = find(c"cuDriverGetVersion");
    // SAFETY: the driver answered with the function of this name, which has this type.
    let version: unsafe extern "C" fn(*mut i32) -> CUresult =
        unsafe { std::mem::transmute(function) };
    let mut number = 0;
    ok(unsafe { version(&mut number) });
    assert!(number >= 12080);
    let (function, found) = find(c"cuNoSuchFunction");
    assert!(function.is_null());
    assert_eq!(
        found,
        sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
    );
}

/// Two streams that use one buffer: nothing orders them but what the program does between.
fn in_two_streams(between: impl Fn(&CudaStream, &CudaStream)) -> Result<(), CUresult> {
    let _ = cusim::Device::select(cusim::Choice::Cusim).expect("the emulator");
    let context = CudaContext::new_non_primary(0, 0).expect("a context");
    // Else cudarc itself makes the streams wait for each other.
    unsafe { context.disable_event_tracking() };
    let first = context.new_stream().expect("a stream");
    let second = context.new_stream().expect("a stream");
    let mut buffer = first.alloc_zeros::<u32>(64).expect("memory");
    first.synchronize().expect("no fault");
    first.memset_zeros(&mut buffer).expect("a fill");
    between(&first, &second);
    let copied = second.memset_zeros(&mut buffer);
    copied.map_err(|error| error.0)
}

#[test]
fn streams_that_write_one_buffer_must_be_ordered() {
    let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
    assert_eq!(in_two_streams(|_, _| {}), Err(failed));
    let ordered = in_two_streams(|first, second| second.join(first).expect("an event"));
    assert_eq!(ordered, Ok(()));
    let waited = in_two_streams(|first, _| first.synchronize().expect("no fault"));
    assert_eq!(waited, Ok(()));
}

/// Sets one word in `low` and one in `high` with the two lanes of one instruction.
const FAR_APART: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.visible .entry far_apart(.param .u64 low, .param .u64 high)
{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [low];
    ld.param.u64 %rd2, [high];
    mov.u32 %r1, %tid.x;
    setp.eq.u32 %p1, %r1, 0;
    selp.b64 %rd3, %rd1, %rd2, %p1;
    st.global.u32 [%rd3], %r1;
    ret;
}
"#;

#[test]
fn what_lies_between_the_addresses_of_lanes_is_not_accessed() {
    let _ = cusim::Device::select(cusim::Choice::Cusim).expect("the emulator");
    let context = CudaContext::new_non_primary(0, 0).expect("a context");
    // SAFETY: nothing outlives its last use here; the order of the streams is what is tested.
    unsafe { context.disable_event_tracking() };
    let first = context.new_stream().expect("a stream");
    let second = context.new_stream().expect("a stream");
    let module = context.load_module(Ptx::from_src(FAR_APART));
    let kernel = module.expect("a module").load_function("far_apart");
    let kernel = kernel.expect("a kernel");
    let mut low = first.alloc_zeros::<u32>(1).expect("memory");
    let between = second.alloc_zeros::<u32>(64).expect("memory");
    let mut high = first.alloc_zeros::<u32>(1).expect("memory");
    let addresses = [
        low.device_ptr(&first).0,
        between.device_ptr(&second).0,
        high.device_ptr(&first).0,
    ];
    assert!(addresses.is_sorted(), "{addresses:?}");
    // Freed in a stream that the launch is not ordered after.
    drop(between);
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (2, 1, 1),
        shared_mem_bytes: 0,
    };
    let mut launch = first.launch_builder(&kernel);
    launch.arg(&mut low).arg(&mut high);
    // SAFETY: the kernel writes one word of each buffer.
    unsafe { launch.launch(config) }.expect("a launch");
    assert_eq!(first.clone_dtoh(&low).expect("no race"), [0]);
    assert_eq!(first.clone_dtoh(&high).expect("no race"), [1]);
}
