//! The one place where kernels are launched.
//!
//! A launch is sound because of what happened before it: views prove that their spans lie inside
//! their buffers, `check` functions prove that the kernel stays inside the spans, and the guards
//! held here keep the buffers ordered on the stream until the launch call has returned.

#![allow(unsafe_code)]

use cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice, LaunchConfig,
    PushKernelArg, SyncOnDrop, ValidAsZeroBits, result,
};

use crate::error::Error;
use crate::kernels::Kernels;
use crate::tensor::{TensorView, TensorViewMut};
use crate::variant::Variant;

/// The parameter blocks of kernels/params.h.
#[allow(non_camel_case_types, missing_docs, dead_code)]
pub(crate) mod params {
    include!(concat!(env!("OUT_DIR"), "/params.rs"));
}

/// Grid, block and dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
}

/// What a device has for blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of shared memory of a block.
    pub(crate) shared_per_block: u32,
    /// Each has room for one block with all of that.
    pub(crate) multiprocessors: u32,
    /// Whether all blocks of a launch can be made to run at once, and have memory for what they tell each other.
    pub(crate) runs_at_once: bool,
}

/// A parameter block: what one kernel entry point takes.
///
/// # Safety
/// The type must be the `repr(C)` struct that the entry point of [`Block::VARIANTS`] declares.
pub(crate) unsafe trait Block: DeviceRepr {
    /// True for the variants whose entry point takes this block.
    fn serves(variant: Variant) -> bool;
}

macro_rules! block {
    ($block:ident, $pattern:pat) => {
        // SAFETY: plain C data that bindgen made from the header nvcc compiled; the layout test
        // proves that both agree on it.
        unsafe impl DeviceRepr for params::$block {}
        // SAFETY: the kernel files give these entry points this block and nothing else.
        unsafe impl Block for params::$block {
            fn serves(variant: Variant) -> bool {
                matches!(variant, $pattern)
            }
        }
    };
}
block!(fflash_prefill_params, Variant::Prefill { .. });
block!(fflash_norm_params, Variant::Norm(_));
block!(fflash_norm_backward_params, Variant::NormBackward(_));
block!(fflash_rope_params, Variant::Rope { .. });
block!(fflash_rope_table_params, Variant::RopeTable { .. });

/// An operand's address on the device. While it lives, the stream is ordered after earlier work on
/// the operand; dropping it orders later work on the operand after what the stream was given.
pub(crate) struct Bound<'a> {
    address: u64,
    _guard: SyncOnDrop<'a>,
}

impl Bound<'_> {
    /// The address, for a parameter block.
    pub(crate) fn as_ptr<T>(&self) -> *const T {
        self.address as *const T
    }

    /// The address, for a parameter block.
    pub(crate) fn as_mut_ptr<T>(&self) -> *mut T {
        self.address as *mut T
    }

    /// Checks that the address is a multiple of `required` bytes.
    pub(crate) fn check_aligned(
        &self,
        operand: &'static str,
        required: usize,
    ) -> Result<(), Error> {
        if self.address.is_multiple_of(required as u64) {
            return Ok(());
        }
        Err(Error::Misaligned {
            operand,
            what: "address",
            required,
            found: self.address,
        })
    }
}

/// Memory of a stream's own, freed behind what the stream was given by then.
pub(crate) struct Scratch<'a> {
    address: u64,
    stream: &'a CudaStream,
}

impl Scratch<'_> {
    /// The address, for a parameter block.
    pub(crate) fn as_mut_ptr<T>(&self) -> *mut T {
        self.address as *mut T
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated on this stream and freed once. What uses it was given to this stream before.
        let freed = unsafe { result::free_async(self.address, self.stream.cu_stream()) };
        self.stream.context().record_err(freed);
    }
}

/// Kernels and a stream of the same context.
#[derive(Clone, Copy)]
pub(crate) struct Launcher<'a> {
    kernels: &'a Kernels,
    stream: &'a CudaStream,
}

impl<'a> Launcher<'a> {
    /// Checks that the stream belongs to the context of the kernels.
    pub(crate) fn new(kernels: &'a Kernels, stream: &'a CudaStream) -> Result<Self, Error> {
        kernels.check_context("stream", stream.context())?;
        Ok(Self { kernels, stream })
    }

    /// What this device has for blocks.
    pub(crate) fn limits(self) -> Limits {
        self.kernels.limits()
    }

