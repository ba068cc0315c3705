//! The compiled kernels, loaded into a CUDA context.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaContext, CudaFunction};
use cudarc::nvrtc::Ptx;

use crate::error::{Error, Unsupported};
use crate::launch::Limits;
use crate::variant::Variant;
use crate::{attention, norm, rope};

/// One compiled translation unit of kernels/.
pub(crate) struct Image {
    /// Path below kernels/ without extension.
    pub(crate) name: &'static str,
    /// Fat binary: machine code for the chosen architectures, and PTX for all others.
    pub(crate) bytes: &'static [u8],
    /// Its entry points.
    pub(crate) symbols: &'static [&'static str],
}

/// Everything build.rs compiled; empty when it was told to skip the kernels.
pub(crate) static IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/kernel_images.rs"));

/// Every kernel of this crate, loaded into one CUDA context. Load once, share by reference: an
/// operation allocates nothing and waits for nothing, so it can be captured in a CUDA graph.
pub struct Kernels {
    context: Arc<CudaContext>,
    functions: HashMap<Variant, CudaFunction>,
    limits: Limits,
}

impl Kernels {
    /// Loads the kernels into `context`.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`] in a build without kernels, [`Unsupported::ComputeCapability`] on a
    /// device below 8.0, [`Error::Driver`] when the driver refuses a module.
    pub fn load(context: &Arc<CudaContext>) -> Result<Self, Error> {
        if IMAGES.is_empty() {
            return Err(Error::KernelsNotBuilt);
        }
        check_capability(context.compute_capability()?)?;
        let attribute = |attribute| context.attribute(attribute);
        let limits = Limits {
            shared_per_block: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )? as u32,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            runs_at_once: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0
                && attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
        };
        let variants: HashMap<String, Variant> = Variant::all()
            .into_iter()
            .map(|variant| (variant.to_string(), variant))
            .collect();
        let mut functions = HashMap::with_capacity(variants.len());
        for image in IMAGES {
            let module = context.load_module(Ptx::from_binary(image.bytes.to_vec()))?;
            for symbol in image.symbols {
                if let Some(&variant) = variants.get(*symbol) {
                    let function = module.load_function(symbol)?;
                    if let Some(bytes) = max_dynamic_shared(variant, limits.shared_per_block) {
                        function.set_attribute(
                            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                            bytes as i32,
                        )?;
                    }
                    functions.insert(variant, function);
                }
            }
        }
        Ok(Self {
            context: context.clone(),
            functions,
            limits,
        })
    }

    /// The entry points of every kernel in this build.
    pub fn names() -> impl Iterator<Item = &'static str> {
        IMAGES.iter().flat_map(|image| image.symbols).copied()
    }

    /// The context the kernels were loaded into.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// What this device has for blocks.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn function(&self, variant: Variant) -> Result<&CudaFunction, Error> {
        self.functions.get(&variant).ok_or(Error::KernelsNotBuilt)
    }

    /// Checks that an operand belongs to the context of the kernels.
    pub(crate) fn check_context(
        &self,
        operand: &'static str,
        context: &Arc<CudaContext>,
    ) -> Result<(), Error> {
        if *context == self.context {
            Ok(())
        } else {
            Err(Error::ContextMismatch { operand })
        }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = IMAGES.iter().map(|image| image.name).collect();
        f.debug_struct("Kernels")
            .field("modules", &names)
            .finish_non_exhaustive()
    }
}

/// The most dynamic shared memory a launch of this variant asks for, where that is above the 48 KiB
/// that need no opting in. Blocks can have `per_block` bytes.
fn max_dynamic_shared(variant: Variant, per_block: u32) -> Option<u32> {
    let bytes = match variant {
        Variant::Prefill { kind, .. } => attention::shared_bytes(kind),
        Variant::Norm(_) => norm::max_shared_bytes(per_block),
        Variant::NormBackward(_) => 0,
        Variant::Rope { .. } => rope::MAX_SHARED_BYTES,
        Variant::RopeTable { .. } => 0,
    };
    (bytes > 48 * 1024).then_some(bytes)
}

/// The kernels use instructions of compute capability 8.0 (cp.async, bf16 mma).
fn check_capability((major, minor): (i32, i32)) -> Result<(), Unsupported> {
    if major >= 8 {
        Ok(())
    } else {
        Err(Unsupported::ComputeCapability { major, minor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_before_ampere_are_refused() {
        let refused = |major, minor| Err(Unsupported::ComputeCapability { major, minor });
        assert_eq!(check_capability((7, 5)), refused(7, 5));
        assert_eq!(check_capability((8, 0)), Ok(()));
        assert_eq!(check_capability((12, 0)), Ok(()));
    }

    /// What nvcc, the host compiler and Rust make of params.h must be one layout: a kernel reads
    /// at nvcc's offsets what Rust wrote at its own.
    #[cfg(ferroflash_kernels)]
    #[test]
    fn parameter_blocks_have_one_layout() {
        use crate::launch::params::*;
        let rust: &[(&str, usize)] = &include!(concat!(env!("OUT_DIR"), "/rust_layout.rs"));
        let c: &[(&str, usize)] = &include!(concat!(env!("OUT_DIR"), "/c_layout.rs"));
        assert_eq!(rust, c, "Rust and the host compiler disagree");

        cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
        let context = CudaContext::new(0).expect("a context");
        let image = include_bytes!(concat!(env!("OUT_DIR"), "/build_layout_probe.fatbin"));
        let module = context
            .load_module(Ptx::from_binary(image.to_vec()))
            .expect("the probe");
        let stream = context.default_stream();
        let layout = module
            .get_global("fflash_layout", &stream)
            .expect("the array");
        let bytes = stream.clone_dtoh(&layout).expect("its contents");
        let (words, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty());
        let ptx: Vec<usize> = words
            .iter()
            .map(|&word| u64::from_le_bytes(word) as usize)
            .collect();
        let rust: Vec<usize> = rust.iter().map(|&(_, value)| value).collect();
        assert_eq!(rust, ptx, "Rust and nvcc disagree");
    }

    /// Builds without a C toolchain compile against the snapshot.
    #[cfg(ferroflash_kernels)]
    #[test]
    fn the_snapshot_of_the_bindings_is_current() {
        let snapshot = include_str!("../build/params_snapshot.rs");
        let generated = include_str!(concat!(env!("OUT_DIR"), "/params.rs"));
        assert_eq!(
            snapshot, generated,
            "copy the generated file over build/params_snapshot.rs"
        );
    }

    #[cfg(not(ferroflash_kernels))]
    #[test]
    fn a_build_without_kernels_says_so() {
        cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
        let context = CudaContext::new(0).expect("a context");
        assert_eq!(
            Kernels::load(&context).map(|_| ()),
            Err(Error::KernelsNotBuilt)
        );
    }
}
