//! The GPUs that can be modelled: what each reports of itself.
//!
//! Numbers are those of the CUDA C++ programming guide's table of compute capabilities; multiprocessors,
//! memory and L2 are those of one common product of each, since programs size grids by them.

/// The properties of a modelled GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arch {
    /// Compute capability as one number: 80 is 8.0.
    pub sm: u32,
    /// Name of the device.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Most threads resident on a multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Most blocks resident on a multiprocessor.
    pub blocks_per_multiprocessor: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Most bytes of shared memory a block can have after opting in.
    pub shared_per_block_optin: u32,
    /// Bytes of global memory.
    pub global_memory: u64,
    /// Bytes of L2 cache.
    pub l2_cache: u32,
}

impl Arch {
    /// Most threads in a block.
    pub const THREADS_PER_BLOCK: u32 = 1024;
    /// Most threads in a block by axis.
    pub const BLOCK_DIM: [u32; 3] = [1024, 1024, 64];
    /// Most blocks in a grid by axis.
    pub const GRID_DIM: [u32; 3] = [0x7fff_ffff, 65535, 65535];
    /// Threads in a warp.
    pub const WARP: u32 = 32;
    /// 32-bit registers of a multiprocessor, and the most a block can have.
    pub const REGISTERS: u32 = 65536;
    /// Most bytes of shared memory a block can have without opting in.
    pub const SHARED_PER_BLOCK: u32 = 48 * 1024;
    /// Bytes of shared memory the system takes from every block's.
    pub const SHARED_RESERVED: u32 = 1024;
    /// Bytes of constant memory.
    pub const CONSTANT_BYTES: u32 = 64 * 1024;
    /// Most bytes of a kernel's parameters.
    pub const PARAM_BYTES: u32 = 4096;

    /// The GPU of compute capability `sm`, if it is one of the modelled.
    pub fn of(sm: u32) -> Option<&'static Arch> {
        ARCHS.iter().find(|arch| arch.sm == sm)
    }

    /// Every GPU that is modelled.
    pub const fn all() -> &'static [Arch] {
        ARCHS
    }

    /// The same GPU with only so many multiprocessors, as an instance of a divided GPU has; none for 0 and for more than it has.
    /// Stays in memory as long as the process.
    pub fn with_multiprocessors(&self, multiprocessors: u32) -> Option<&'static Arch> {
        (1..=self.multiprocessors)
            .contains(&multiprocessors)
            .then(|| {
                let part = Arch {
                    multiprocessors,
                    ..self.clone()
                };
                &*Box::leak(Box::new(part))
            })
    }

    /// Compute capability as major and minor number.
    pub fn capability(&self) -> (u32, u32) {
        (self.sm / 10, self.sm % 10)
    }

    /// Whether blocks can be launched in clusters.
    pub fn has_clusters(&self) -> bool {
        self.sm >= 90
    }
}

const KIB: u32 = 1024;
const GIB: u64 = 1 << 30;

static ARCHS: &[Arch] = &[
    Arch {
        sm: 80,
        name: "cusim sm_80 (emulated on the CPU)",
        multiprocessors: 108,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        shared_per_multiprocessor: 164 * KIB,
        shared_per_block_optin: 163 * KIB,
        global_memory: 40 * GIB,
        l2_cache: 40 * KIB * KIB,
    },
    Arch {
        sm: 86,
        name: "cusim sm_86 (emulated on the CPU)",
        multiprocessors: 84,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 16,
        shared_per_multiprocessor: 100 * KIB,
        shared_per_block_optin: 99 * KIB,
        global_memory: 24 * GIB,
        l2_cache: 6 * KIB * KIB,
    },
    Arch {
        sm: 89,
        name: "cusim sm_89 (emulated on the CPU)",
        multiprocessors: 128,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 24,
        shared_per_multiprocessor: 100 * KIB,
        shared_per_block_optin: 99 * KIB,
        global_memory: 24 * GIB,
        l2_cache: 72 * KIB * KIB,
    },
    Arch {
        sm: 90,
        name: "cusim sm_90 (emulated on the CPU)",
        multiprocessors: 132,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        shared_per_multiprocessor: 228 * KIB,
        shared_per_block_optin: 227 * KIB,
        global_memory: 80 * GIB,
        l2_cache: 50 * KIB * KIB,
    },
    Arch {
        sm: 100,
        name: "cusim sm_100 (emulated on the CPU)",
        multiprocessors: 148,
        threads_per_multiprocessor: 2048,
        blocks_per_multiprocessor: 32,
        shared_per_multiprocessor: 228 * KIB,
        shared_per_block_optin: 227 * KIB,
        global_memory: 180 * GIB,
        l2_cache: 126 * KIB * KIB,
    },
    Arch {
        sm: 120,
        name: "cusim sm_120 (emulated on the CPU)",
        multiprocessors: 170,
        threads_per_multiprocessor: 1536,
        blocks_per_multiprocessor: 24,
        shared_per_multiprocessor: 100 * KIB,
        shared_per_block_optin: 99 * KIB,
        global_memory: 32 * GIB,
        l2_cache: 96 * KIB * KIB,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_of_a_block_fits_its_multiprocessor() {
        for arch in Arch::all() {
            assert_eq!(
                arch.shared_per_block_optin + Arch::SHARED_RESERVED,
                arch.shared_per_multiprocessor,
                "{}",
                arch.name
            );
        }
    }

    #[test]
    fn capabilities_are_found_by_number() {
        assert_eq!(Arch::of(120).map(Arch::capability), Some((12, 0)));
        assert_eq!(Arch::of(86).map(Arch::capability), Some((8, 6)));
        assert_eq!(Arch::of(70), None);
    }
}
