//! Modules and launches of the emulated driver, through cudarc.

#![allow(unsafe_code)] // the driver API is C

use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

const PTX: &str = r#"
.version 7.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 table[2] = {5, 6};
.visible .global .align 8 .u64 answer[3] = {42, table, 7};

.visible .entry add(.param .u64 x, .param .u64 y, .param .u64 sum, .param .u32 len)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<8>;
    .reg .f32 %f<4>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    ld.param.u64 %rd3, [sum];
    ld.param.u32 %r1, [len];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra done;
    cvta.to.global.u64 %rd1, %rd1;
    cvta.to.global.u64 %rd2, %rd2;
    cvta.to.global.u64 %rd3, %rd3;
    mul.wide.u32 %rd4, %r5, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    add.s64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.rn.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
done:
    ret;
}

.visible .entry bounded(.param .u8 flag, .param .align 8 .b8 block[24]) .maxntid 128, 1, 1
{
    .shared .align 16 .b8 staged[1024];
    ret;
}
"#;

fn context() -> Arc<CudaContext> {
    cusim::Device::select(cusim::Choice::Cusim).expect("the emulator's library");
    CudaContext::new(0).expect("a context")
}

fn module(context: &Arc<CudaContext>) -> Arc<CudaModule> {
    context.load_module(Ptx::from_src(PTX)).expect("a module")
}

fn function(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    module(context).load_function(name).expect("a kernel")
}

fn launch(grid: u32, block: u32, shared: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (grid, 1, 1),
        block_dim: (block, 1, 1),
        shared_mem_bytes: shared,
    }
}

fn failed(result: CUresult) -> Option<DriverError> {
    Some(DriverError(result))
}

#[test]
fn a_kernel_adds_vectors() {
    let context = context();
    let stream = context.new_stream().expect("a stream");
    let add = function(&context, "add");
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let y: Vec<f32> = (0..1000).map(|i| 0.5 - 2.0 * i as f32).collect();
    let x = stream.clone_htod(&x).expect("x");
    let y = stream.clone_htod(&y).expect("y");
    let mut sum = stream.alloc_zeros::<f32>(1024).expect("sum");
    let len = 1000u32;
    let mut call = stream.launch_builder(&add);
    call.arg(&x).arg(&y).arg(&mut sum).arg(&len);
    unsafe { call.launch(launch(4, 256, 0)) }.expect("a launch");
    let sum = stream.clone_dtoh(&sum).expect("the sum");
    for (i, &value) in sum.iter().enumerate() {
        let expected = if i < 1000 { 0.5 - i as f32 } else { 0.0 };
        assert_eq!(value, expected, "element {i}");
    }
}

#[test]
fn launches_are_counted() {
    let context = context();
    let stream = context.default_stream();
    let add = function(&context, "add");
    let x = stream.clone_htod(&[1.0f32; 64]).expect("x");
    let mut sum = stream.alloc_zeros::<f32>(64).expect("sum");
    let len = 40u32;
    let mut call = stream.launch_builder(&add);
    call.arg(&x).arg(&x).arg(&mut sum).arg(&len);
    unsafe { call.launch(launch(2, 32, 0)) }.expect("a launch");
    // Other tests launch in this process too, with other shapes.
    let launches = cusim::launches();
    let ours = launches
        .iter()
        .rfind(|launch| launch.grid == [2, 1, 1] && launch.block == [32, 1, 1])
        .expect("this launch");
    assert_eq!(ours.kernel, "add");
    // Two inputs and one output; 32 lanes of the first block, 8 of the second.
    assert_eq!(ours.counters.global_load_requests, 4);
    assert_eq!(ours.counters.global_load_bytes, 2 * 40 * 4);
    assert_eq!(ours.counters.global_load_sectors, 2 * 5);
    assert_eq!(ours.counters.global_store_bytes, 40 * 4);
}

