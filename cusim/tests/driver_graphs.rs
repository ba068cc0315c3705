//! Graphs by capture of the emulated driver, through cudarc.

#![allow(unsafe_code)] // the driver API is C

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::CUstreamCaptureMode_enum as Mode;
use cudarc::driver::sys::{self, CUgraphInstantiate_flags as Flags, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, LaunchConfig,
    PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use cusim::fault::FaultKind;

/// Adds a number to each of 32 words.
const PTX: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 words, .param .u32 number)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [words];
    ld.param.u32 %r1, [number];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd1, %rd1, %rd2;
    ld.global.u32 %r3, [%rd1];
    add.s32 %r3, %r3, %r1;
    st.global.u32 [%rd1], %r3;
    ret;
}
"#;

const LEN: usize = 32;
const ONE_WARP: LaunchConfig = LaunchConfig {
    grid_dim: (1, 1, 1),
    block_dim: (LEN as u32, 1, 1),
    shared_mem_bytes: 0,
};

/// A context that is the test's own: what is captured in one can stop calls in it.
struct Own {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    add: CudaFunction,
}

fn own() -> Own {
    cusim::Device::select(cusim::Choice::Cusim).expect("the emulator's library");
    let context = CudaContext::new_non_primary(0, 0).expect("a context");
    // Else cudarc waits for events that were recorded before the capture, which no capture may.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().expect("a stream");
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    Own {
        add: module.load_function("add").expect("a kernel"),
        context,
        stream,
    }
}

impl Own {
    fn add(&self, stream: &Arc<CudaStream>, words: &mut CudaSlice<u32>, number: u32) {
        let mut launch = stream.launch_builder(&self.add);
        launch.arg(words).arg(&number);
        unsafe { launch.launch(ONE_WARP) }.expect("a launch");
    }

    fn words(&self) -> CudaSlice<u32> {
        let words = self.stream.alloc_zeros(LEN).expect("memory");
        self.stream.synchronize().expect("an idle stream");
        words
    }

    fn read(&self, words: &CudaSlice<u32>) -> u32 {
        let words = self.stream.clone_dtoh(words).expect("words");
        assert!(words.iter().all(|word| *word == words[0]), "{words:?}");
        words[0]
    }

    /// Captures with rules for this thread alone: other tests run beside this one.
    fn begin(&self) {
        self.stream
            .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .expect("a capture begins");
    }

    fn end(&self) -> CudaGraph {
        let graph = self.stream.end_capture(Flags(0)).expect("a capture");
        graph.expect("a graph")
    }

    fn end_error(&self) -> CUresult {
        match self.stream.end_capture(Flags(0)) {
            Ok(_) => CUresult::CUDA_SUCCESS,
            Err(error) => error.0,
        }
    }
}

fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

#[test]
fn what_is_captured_is_done_when_the_graph_is_launched() {
    let own = own();
    let mut words = own.words();
    let mut copy = own.words();
    own.begin();
    let status = own.stream.capture_status().expect("a status");
    assert_eq!(
        status,
        sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE
    );
    own.add(&own.stream, &mut words, 5);
    own.stream.memcpy_dtod(&words, &mut copy).expect("a copy");
    own.stream.memset_zeros(&mut words).expect("a fill");
    own.add(&own.stream, &mut words, 1);
    let graph = own.end();
    assert_eq!((own.read(&words), own.read(&copy)), (0, 0), "nothing ran");
    graph.launch().expect("a launch");
    assert_eq!((own.read(&words), own.read(&copy)), (1, 5));
    graph.upload().expect("an upload");
    graph.launch().expect("a launch");
    assert_eq!((own.read(&words), own.read(&copy)), (1, 6));
    let mut kinds = kinds(graph.cu_graph());
    kinds.sort_unstable();
    assert_eq!(kinds, [0, 0, 1, 2], "two kernels, a copy, a fill");
}

/// The types of a graph's nodes.
fn kinds(graph: sys::CUgraph) -> Vec<u32> {
    nodes(graph)
        .into_iter()
        .map(|node| unsafe {
            let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            ok(sys::cuGraphNodeGetType(node, &mut kind));
            kind as u32
        })
        .collect()
}

