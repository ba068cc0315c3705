//! What a failing kernel does to its context, and what is reported of it.

#![allow(unsafe_code)] // the driver API is C

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use cusim::Report;
use cusim::fault::FaultKind;

/// Each test has kernels of its own name, since all reports of the process are in one list. Every
/// kernel stores a word `offset` bytes behind the start of `numbers`; `trapping` traps first.
fn ptx(name: &str) -> String {
    format!(
        r#"
.version 7.0
.target sm_80
.address_size 64
.file 1 "store.cu"
.visible .entry {name}(.param .u64 numbers, .param .u64 offset)
{{
    .reg .b32 %r<2>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [numbers];
    ld.param.u64 %rd2, [offset];
    cvta.to.global.u64 %rd1, %rd1;
    add.s64 %rd3, %rd1, %rd2;
    mov.u32 %r1, 7;
    .loc 1 12 3
    st.global.u32 [%rd3], %r1;
    ret;
}}
.visible .entry {name}_trap()
{{
    trap;
    ret;
}}
"#
    )
}

/// Line of the store in the text above.
const STORE_LINE: u32 = 16;

/// A context that is the test's own, to be broken.
struct Own {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: &'static str,
    store: CudaFunction,
    numbers: CudaSlice<u32>,
}

const LEN: usize = 16;

fn own(name: &'static str) -> Own {
    cusim::Device::select(cusim::Choice::Cusim).expect("the emulator's library");
    let context = CudaContext::new_non_primary(0, 0).expect("a context");
    // Else a launch would also record an event, which fails once the kernel has.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().expect("a stream");
    let module = context
        .load_module(Ptx::from_src(ptx(name)))
        .expect("a module");
    Own {
        store: module.load_function(name).expect("a kernel"),
        numbers: stream.alloc_zeros(LEN).expect("memory"),
        context,
        stream,
        name,
    }
}

impl Own {
    fn store(&mut self, offset: u64) -> Result<(), DriverError> {
        let mut call = self.stream.launch_builder(&self.store);
        call.arg(&mut self.numbers).arg(&offset);
        let one = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (1, 1, 1),
            shared_mem_bytes: 0,
        };
        unsafe { call.launch(one) }.map(|_| ())
    }

    /// What the context returns from now on.
    fn state(&self) -> CUresult {
        self.context.bind_to_thread().expect("a living context");
        unsafe { sys::cuCtxSynchronize() }
    }

    fn reports(&self) -> Vec<Report> {
        let mut reports = cusim::reports();
        reports.retain(|report| report.kernel.starts_with(self.name));
        reports
    }
}

#[test]
fn a_store_inside_is_no_fault() {
    let mut own = own("inside");
    own.store(4 * (LEN as u64 - 1)).expect("a launch");
    let numbers = own.stream.clone_dtoh(&own.numbers).expect("numbers");
    assert_eq!(numbers[LEN - 1], 7);
    assert_eq!(own.reports(), []);
}