#[test]
fn arguments_can_come_in_one_block() {
    let context = context();
    let stream = context.default_stream();
    let add = raw_function(&context, c"add");
    let x = stream.clone_htod(&[3.0f32; 32]).expect("x");
    let sum = stream.alloc_zeros::<f32>(32).expect("sum");
    let address = |slice: &cudarc::driver::CudaSlice<f32>| {
        use cudarc::driver::DevicePtr;
        slice.device_ptr(&stream).0
    };
    // The block is 28 bytes long; what follows is padding.
    let block = [address(&x), address(&x), address(&sum), 32u64];
    let call = |mut bytes: usize| unsafe {
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1), // CU_LAUNCH_PARAM_BUFFER_POINTER
            block.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(2), // CU_LAUNCH_PARAM_BUFFER_SIZE
            (&raw mut bytes).cast(),
            std::ptr::null_mut(),
        ];
        let extra = extra.as_mut_ptr();
        let none = std::ptr::null_mut();
        sys::cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, stream.cu_stream(), none, extra)
    };
    assert_eq!(call(28), CUresult::CUDA_SUCCESS);
    assert_eq!(call(27), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(call(32), CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    assert_eq!(stream.clone_dtoh(&sum).expect("the sum"), [6.0f32; 32]);
}

/// A function by the C interface, where the safe one hides the handle.
fn raw_function(context: &Arc<CudaContext>, name: &CStr) -> sys::CUfunction {
    context.bind_to_thread().expect("a context");
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    let text = CString::new(PTX).expect("a text");
    unsafe {
        let loaded = sys::cuModuleLoadData(&mut module, text.as_ptr().cast());
        assert_eq!(loaded, CUresult::CUDA_SUCCESS);
        let found = sys::cuModuleGetFunction(&mut function, module, name.as_ptr());
        assert_eq!(found, CUresult::CUDA_SUCCESS);
    }
    function
}

#[test]
fn bad_launches_are_refused() {
    let context = context();
    let stream = context.default_stream();
    let run = |function: &CudaFunction, config: LaunchConfig| {
        let (flag, block) = (0u8, [0u64; 3]);
        let mut call = stream.launch_builder(function);
        call.arg(&flag).arg(&block);
        unsafe { call.launch(config) }.err()
    };
    let bounded = function(&context, "bounded");
    assert_eq!(run(&bounded, launch(1, 128, 0)), None);
    let invalid = failed(CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(run(&bounded, launch(0, 32, 0)), invalid, "an empty grid");
    assert_eq!(
        run(&bounded, launch(1, 1025, 0)),
        invalid,
        "too many threads"
    );
    let wide = LaunchConfig {
        grid_dim: (1, 65536, 1),
        ..launch(1, 32, 0)
    };
    assert_eq!(run(&bounded, wide), invalid, "too many blocks in y");
    assert_eq!(run(&bounded, launch(1, 129, 0)), invalid, "above .maxntid");
    assert_eq!(
        context.synchronize(),
        Ok(()),
        "none of these broke the context"
    );
}

#[test]
fn large_shared_memory_has_to_be_asked_for() {
    let context = context();
    let stream = context.default_stream();
    let bounded = function(&context, "bounded");
    let run = |shared: u32| {
        let (flag, block) = (0u8, [0u64; 3]);
        let mut call = stream.launch_builder(&bounded);
        call.arg(&flag).arg(&block);
        unsafe { call.launch(launch(1, 32, shared)) }.err()
    };
    let invalid = failed(CUresult::CUDA_ERROR_INVALID_VALUE);
    // 1 KiB is declared statically.
    assert_eq!(run(47 << 10), None);
    assert_eq!(run((47 << 10) + 1), invalid);
    let max = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(
        bounded.set_attribute(max, 163 << 10).err(),
        invalid,
        "163 KiB with the static 1"
    );
    bounded
        .set_attribute(max, 162 << 10)
        .expect("as much as there is");
    assert_eq!(bounded.get_attribute(max), Ok(162 << 10));
    assert_eq!(run(162 << 10), None);
    assert_eq!(run((162 << 10) + 1), invalid);
}

#[test]
fn functions_say_what_they_are() {
    let context = context();
    let bounded = function(&context, "bounded");
    let get = |attribute| bounded.get_attribute(attribute);
    assert_eq!(
        get(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK),
        Ok(128)
    );
    assert_eq!(
        get(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES),
        Ok(1024)
    );
    let raw = raw_function(&context, c"bounded");
    let (mut offset, mut size) = (0, 0);
    unsafe {
        let found = sys::cuFuncGetParamInfo(raw, 1, &mut offset, &mut size);
        assert_eq!((found, offset, size), (CUresult::CUDA_SUCCESS, 8, 24));
        let found = sys::cuFuncGetParamInfo(raw, 2, &mut offset, &mut size);
        assert_eq!(found, CUresult::CUDA_ERROR_INVALID_VALUE);
        let mut name = std::ptr::null();
        assert_eq!(sys::cuFuncGetName(&mut name, raw), CUresult::CUDA_SUCCESS);
        assert_eq!(CStr::from_ptr(name), c"bounded");
    }
}

#[test]
fn variables_hold_what_they_were_declared_with() {
    let context = context();
    let stream = context.default_stream();
    let module = module(&context);
    let table = module.get_global("table", &stream).expect("a variable");
    assert_eq!(
        stream.clone_dtoh(&table).expect("bytes"),
        [5, 0, 0, 0, 6, 0, 0, 0]
    );
    let answer = module.get_global("answer", &stream).expect("a variable");
    let answer = stream.clone_dtoh(&answer).expect("bytes");
    let words: Vec<u64> = answer
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&word| u64::from_le_bytes(word))
        .collect();
    use cudarc::driver::DevicePtr;
    assert_eq!(words, [42, table.device_ptr(&stream).0, 7]);
    let missing = module.get_global("nothing", &stream).err();
    assert_eq!(missing, failed(CUresult::CUDA_ERROR_NOT_FOUND));
}

#[test]
fn images_of_every_kind_are_read() {
    let context = context();
    let stream = context.default_stream();
    for image in ["plain", "lz4", "zstd"] {
        let path = format!(
            "{}/tests/fixtures/add_one_{image}.fatbin",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = std::fs::read(&path).expect("a fixture");
        let from_memory = context
            .load_module(Ptx::from_binary(bytes))
            .expect("a module");
        let from_file = context
            .load_module(Ptx::from_file(&path))
            .expect("a module");
        for module in [from_memory, from_file] {
            let add_one = module.load_function("addone").expect("a kernel");
            let mut numbers = stream.clone_htod(&[1i32, 2, 3]).expect("numbers");
            let len = 2i32;
            let mut call = stream.launch_builder(&add_one);
            call.arg(&mut numbers).arg(&len);
            unsafe { call.launch(launch(1, 32, 0)) }.expect("a launch");
            assert_eq!(
                stream.clone_dtoh(&numbers).expect("numbers"),
                [2, 3, 3],
                "{path}"
            );
        }
    }
}

#[test]
fn images_that_cannot_run_are_refused() {
    let context = context();
    let load = |ptx| context.load_module(ptx).map(|_| ()).err();
    let fixture = format!(
        "{}/tests/fixtures/add_one_cubin_only.fatbin",
        env!("CARGO_MANIFEST_DIR")
    );
    let machine_code = load(Ptx::from_file(&fixture));
    assert_eq!(machine_code, failed(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU));
    let missing = load(Ptx::from_file("no/such/file"));
    assert_eq!(missing, failed(CUresult::CUDA_ERROR_FILE_NOT_FOUND));
    let invalid = failed(CUresult::CUDA_ERROR_INVALID_PTX);
    let no_image = failed(CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(load(Ptx::from_src("this is not PTX")), no_image);
    assert_eq!(load(Ptx::from_src(format!("x{PTX}"))), no_image);
    assert_eq!(load(Ptx::from_src(format!("// a comment\n{PTX}"))), None);
    assert_eq!(load(Ptx::from_src(".version 8.0")), invalid);
    assert_eq!(
        load(Ptx::from_src(PTX.replace("add.rn.f32", "fadd.rn.f32"))),
        invalid
    );
    assert_eq!(load(Ptx::from_src(PTX.replace("sm_80", "sm_90"))), invalid);
    assert_eq!(load(Ptx::from_src(PTX.replace("[1024]", "[49152]"))), None);
    assert_eq!(
        load(Ptx::from_src(PTX.replace("[1024]", "[49153]"))),
        invalid
    );
}

#[test]
fn a_refused_module_says_why_in_the_log() {
    let context = context();
    context.bind_to_thread().expect("a context");
    let text = CString::new(PTX.replace("setp.ge.u32", "setp.gee.u32")).expect("a text");
    let line = 1 + PTX
        .lines()
        .position(|line| line.contains("setp"))
        .expect("the line");
    let mut log = [0u8; 256];
    let mut options = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values: [*mut c_void; 2] = [
        log.as_mut_ptr().cast(),
        std::ptr::without_provenance_mut(log.len()),
    ];
    let mut module = std::ptr::null_mut();
    let result = unsafe {
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options, values)
    };
    assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
    let log = CStr::from_bytes_until_nul(&log)
        .expect("a text")
        .to_string_lossy();
    assert!(log.contains(&format!("line {line}")), "{log}");
}

#[test]
fn libraries_are_loaded_where_they_are_used() {
    let context = context();
    context.bind_to_thread().expect("a context");
    let text = CString::new(PTX).expect("a text");
    let (mut library, mut kernel) = (std::ptr::null_mut(), std::ptr::null_mut());
    let mut function = std::ptr::null_mut();
    let none = std::ptr::null_mut::<c_void>;
    unsafe {
        let loaded = sys::cuLibraryLoadData(
            &mut library,
            text.as_ptr().cast(),
            none().cast(),
            none().cast(),
            0,
            none().cast(),
            none().cast(),
            0,
        );
        assert_eq!(loaded, CUresult::CUDA_SUCCESS);
        let found = sys::cuLibraryGetKernel(&mut kernel, library, c"bounded".as_ptr());
        assert_eq!(found, CUresult::CUDA_SUCCESS);
        let wrong = sys::cuLibraryGetKernel(&mut kernel, library, c"boundless".as_ptr());
        assert_eq!(wrong, CUresult::CUDA_ERROR_NOT_FOUND);
        let found = sys::cuKernelGetFunction(&mut function, kernel);
        assert_eq!(found, CUresult::CUDA_SUCCESS);
        let (flag, block) = (0u8, [0u64; 3]);
        let mut arguments = [
            (&raw const flag).cast_mut().cast(),
            block.as_ptr().cast_mut().cast(),
        ];
        // A kernel of a library can be launched as it is.
        for callee in [function, kernel.cast()] {
            let arguments = arguments.as_mut_ptr();
            let stream = none().cast();
            let done = sys::cuLaunchKernel(
                callee,
                1,
                1,
                1,
                32,
                1,
                1,
                0,
                stream,
                arguments,
                none().cast(),
            );
            assert_eq!(done, CUresult::CUDA_SUCCESS);
        }
        assert_eq!(sys::cuLibraryUnload(library), CUresult::CUDA_SUCCESS);
        let gone = sys::cuFuncLoad(function);
        assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
}

#[test]
fn unloaded_modules_take_their_functions_and_variables_along() {
    let context = context();
    let function = raw_function(&context, c"add");
    let mut module = std::ptr::null_mut();
    unsafe {
        assert_eq!(
            sys::cuFuncGetModule(&mut module, function),
            CUresult::CUDA_SUCCESS
        );
        assert_eq!(sys::cuModuleUnload(module), CUresult::CUDA_SUCCESS);
        assert_eq!(
            sys::cuModuleUnload(module),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        let mut offset = 0;
        let gone = sys::cuFuncGetParamInfo(function, 0, &mut offset, std::ptr::null_mut());
        assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
}
