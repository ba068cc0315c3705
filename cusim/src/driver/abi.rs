//! The boundary to C: what every exported function has in common.
//!
//! The types here stand for the pointers a caller passes. Nothing in this crate makes one of them: they come
//! into being only as arguments of an exported function, whose callers promise what the CUDA driver API
//! asks of them: a pointer is null, or points to as much as the function is documented to read or
//! write. Null is checked here; the rest is the caller's word, as it is with any driver.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::status::Status;
use crate::client::ReplyFunction;

/// Declares exported functions. Each body is an expression of type `Result<(), Status>`.
///
/// A panic must not cross into C: it becomes `CUDA_ERROR_UNKNOWN`. The table lists the functions for
/// `cuGetProcAddress`.
macro_rules! driver_api {
    ($(
        $(#[$meta:meta])*
        fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block
    )*) => {
        $(
            $(#[$meta])*
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments, non_snake_case)] // the CUDA driver API fixes both
            pub(crate) unsafe extern "C" fn $name($($arg: $type),*) -> $crate::driver::status::Status {
                $crate::driver::abi::boundary(stringify!($name), move || $body)
            }
        )*

        /// What this module exports.
        pub(super) static EXPORTS: &[$crate::driver::abi::Export] =
            &[$($crate::driver::abi::Export::new(stringify!($name), $name as *const ())),*];
    };
}
pub(super) use driver_api;

/// An exported function.
pub(super) struct Export {
    pub(super) name: &'static str,
    address: *const (),
}

// SAFETY: the pointer is the address of a function, which every thread may read and call.
unsafe impl Sync for Export {}

impl Export {
    pub(super) const fn new(name: &'static str, address: *const ()) -> Self {
        Self { name, address }
    }

    pub(super) fn address(&self) -> *mut c_void {
        self.address.cast_mut().cast()
    }
}

/// Runs the body of an exported function.
pub(super) fn boundary(name: &'static str, body: impl FnOnce() -> Result<(), Status>) -> Status {
    if let Some(status) = super::inject::failure(name) {
        return status;
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => {
            eprintln!("cusim: {name} panicked: this is a bug in cusim");
            Status::UNKNOWN
        }
    }
}

/// Where the caller wants a result.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T: Copy> Out<T> {
    pub(super) const NULL: Self = Self(std::ptr::null_mut());

    /// What is there, for arguments that are read and then replaced.
    pub(super) fn get(self) -> Result<T, Status> {
        In(self.0.cast_const()).get()
    }

    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Fails before anything has been done that would have to be undone.
    pub(super) fn required(self) -> Result<Self, Status> {
        if self.is_null() {
            Err(Status::INVALID_VALUE)
        } else {
            Ok(self)
        }
    }

    pub(super) fn set(self, value: T) -> Result<(), Status> {
        self.required()?;
        // SAFETY: not null, so the caller of the exported function passed a place to write a `T` to.
        // Unaligned: some callers pass fields of packed structures.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// For results the caller may decline with a null pointer.
    pub(super) fn set_if_wanted(self, value: T) {
        if !self.is_null() {
            let _ = self.set(value);
        }
    }

    /// Writes an array; the caller said how many elements it has room for.
    pub(super) fn set_all(self, values: &[T]) -> Result<(), Status> {
        self.required()?;
        for (index, &value) in values.iter().enumerate() {
            // SAFETY: the caller of the exported function passed room for this many elements.
            unsafe { self.0.add(index).write_unaligned(value) };
        }
        Ok(())
    }
}

impl Out<c_char> {
    /// Writes a string with its NUL, cut to the room the caller has.
    pub(super) fn set_string(self, text: &str, room: i32) -> Result<(), Status> {
        let room = usize::try_from(room).map_err(|_| Status::INVALID_VALUE)?;
        let kept = room.checked_sub(1).ok_or(Status::INVALID_VALUE)?;
        let mut bytes: Vec<c_char> = text.bytes().take(kept).map(|byte| byte as c_char).collect();
        bytes.push(0);
        self.set_all(&bytes)
    }
}

/// A value, or an array of values, the caller passes by pointer.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    pub(super) const NULL: Self = Self(std::ptr::null());

    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(super) fn get(self) -> Result<T, Status> {
        self.at(0)
    }

    /// Element `index` of an array that is documented to have it.
    pub(super) fn at(self, index: usize) -> Result<T, Status> {
        if self.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, so the caller of the exported function passed an array of `T`, and callers
        // of this method stay inside the length the API documents.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

/// A NUL-terminated string.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct InStr(*const c_char);

impl InStr {
    pub(super) fn get<'a>(self) -> Result<&'a str, Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, so the caller of the exported function passed a NUL-terminated string that
        // stays for the call; no function keeps what it reads here.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_| Status::INVALID_VALUE)
    }
}

/// Bytes in the memory of the host that the caller passes with their number.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct HostIn(*const c_void);

impl HostIn {
    pub(super) fn address(self) -> usize {
        self.0.addr()
    }

    pub(super) fn bytes<'a>(self, len: usize) -> Result<&'a [u8], Status> {
        if len == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() || isize::try_from(len).is_err() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller of the exported function passed `len` readable bytes and leaves them alone
        // until it returns; nothing keeps the slice longer.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast(), len) })
    }