#[test]
fn a_store_outside_is_an_illegal_address() {
    let mut own = own("outside");
    own.store(4 * LEN as u64)
        .expect("the launch itself succeeds");
    assert_eq!(own.state(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let reports = own.reports();
    let [report] = reports.as_slice() else {
        panic!("one fault, not {}", reports.len());
    };
    assert_eq!(report.kind, FaultKind::IllegalAddress);
    assert_eq!(report.status, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS as u32);
    assert_eq!(report.kernel, "outside");
    assert_eq!(report.source.as_deref(), Some("store.cu:12"));
    assert_eq!(report.ptx_line, STORE_LINE);
    assert_eq!((report.cta, report.warp, report.lanes), ([0; 3], 0, 1));
    assert!(report.instruction.starts_with("st.global"), "{report}");
    for part in ["outside", "store.cu:12", "lane 0"] {
        assert!(report.text.contains(part), "{part} in: {report}");
    }
}

#[test]
fn a_store_across_words_is_misaligned() {
    let mut own = own("across");
    own.store(2).expect("the launch itself succeeds");
    assert_eq!(own.state(), CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
    assert_eq!(own.reports()[0].kind, FaultKind::MisalignedAddress);
}

#[test]
fn a_trap_fails_the_launch() {
    let own = own("sprung");
    let module = own.context.load_module(Ptx::from_src(ptx("sprung")));
    let trap = module
        .and_then(|module| module.load_function("sprung_trap"))
        .expect("a kernel");
    let config = LaunchConfig::for_num_elems(1);
    unsafe { own.stream.launch_builder(&trap).launch(config) }.expect("the launch itself succeeds");
    assert_eq!(own.state(), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    assert_eq!(own.reports()[0].kind, FaultKind::Trap);
}

/// A buffer that is gone when the kernel runs.
#[test]
fn a_store_after_free_is_an_illegal_address() {
    let mut own = own("freed");
    let start = address(&own.numbers, &own.stream);
    let other = own.stream.alloc_zeros::<u32>(LEN).expect("memory");
    let distance = address(&other, &own.stream).wrapping_sub(start);
    drop(other);
    own.store(distance).expect("the launch itself succeeds");
    assert_eq!(own.state(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let report = &own.reports()[0];
    assert_eq!(report.address, Some(start.wrapping_add(distance)));
    assert!(report.text.contains("free"), "{report}");
}

fn address(slice: &CudaSlice<u32>, stream: &CudaStream) -> u64 {
    use cudarc::driver::DevicePtr;
    slice.device_ptr(stream).0
}

#[test]
fn after_a_fault_everything_fails_alike_but_cleaning_up() {
    let mut own = own("sticky");
    let kept = own.stream.alloc_zeros::<u32>(4).expect("memory");
    let event = own.stream.record_event(None).expect("an event");
    own.store(4 * LEN as u64)
        .expect("the launch itself succeeds");
    let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    own.context.bind_to_thread().expect("a living context");
    let (stream, pointer) = (own.stream.cu_stream(), address(&kept, &own.stream));
    let mut word = 0u32;
    let mut other = std::ptr::null_mut();
    let mut late = std::ptr::null_mut();
    let mut memory = 0;
    unsafe {
        let host = (&raw mut word).cast();
        assert_eq!(sys::cuStreamSynchronize(stream), illegal);
        assert_eq!(sys::cuStreamQuery(stream), illegal);
        assert_eq!(sys::cuMemcpyDtoH_v2(host, pointer, 4), illegal);
        assert_eq!(sys::cuMemcpyHtoDAsync_v2(pointer, host, 4, stream), illegal);
        assert_eq!(sys::cuMemsetD8_v2(pointer, 0, 4), illegal);
        assert_eq!(sys::cuMemAlloc_v2(&mut memory, 4), illegal);
        assert_eq!(sys::cuStreamCreate(&mut other, 0), illegal);
        assert_eq!(sys::cuEventCreate(&mut late, 0), illegal);
    }
    assert_eq!(own.store(0), Err(DriverError(illegal)));
    assert_eq!(
        own.reports().len(),
        1,
        "what was refused is not reported again"
    );
    let weak = Arc::downgrade(&own.context);
    drop((kept, event, own));
    assert!(weak.upgrade().is_none());
    // A new context starts afresh.
    let mut next = self::own("afresh");
    next.store(0).expect("a launch");
    assert_eq!(next.state(), CUresult::CUDA_SUCCESS);
}

#[test]
fn other_contexts_and_threads_are_unharmed() {
    let mut broken = own("broken");
    broken
        .store(4 * LEN as u64)
        .expect("the launch itself succeeds");
    assert_eq!(broken.state(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut own = own("sound");
                for _ in 0..20 {
                    own.store(4 * thread).expect("a launch");
                }
                own.stream.clone_dtoh(&own.numbers).expect("numbers")
            })
        })
        .collect();
    for (thread, handle) in threads.into_iter().enumerate() {
        let numbers = handle.join().expect("no panic");
        let expected: Vec<u32> = (0..LEN).map(|i| if i == thread { 7 } else { 0 }).collect();
        assert_eq!(numbers, expected);
    }
}