fn nodes(graph: sys::CUgraph) -> Vec<sys::CUgraphNode> {
    unsafe {
        let mut count = 0;
        ok(sys::cuGraphGetNodes(
            graph,
            std::ptr::null_mut(),
            &mut count,
        ));
        let mut nodes = vec![std::ptr::null_mut(); count];
        ok(sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
        nodes
    }
}

/// Captures a fill of `words` in one stream and an addition in another, with or without an event between the two.
fn forked(own: &Own, words: &mut CudaSlice<u32>, is_ordered: bool) -> CudaGraph {
    let other = own.context.new_stream().expect("a stream");
    own.begin();
    let start = own.stream.record_event(None).expect("an event");
    if is_ordered {
        own.stream.memset_zeros(words).expect("a fill");
        other.join(&own.stream).expect("a fork");
    } else {
        other.wait(&start).expect("a fork");
        own.stream.memset_zeros(words).expect("a fill");
    }
    own.add(&other, words, 3);
    own.stream.join(&other).expect("a join");
    own.end()
}

#[test]
fn branches_are_ordered_by_events_alone() {
    let own = own();
    let mut words = own.words();
    let graph = forked(&own, &mut words, true);
    let [mut count, mut roots] = [0; 2];
    let none = std::ptr::null_mut();
    ok(unsafe { sys::cuGraphGetEdges(graph.cu_graph(), none, std::ptr::null_mut(), &mut count) });
    ok(unsafe { sys::cuGraphGetRootNodes(graph.cu_graph(), std::ptr::null_mut(), &mut roots) });
    assert_eq!((count, roots), (1, 1));
    for _ in 0..3 {
        graph.launch().expect("a launch");
        assert_eq!(own.read(&words), 3);
    }

    let graph = forked(&own, &mut words, false);
    graph.launch().expect("the kernel fails, not its launch");
    let reports = cusim::reports();
    let mut races = reports
        .iter()
        .filter(|report| report.kind == FaultKind::Race);
    let text = &races.next().expect("a race").text;
    assert!(text.contains("cuMemsetD8Async"), "{text}");
    assert_eq!(
        own.stream.synchronize().expect_err("it races").0,
        CUresult::CUDA_ERROR_LAUNCH_FAILED
    );
}

#[test]
fn a_graph_is_in_order_with_its_stream() {
    let own = own();
    let mut words = own.words();
    own.begin();
    own.add(&own.stream, &mut words, 1);
    let graph = own.end();
    own.add(&own.stream, &mut words, 10);
    graph.launch().expect("a launch");
    own.add(&own.stream, &mut words, 100);
    assert_eq!(own.read(&words), 111);
    // Another stream knows nothing of it.
    let other = own.context.new_stream().expect("a stream");
    graph.launch().expect("a launch");
    let raced = other.memset_zeros(&mut words).expect_err("unordered");
    assert_eq!(raced.0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn functions_of_the_host_and_memory_are_part_of_graphs() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn count(data: *mut c_void) {
        CALLS.fetch_add(data.addr() as u32, Ordering::SeqCst);
    }
    let own = own();
    let mut words = own.words();
    own.begin();
    let mut scratch = own.stream.alloc_zeros::<u32>(LEN).expect("memory");
    let address = scratch.device_ptr(&own.stream).0;
    own.add(&own.stream, &mut scratch, 7);
    own.stream
        .memcpy_dtod(&scratch, &mut words)
        .expect("a copy");
    let data = std::ptr::without_provenance_mut(3);
    ok(unsafe { sys::cuLaunchHostFunc(own.stream.cu_stream(), Some(count), data) });
    drop(scratch);
    let graph = own.end();
    assert_eq!(CALLS.load(Ordering::SeqCst), 0);
    for round in 1..3 {
        graph.launch().expect("a launch");
        assert_eq!(own.read(&words), 7);
        assert_eq!(CALLS.load(Ordering::SeqCst), 3 * round);
    }
    let live = unsafe { sys::cuMemGetAddressRange_v2(&mut 0, &mut 0, address) };
    assert_eq!(live, CUresult::CUDA_ERROR_NOT_FOUND, "it was freed again");
}

#[test]
fn what_graphs_allocate_and_leave_can_be_freed_at_the_next_launch() {
    let own = own();
    for (flags, relaunched) in [
        (Flags(0), CUresult::CUDA_ERROR_INVALID_VALUE),
        (
            Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH,
            CUresult::CUDA_SUCCESS,
        ),
    ] {
        own.begin();
        let scratch = own.stream.alloc_zeros::<u32>(LEN).expect("memory");
        let graph = own.stream.end_capture(flags).expect("a capture");
        let graph = graph.expect("a graph");
        graph.launch().expect("a launch");
        assert_eq!(own.read(&scratch), 0);
        let again = graph
            .launch()
            .map_or_else(|error| error.0, |()| CUresult::CUDA_SUCCESS);
        assert_eq!(again, relaunched);
    }
}

#[test]
fn memory_of_before_the_capture_cannot_be_freed_in_it() {
    let own = own();
    let words = own.words();
    let address = words.device_ptr(&own.stream).0;
    own.begin();
    let freed = unsafe { sys::cuMemFreeAsync(address, own.stream.cu_stream()) };
    assert_eq!(freed, CUresult::CUDA_ERROR_INVALID_VALUE);
    own.end();
    assert_eq!(own.read(&words), 0);
}

#[test]
fn calls_that_cannot_be_captured_invalidate() {
    type Call = fn(&Own) -> CUresult;
    let calls: [(&str, Call, CUresult); 6] = [
        (
            "waiting for the stream",
            |own| unsafe { sys::cuStreamSynchronize(own.stream.cu_stream()) },
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "asking for the stream",
            |own| unsafe { sys::cuStreamQuery(own.stream.cu_stream()) },
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "waiting for the context",
            |_| unsafe { sys::cuCtxSynchronize() },
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "allocating",
            |_| unsafe { sys::cuMemAlloc_v2(&mut 0, 16) },
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "asking for an event of the capture",
            |own| unsafe {
                let event = own.stream.record_event(None).expect("an event");
                sys::cuEventQuery(event.cu_event())
            },
            CUresult::CUDA_ERROR_CAPTURED_EVENT,
        ),
        (
            "waiting for an event of before",
            |own| unsafe {
                let other = own.context.new_stream().expect("a stream");
                let event = other.record_event(None).expect("an event");
                sys::cuStreamWaitEvent(own.stream.cu_stream(), event.cu_event(), 0)
            },
            CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
        ),
    ];
    let own = own();
    let mut words = own.words();
    for (what, call, error) in calls {
        own.begin();
        own.add(&own.stream, &mut words, 1);
        assert_eq!(call(&own), error, "{what}");
        let invalidated = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        let late = own.stream.memset_zeros(&mut words).expect_err("too late");
        assert_eq!(late.0, invalidated, "{what}");
        assert_eq!(own.end_error(), invalidated, "{what}");
        // The stream is as it was.
        assert_eq!(own.read(&words), 0, "{what}");
    }
}

#[test]
fn the_default_stream_cannot_pass_a_blocking_stream_in_a_capture() {
    let own = own();
    let mut blocking = std::ptr::null_mut();
    let mut graph = std::ptr::null_mut();
    let mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
    unsafe {
        ok(sys::cuStreamCreate(&mut blocking, 0));
        ok(sys::cuStreamBeginCapture_v2(blocking, mode));
        assert_eq!(
            sys::cuMemsetD8_v2(1 << 40, 0, 1),
            CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
        );
        assert_eq!(
            sys::cuStreamEndCapture(blocking, &mut graph),
            CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        );
        assert!(graph.is_null());
        // A relaxed capture of a stream that does not wait for the default one stops nothing.
        own.stream.begin_capture(mode).expect("a capture");
        let mut address = 0;
        ok(sys::cuMemAlloc_v2(&mut address, 16));
        ok(sys::cuMemsetD8_v2(address, 0, 16));
        assert_eq!(own.end_error(), CUresult::CUDA_SUCCESS);
        let default = std::ptr::null_mut();
        assert_eq!(
            sys::cuStreamBeginCapture_v2(default, mode),
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        );
    }
}

#[test]
fn captures_end_where_they_began() {
    let own = own();
    let mut words = own.words();
    let other = own.context.new_stream().expect("a stream");
    assert_eq!(own.end_error(), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    own.begin();
    let mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let twice = own.stream.begin_capture(mode).expect_err("it has begun");
    assert_eq!(twice.0, CUresult::CUDA_ERROR_ILLEGAL_STATE);
    other.join(&own.stream).expect("a fork");
    own.add(&other, &mut words, 1);
    let unjoined = own.end_error();
    assert_eq!(unjoined, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    // To end it in another stream is its end too, and to end it in another thread.
    own.begin();
    other.join(&own.stream).expect("a fork");
    let mut graph = std::ptr::null_mut();
    let unmatched = unsafe { sys::cuStreamEndCapture(other.cu_stream(), &mut graph) };
    assert_eq!(unmatched, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    let invalidated = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    assert_eq!(own.end_error(), invalidated);
    own.begin();
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| own.end_error()).join().expect("no panic");
        assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    });
    assert_eq!(own.end_error(), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    // Both streams are free.
    own.add(&other, &mut words, 1);
    other.synchronize().expect("an idle stream");
    assert_eq!(own.read(&words), 1);
}

#[test]
fn two_captures_do_not_merge() {
    let own = own();
    let other = own.context.new_stream().expect("a stream");
    own.begin();
    let mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    other.begin_capture(mode).expect("a capture");
    let merged = own.stream.join(&other).expect_err("two captures");
    assert_eq!(merged.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
    let invalidated = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    assert_eq!(own.end_error(), invalidated);
    let ended = other.end_capture(Flags(0)).err().map(|error| error.0);
    assert_eq!(ended, Some(invalidated));
}

#[test]
fn captures_keep_threads_from_unsafe_calls_as_both_ask() {
    let own = own();
    let allocate = || unsafe { sys::cuMemAlloc_v2(&mut 0, 16) };
    let mut mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
    ok(unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) });
    assert_eq!(mode, Mode::CU_STREAM_CAPTURE_MODE_GLOBAL, "what it was");
    own.begin();
    ok(allocate());
    ok(unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) });
    assert_eq!(mode, Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
    std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| {
            own.context.bind_to_thread().expect("a context");
            allocate()
        });
        ok(elsewhere.join().expect("no panic"));
    });
    let refused = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    assert_eq!(allocate(), refused);
    let invalidated = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    assert_eq!(own.end_error(), invalidated);
}

