//! Launches of every family: what each must move and compute, and the bars it is held to. `machine_code` counts
//! them, `families` times them.

mod attention;
mod norm;
mod rope;

use std::cell::Cell;
use std::error::Error;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr};
use ferroflash::{Element, Kernels, TensorView, TensorViewMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How large the cases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As little as shows what each kernel does: counts of it are exact.
    Counted,
    /// Work that fills a GPU, and data that does not fit into its L2.
    Timed,
}

impl Scale {
    /// The size of a case when it is counted, or when it is timed.
    pub fn pick<T>(self, counted: T, timed: T) -> T {
        match self {
            Scale::Counted => counted,
            Scale::Timed => timed,
        }
    }
}

/// What the cases run on.
pub struct Device {
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
    pub scale: Scale,
    /// Of the next buffer's numbers.
    seed: Cell<u64>,
}

impl Device {
    /// The device that has been selected.
    pub fn new(scale: Scale) -> Result<Self> {
        let context = CudaContext::new(0)?;
        Ok(Self {
            stream: context.new_stream()?,
            kernels: Kernels::load(&context)?,
            scale,
            seed: Cell::new(0),
        })
    }

    /// A buffer of input. Where cases are timed it is normally distributed, since what a GPU takes depends on the bits. Where
    /// they are counted every element is `deviation`: attention does more where the largest logit grows.
    pub fn data<T: Element>(&self, len: usize, deviation: f64) -> Result<CudaSlice<T>> {
        const DRAWN: usize = 65_521;
        let drawn = match self.scale {
            Scale::Counted => vec![T::from_f64(deviation)],
            Scale::Timed => StdRng::seed_from_u64(self.seed.replace(self.seed.get() + 1))
                .sample_iter::<f64, _>(StandardNormal)
                .take(DRAWN.min(len))
                .map(|x| T::from_f64(x * deviation))
                .collect(),
        };
        let mut data = drawn.repeat(len.div_ceil(drawn.len()));
        data.truncate(len);
        Ok(self.stream.clone_htod(&data)?)
    }
}

/// A row-major tensor at the start of a buffer.
pub fn view<T, const R: usize>(
    data: &CudaSlice<T>,
    shape: [usize; R],
) -> Result<TensorView<'_, T, R>> {
    Ok(TensorView::contiguous(data.as_view(), shape)?)
}

/// A row-major output at the start of a buffer.
pub fn view_mut<T: DeviceRepr, const R: usize>(
    data: &mut CudaSlice<T>,
    shape: [usize; R],
) -> Result<TensorViewMut<'_, T, R>> {
    Ok(TensorViewMut::contiguous(data.as_view_mut(), shape)?)
}

/// What an operation cannot do without.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needed {
    /// Bytes from and to global memory.
    pub bytes: usize,
    /// Multiplications and additions of the tensor cores.
    pub flops: u64,
}

/// What a case must reach; `None` where there is no bar. No case may spill, access local memory in its main loop or
/// have bank conflicts.
#[derive(Debug, Clone, Copy)]
pub struct Bars {
    /// Sectors moved over those needed, at most.
    pub traffic: f64,
    /// Barriers that each warp waits at, at most.
    pub barriers: Option<u64>,
    /// Tensor operations executed over those needed, at most.
    pub flops: Option<f64>,
    /// Share of the tensor pipe that the loop's instructions allow, at least.
    pub bound: Option<f64>,
    /// The same in ptxas's own order with all resident blocks, at least.
    pub replay: Option<f64>,
    /// Instructions for each 16 bytes of global memory in the code that moves most, at most: for loops. Straight code
    /// has the instructions of options that are not taken, too.
    pub instructions_per_16_bytes: Option<f64>,
    /// The same of the straightest way through a kernel, at most: for kernels that are nothing but variants of one row.
    pub straightest_way: Option<f64>,
    /// Instructions of PTX executed for each 16 bytes that must move, at most. What ptxas makes of them is less.
    pub executed_per_16_bytes: Option<f64>,
    /// Bytes of loads in flight on an SM, at least.
    pub load_bytes_in_flight: Option<u64>,
}

impl Bars {
    pub const NONE: Self = Self {
        traffic: 0.0,
        barriers: None,
        flops: None,
        bound: None,
        replay: None,
        instructions_per_16_bytes: None,
        straightest_way: None,
        executed_per_16_bytes: None,
        load_bytes_in_flight: None,
    };
}

type Launch<'a> = Box<dyn FnMut(&Device) -> Result<()> + 'a>;

/// One launch.
pub struct Case<'a> {
    pub name: String,
    pub needed: Needed,
    pub bars: Bars,
    pub launch: Launch<'a>,
}

/// The cases whose name contains one of `filters`, or all if there are none.
pub fn all(device: &Device, filters: &[String]) -> Result<Vec<Case<'static>>> {
    let mut cases = Vec::new();
    attention::cases(device, &mut cases)?;
    norm::cases(device, &mut cases)?;
    rope::cases(device, &mut cases)?;
    let is_wanted = |case: &Case<'_>| {
        let contains = |filter: &String| case.name.contains(filter.as_str());
        filters.is_empty() || filters.iter().any(contains)
    };
    cases.retain(is_wanted);
    Ok(cases)
}
