//! Several devices, and access from one to the memory of another.

#![allow(unsafe_code)] // the driver API is C

use std::sync::{Arc, Once};

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DevicePtr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// Copies one word.
const PTX: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.visible .entry copy_word(.param .u64 from, .param .u64 to)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [from];
    ld.param.u64 %rd2, [to];
    ld.global.u32 %r1, [%rd1];
    st.global.u32 [%rd2], %r1;
    ret;
}
"#;

/// Two contexts, each on a device of its own.
fn contexts() -> [Arc<CudaContext>; 2] {
    static TWO: Once = Once::new();
    TWO.call_once(|| {
        // SAFETY: all tests of this program wait here, so no other thread reads the environment.
        unsafe { std::env::set_var("CUSIM_DEVICES", "2") };
        cusim::Device::select(cusim::Choice::Cusim).expect("the emulator's library");
    });
    [0, 1].map(|device| {
        let context = CudaContext::new_non_primary(device, 0).expect("a context");
        unsafe { context.disable_event_tracking() };
        context
    })
}

fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// Copies a word of another device with a kernel of this stream's.
fn fetch(stream: &Arc<CudaStream>, from: u64) -> Result<u32, CUresult> {
    let module = stream.context().load_module(Ptx::from_src(PTX));
    let kernel = module.expect("a module").load_function("copy_word");
    let kernel = kernel.expect("a kernel");
    let mut to = stream.alloc_zeros::<u32>(1).expect("memory");
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&from).arg(&mut to);
    let one = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    };
    unsafe { launch.launch(one) }.expect("a launch");
    let word = stream.clone_dtoh(&to).map_err(|error| error.0)?;
    Ok(word[0])
}

#[test]
fn devices_are_apart() {
    let contexts = contexts();
    assert_eq!(CudaContext::device_count().expect("a count"), 2);
    assert!(CudaContext::new(2).is_err());
    let uuids = [0, 1].map(|device| unsafe {
        let mut uuid = std::mem::zeroed::<sys::CUuuid>();
        ok(sys::cuDeviceGetUuid_v2(&mut uuid, device));
        uuid.bytes
    });
    assert_ne!(uuids[0], uuids[1]);
    for (device, context) in contexts.iter().enumerate() {
        context.bind_to_thread().expect("a context");
        let mut number = -1;
        ok(unsafe { sys::cuCtxGetDevice(&mut number) });
        assert_eq!(number, device as i32);
    }
    let free = |context: &Arc<CudaContext>| context.mem_get_info().expect("numbers").0;
    let before = contexts.each_ref().map(free);
    let stream = contexts[1].new_stream().expect("a stream");
    let memory = unsafe { stream.alloc::<u8>(1 << 30) }.expect("memory");
    let after = contexts.each_ref().map(free);
    // Other tests allocate a few words meanwhile.
    assert!(before[0].abs_diff(after[0]) < 1 << 20);
    assert!(before[1] - after[1] > (1 << 30) - (1 << 20));
    drop(memory);
}

#[test]
fn kernels_reach_a_peer_once_access_is_enabled() {
    let [first, second] = contexts();
    first.bind_to_thread().expect("a context");
    let mut theirs = 0;
    unsafe {
        let mut can = 0;
        ok(sys::cuDeviceCanAccessPeer(&mut can, 0, 1));
        assert_eq!(can, 1);
        ok(sys::cuDeviceCanAccessPeer(&mut can, 0, 0));
        assert_eq!(can, 0, "no device is its own peer");
        second.bind_to_thread().expect("a context");
        ok(sys::cuMemAlloc_v2(&mut theirs, 4));
        ok(sys::cuMemsetD32_v2(theirs, 5, 1));
        ok(sys::cuCtxSynchronize());

        first.bind_to_thread().expect("a context");
        let (own, peer) = (first.cu_ctx(), second.cu_ctx());
        assert_eq!(
            sys::cuCtxDisablePeerAccess(peer),
            CUresult::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED
        );
        assert_eq!(
            sys::cuCtxEnablePeerAccess(own, 0),
            CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED
        );
        ok(sys::cuCtxEnablePeerAccess(peer, 0));
        assert_eq!(
            sys::cuCtxEnablePeerAccess(peer, 0),
            CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
        );
    }
    let stream = first.new_stream().expect("a stream");
    assert_eq!(fetch(&stream, theirs), Ok(5));
    ok(unsafe { sys::cuCtxDisablePeerAccess(second.cu_ctx()) });
    let failed = fetch(&stream, theirs);
    assert_eq!(failed, Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    let report = cusim::reports().pop().expect("a report");
    assert!(report.text.contains("may not access"), "{}", report.text);
}

#[test]
fn copies_between_devices_need_no_access() {
    let [first, second] = contexts();
    let streams = [&first, &second].map(|context| context.new_stream().expect("a stream"));
    let from = streams[0].clone_htod(&[1_u32, 2, 3]).expect("a copy");
    let to = streams[1].alloc_zeros::<u32>(3).expect("memory");
    streams[0].synchronize().expect("an idle stream");
    streams[1].synchronize().expect("an idle stream");
    let (source, target) = (from.device_ptr(&streams[0]).0, to.device_ptr(&streams[1]).0);
    let copied = unsafe {
        sys::cuMemcpyPeerAsync(
            target,
            second.cu_ctx(),
            source,
            first.cu_ctx(),
            12,
            streams[1].cu_stream(),
        )
    };
    ok(copied);
    assert_eq!(streams[1].clone_dtoh(&to).expect("words"), [1, 2, 3]);
}

#[test]
fn pools_are_opened_to_devices() {
    let [first, second] = contexts();
    let stream = second.new_stream().expect("a stream");
    // SAFETY: all fields are numbers and a pointer, for which zero is a value.
    let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = 1;
    let (mut pool, mut address) = (std::ptr::null_mut(), 0);
    let access = |flags| {
        // SAFETY: as above.
        let mut access: sys::CUmemAccessDesc = unsafe { std::mem::zeroed() };
        access.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        access.flags = flags;
        access
    };
    let open = access(sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    unsafe {
        ok(sys::cuMemPoolCreate(&mut pool, &properties));
        ok(sys::cuMemAllocFromPoolAsync(
            &mut address,
            4,
            pool,
            stream.cu_stream(),
        ));
        ok(sys::cuMemsetD32Async(address, 8, 1, stream.cu_stream()));
        ok(sys::cuStreamSynchronize(stream.cu_stream()));
        ok(sys::cuMemPoolSetAccess(pool, &open, 1));
    }
    let reader = first.new_stream().expect("a stream");
    assert_eq!(fetch(&reader, address), Ok(8));
    let closed = access(sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_NONE);
    ok(unsafe { sys::cuMemPoolSetAccess(pool, &closed, 1) });
    assert_eq!(
        fetch(&reader, address),
        Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)
    );
}