#[test]
fn a_captured_stream_says_what_comes_before() {
    let own = own();
    let mut words = own.words();
    own.begin();
    own.add(&own.stream, &mut words, 1);
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let (mut id, mut graph, mut count) = (0, std::ptr::null_mut(), 0);
    let mut tips = std::ptr::null();
    unsafe {
        ok(sys::cuStreamGetCaptureInfo_v2(
            own.stream.cu_stream(),
            &mut status,
            &mut id,
            &mut graph,
            &mut tips,
            &mut count,
        ));
        assert_eq!(
            status,
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE
        );
        assert_eq!(count, 1);
        assert_eq!(nodes(graph), [*tips]);
    }
    let captured = own.end();
    assert_eq!(captured.cu_graph(), graph);
}

#[test]
fn graphs_are_updated_where_their_shape_is_the_same() {
    let own = own();
    let mut words = own.words();
    let mut capture = |numbers: &[u32]| {
        own.begin();
        for &number in numbers {
            own.add(&own.stream, &mut words, number);
        }
        own.end()
    };
    let (first, second, longer) = (capture(&[1]), capture(&[20]), capture(&[1, 1]));
    let update = |graph: &CudaGraph| unsafe {
        let mut info = std::mem::zeroed();
        sys::cuGraphExecUpdate_v2(first.cu_graph_exec(), graph.cu_graph(), &mut info)
    };
    ok(update(&second));
    assert_eq!(
        update(&longer),
        CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE
    );
    first.launch().expect("a launch");
    assert_eq!(own.read(&words), 20);
}