    /// Memory for launches on the stream while it lives: elements that are zero, and others that nobody has written.
    pub(crate) fn scratch<T: ValidAsZeroBits>(
        self,
        zero: usize,
        others: usize,
    ) -> Result<Scratch<'a>, Error> {
        let [zeroed, bytes] = [zero, zero + others].map(|elements| elements * size_of::<T>());
        self.stream.context().bind_to_thread()?;
        // SAFETY: the stream's context is bound. `Scratch` frees what is allocated here, on the same stream.
        let address = unsafe { result::malloc_async(self.stream.cu_stream(), bytes) }?;
        let scratch = Scratch {
            address,
            stream: self.stream,
        };
        // SAFETY: the memory has so many bytes and more, and the stream orders this behind its allocation.
        unsafe { result::memset_d8_async(address, 0, zeroed, self.stream.cu_stream()) }?;
        Ok(scratch)
    }

    /// Binds an operand that the kernel reads.
    pub(crate) fn read<T, const R: usize>(
        self,
        operand: &'static str,
        view: &'a TensorView<'_, T, R>,
    ) -> Result<Bound<'a>, Error> {
        self.kernels
            .check_context(operand, view.data().stream().context())?;
        let offset = (view.layout().offset() * size_of::<T>()) as u64;
        let (base, guard) = view.data().device_ptr(self.stream);
        Ok(Bound {
            address: base + offset,
            _guard: guard,
        })
    }

    /// Binds an operand that the kernel writes.
    pub(crate) fn write<T, const R: usize>(
        self,
        operand: &'static str,
        view: &'a mut TensorViewMut<'_, T, R>,
    ) -> Result<Bound<'a>, Error> {
        self.kernels
            .check_context(operand, view.data().stream().context())?;
        let offset = (view.layout().offset() * size_of::<T>()) as u64;
        let (base, guard) = view.data_mut().device_ptr_mut(self.stream);
        Ok(Bound {
            address: base + offset,
            _guard: guard,
        })
    }

    /// Binds an index array that the kernel reads.
    pub(crate) fn read_slice<T>(
        self,
        operand: &'static str,
        slice: &'a CudaSlice<T>,
    ) -> Result<Bound<'a>, Error> {
        self.kernels.check_context(operand, slice.context())?;
        let (address, guard) = slice.device_ptr(self.stream);
        Ok(Bound {
            address,
            _guard: guard,
        })
    }

    /// Binds a word that the kernel updates.
    pub(crate) fn write_slice<T>(
        self,
        operand: &'static str,
        slice: &'a mut CudaSlice<T>,
    ) -> Result<Bound<'a>, Error> {
        self.kernels.check_context(operand, slice.context())?;
        let (address, guard) = slice.device_ptr_mut(self.stream);
        Ok(Bound {
            address,
            _guard: guard,
        })
    }

    /// Launches `variant`, then lets go of `operands`: everything that `block` holds an address of.
    ///
    /// The callers are the operations, each of which has checked that every address the kernel
    /// computes from `block` lies inside one of the operands.
    pub(crate) fn submit<B: Block>(
        self,
        variant: Variant,
        geometry: Geometry,
        block: &B,
        operands: impl IntoIterator<Item = Option<Bound<'a>>>,
    ) -> Result<(), Error> {
        self.submit_all(variant, geometry, block, operands)
    }

    /// The same for as many operands as there are.
    pub(crate) fn submit_all<B: Block>(
        self,
        variant: Variant,
        geometry: Geometry,
        block: &B,
        operands: impl Sized,
    ) -> Result<(), Error> {
        self.launch(variant, geometry, block, operands, false)
    }

    /// The same with all blocks running at once, so that they may wait for each other.
    pub(crate) fn submit_at_once<B: Block>(
        self,
        variant: Variant,
        geometry: Geometry,
        block: &B,
        operands: impl Sized,
    ) -> Result<(), Error> {
        self.launch(variant, geometry, block, operands, true)
    }

    fn launch<B: Block>(
        self,
        variant: Variant,
        geometry: Geometry,
        block: &B,
        operands: impl Sized,
        at_once: bool,
    ) -> Result<(), Error> {
        debug_assert!(
            B::serves(variant),
            "{variant} takes another parameter block"
        );
        let function = self.kernels.function(variant)?;
        let config = LaunchConfig {
            grid_dim: geometry.grid.into(),
            block_dim: geometry.block.into(),
            shared_mem_bytes: geometry.shared_bytes,
        };
        let mut launch = self.stream.launch_builder(function);
        launch.arg(block);
        // SAFETY: the entry point takes exactly this block (`Block`). The addresses in it come
        // from views that lie inside live buffers of this context, the mutable ones exclusively
        // borrowed, or from a `Scratch` of this stream. `operands` outlives the launch call, so that the stream
        // orders the kernel with all other work on those buffers.
        unsafe {
            match at_once {
                true => launch.launch_cooperative(config),
                false => launch.launch(config),
            }
        }?;
        drop(operands);
        Ok(())
    }
}

/// The address of an optional operand, null when it is absent.
pub(crate) fn optional_mut<T>(bound: Option<&Bound<'_>>) -> *mut T {
    bound.map_or(std::ptr::null_mut(), Bound::as_mut_ptr)
}

/// The address of an optional operand, null when it is absent.
pub(crate) fn optional<T>(bound: Option<&Bound<'_>>) -> *const T {
    bound.map_or(std::ptr::null(), Bound::as_ptr)
}