    /// Whether these bytes are there, without reading beyond the first that differs: a text may end there.
    pub(super) fn starts_with(self, bytes: &[u8]) -> Result<bool, Status> {
        let text = In(self.0.cast::<u8>());
        for (index, &byte) in bytes.iter().enumerate() {
            if text.at(index)? != byte {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes up to the NUL that ends them, and without it.
    pub(super) fn until_nul<'a>(self) -> Result<&'a [u8], Status> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller of the exported function passed a NUL-terminated text and leaves it alone
        // until it returns; nothing keeps the slice longer.
        Ok(unsafe { CStr::from_ptr(self.0.cast()) }.to_bytes())
    }
}

/// Room in the memory of the host that the caller passes with its size.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct HostOut(*mut c_void);

impl HostOut {
    pub(super) fn pointer(self) -> *mut c_void {
        self.0
    }

    pub(super) fn address(self) -> usize {
        self.0.addr()
    }

    pub(super) fn bytes<'a>(self, len: usize) -> Result<&'a mut [u8], Status> {
        if len == 0 {
            return Ok(&mut []);
        }
        if self.0.is_null() || isize::try_from(len).is_err() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller of the exported function passed room for `len` bytes that nobody else uses
        // until it returns; nothing keeps the slice longer.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.cast(), len) })
    }

    /// For attributes whose type depends on which is asked for.
    pub(super) fn set<T: Copy>(self, value: T) -> Result<(), Status> {
        Out(self.0.cast::<T>()).set(value)
    }

    pub(super) fn get<T: Copy>(self) -> Result<T, Status> {
        In(self.0.cast_const().cast::<T>()).get()
    }
}

/// Addresses the unified interfaces pass for either memory, and those that captured work keeps: what it names in the
/// memory of the host is the caller's to keep alive while its graph is launched.
pub(super) fn host_in(address: u64) -> HostIn {
    HostIn(std::ptr::with_exposed_provenance(address as usize))
}

/// Addresses the unified interfaces pass for either memory.
pub(super) fn host_out(address: u64) -> HostOut {
    HostOut(std::ptr::with_exposed_provenance_mut(address as usize))
}

/// Copies within the memory of the host; the ranges may overlap.
pub(super) fn host_copy(to: HostOut, from: HostIn, len: usize) -> Result<(), Status> {
    if to.0.is_null() || from.0.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the caller of the exported function passed `len` readable and `len` writable bytes.
    unsafe { std::ptr::copy(from.0.cast::<u8>(), to.0.cast::<u8>(), len) };
    Ok(())
}

/// Memory of the host, all zeros, for the caller of an exported function.
pub(super) struct Zeroed {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: the memory is owned, and only its address is handed out.
unsafe impl Send for Zeroed {}

impl Zeroed {
    /// As aligned as programs expect pinned memory to be.
    const ALIGN: usize = 4096;

    /// `None` where there is not so much. The system makes pages of it when they are first touched.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.max(1), Self::ALIGN).ok()?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        (!start.is_null()).then_some(Self { start, layout })
    }

    pub(super) fn address(&self) -> usize {
        self.start.expose_provenance()
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and whoever had its address gave it back.
        unsafe { dealloc(self.start, self.layout) };
    }
}

/// A function of the caller, to be called back with its own pointer.
pub(super) type HostFunction = Option<unsafe extern "C" fn(*mut c_void)>;

/// Calls a function of the caller.
pub(super) fn call_back(function: HostFunction, data: *mut c_void) -> Result<(), Status> {
    let function = function.ok_or(Status::INVALID_VALUE)?;
    // SAFETY: the caller of the exported function passed a function to be called with this pointer.
    unsafe { function(data) };
    Ok(())
}

/// A function of the caller that a stream calls: its stream, the result so far, the caller's pointer.
pub(super) type StreamCallback = Option<unsafe extern "C" fn(u64, Status, *mut c_void)>;

/// Calls a function of the caller for a stream.
pub(super) fn call_back_stream(
    function: StreamCallback,
    stream: u64,
    status: Status,
    data: *mut c_void,
) -> Result<(), Status> {
    let function = function.ok_or(Status::INVALID_VALUE)?;
    // SAFETY: the caller of the exported function passed a function to be called with these.
    unsafe { function(stream, status, data) };
    Ok(())
}

/// How much dynamic shared memory a block of so many threads needs.
pub(super) type SharedForBlock = Option<unsafe extern "C" fn(i32) -> usize>;

/// Asks the caller's function, if there is one.
pub(super) fn shared_for_block(function: SharedForBlock, threads: i32, otherwise: usize) -> usize {
    match function {
        // SAFETY: the caller of the exported function passed it to be called with block sizes.
        Some(function) => unsafe { function(threads) },
        None => otherwise,
    }
}

/// A function of the caller that takes a text.
pub(super) type Reply = Option<ReplyFunction>;

/// Passes the caller some bytes.
pub(super) fn reply(function: Reply, data: *mut c_void, bytes: &[u8]) -> Result<(), Status> {
    let function = function.ok_or(Status::INVALID_VALUE)?;
    // SAFETY: the caller of the exported function passed a function to be called with this pointer and
    // bytes that live for the call.
    unsafe { function(data, bytes.as_ptr(), bytes.len()) };
    Ok(())
}

unsafe extern "C" {
    /// C's `atexit`.
    fn atexit(function: extern "C" fn()) -> c_int;
}

/// Has a function called when the process ends.
pub(super) fn at_exit(function: extern "C" fn()) {
    // SAFETY: the function takes nothing and lives as long as the library, which is never unloaded: its
    // exports are in the hands of a program that cannot know when it may be.
    if unsafe { atexit(function) } != 0 {
        eprintln!("cusim: nothing will be written when the process ends");
    }
}