#[test]
fn launches_of_graphs_are_no_part_of_captures() {
    let own = own();
    let mut words = own.words();
    own.begin();
    own.add(&own.stream, &mut words, 1);
    let inner = own.end();
    own.begin();
    let refused = inner.launch().expect_err("a launch in a capture");
    assert_eq!(refused.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let invalidated = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    assert_eq!(own.end_error(), invalidated);
    inner.launch().expect("a launch");
    assert_eq!(own.read(&words), 1);
}

/// The default stream waits for no stream of cudarc's.
#[test]
fn synchronous_copies_go_past_captures() {
    let own = own();
    let mut words = own.words();
    let (address, two) = (words.device_ptr(&own.stream).0, [2u32; LEN]);
    own.begin();
    own.add(&own.stream, &mut words, 1);
    let copied = unsafe { sys::cuMemcpyHtoD_v2(address, two.as_ptr().cast(), 4 * LEN) };
    ok(copied);
    let graph = own.end();
    assert_eq!(own.read(&words), 2);
    graph.launch().expect("a launch");
    assert_eq!(own.read(&words), 3);
}

#[test]
fn wrong_handles_and_flags_are_errors() {
    let own = own();
    own.begin();
    let flags = Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH
        | Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    let refused = own.stream.end_capture(flags).err().map(|error| error.0);
    assert_eq!(refused, Some(CUresult::CUDA_ERROR_INVALID_VALUE));
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    let wild = std::ptr::without_provenance_mut(0x1234_5678);
    unsafe {
        assert_eq!(sys::cuGraphLaunch(wild, own.stream.cu_stream()), invalid);
        assert_eq!(sys::cuGraphDestroy(wild.cast()), invalid);
        assert_eq!(sys::cuGraphExecDestroy(std::ptr::null_mut()), invalid);
        let mut exec = std::ptr::null_mut();
        assert_eq!(
            sys::cuGraphInstantiateWithFlags(&mut exec, wild.cast(), 0),
            invalid
        );
    }
}
