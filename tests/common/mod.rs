//! What the suites share: one device, drawn layouts, buffers with canaries.

#![allow(dead_code)] // every suite uses another part

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr};
use cusim::exec::MmaMode;
use ferroflash::reference::HostTensor;
use ferroflash::{Element, Kernels, Layout, TensorView, TensorViewMut};
use half::f16;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

/// The device the suite runs on, with the kernels loaded.
pub struct Gpu {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
}

/// One device for the whole test binary.
pub fn gpu() -> &'static Gpu {
    static GPU: LazyLock<Gpu> = LazyLock::new(|| {
        let device = cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
        println!("{device}");
        let context = CudaContext::new(0).expect("a context");
        let stream = context.new_stream().expect("a stream");
        let kernels = Kernels::load(&context).expect("kernels");
        Gpu {
            context,
            stream,
            kernels,
        }
    });
    &GPU
}

/// How the emulator runs a case: which schedule, and what hardware it takes after where its results may
/// differ. Without effect on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    pub seed: u64,
    pub mma: MmaMode,
    /// Approximate instructions anywhere within their bounds.
    pub perturb: bool,
}

/// Draws modes: half of them as the emulator is by default, the rest with any tensor core, perturbed or not, in
/// one of sixteen schedules.
pub fn mode() -> impl Strategy<Value = Mode> {
    let mma = prop::sample::select(vec![MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper]);
    let any =
        (0..16u64, mma, any::<bool>()).prop_map(|(seed, mma, perturb)| Mode { seed, mma, perturb });
    prop_oneof![Just(Mode::default()), any]
}

/// Runs a case in each of eight schedules of each tensor core, with approximations rounded correctly and perturbed:
/// another case each time, the same ones in every run. A GPU has one mode only.
pub fn in_every_mode<C: std::fmt::Debug>(
    cases: impl Strategy<Value = C>,
    passes: impl Fn(&C) -> Result<(), TestCaseError>,
) {
    let device = cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
    let mut runner = TestRunner::deterministic();
    let mut run = |mode: Mode| {
        let case = cases.new_tree(&mut runner).expect("a case").current();
        let _mode = enter(mode);
        passes(&case).unwrap_or_else(|error| panic!("{mode:?}: {error}\n{case:?}"));
    };
    if !device.is_emulated() {
        return run(Mode::default());
    }
    for mma in [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper] {
        for perturb in [false, true] {
            for seed in 0..8 {
                run(Mode { seed, mma, perturb });
            }
        }
    }
}

/// Switches the emulator, which has one mode for the whole process, until the guard is dropped.
pub fn enter(mode: Mode) -> MutexGuard<'static, ()> {
    static CURRENT: Mutex<()> = Mutex::new(());
    // A failed case poisons the lock, and is repeated to be made smaller.
    let guard = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = gpu();
    cusim::set_seed(mode.seed);
    cusim::set_mma(mode.mma);
    cusim::set_perturb(mode.perturb);
    guard
}

/// How a tensor lies in its buffer: row-major, with the leading axes in some order, gaps after each
/// axis and before the first element, all in multiples of `unit` elements.
#[derive(Debug, Clone)]
pub struct Arrangement {
    /// Sort key of each leading axis: the larger, the further out.
    order: Vec<u32>,
    /// Gap behind each axis, innermost first.
    gaps: Vec<usize>,
    pub offset: usize,
    tail: usize,
}

/// Draws arrangements of rank-`rank` tensors; a third of them are plain row-major.
pub fn arrangement(rank: usize, unit: usize) -> BoxedStrategy<Arrangement> {
    let gap = move || prop_oneof![3 => Just(0), 1 => (1..4usize).prop_map(move |n| n * unit)];
    let plain = Just(Arrangement::plain(rank));
    let drawn = (
        prop::collection::vec(any::<u32>(), rank),
        prop::collection::vec(gap(), rank),
        gap(),
        0..40usize,
    )
        .prop_map(|(order, gaps, offset, tail)| Arrangement {
            order,
            gaps,
            offset,
            tail,
        });
    prop_oneof![1 => plain, 2 => drawn].boxed()
}

impl Arrangement {
    /// Row-major, without gaps.
    pub fn plain(rank: usize) -> Self {
        Self {
            order: (0..rank as u32).rev().collect(),
            gaps: vec![0; rank],
            offset: 0,
            tail: 0,
        }
    }

    /// The layout of `shape`, and the length of its buffer.
    pub fn layout<const R: usize>(&self, shape: [usize; R]) -> (Layout<R>, usize) {
        let mut axes: Vec<usize> = (0..R - 1).collect();
        axes.sort_by_key(|&axis| (self.order[axis], std::cmp::Reverse(axis)));
        let mut strides = [1; R];
        let mut step = shape[R - 1] + self.gaps[0];
        for (inner, &axis) in axes.iter().enumerate() {
            strides[axis] = step;
            step = step * shape[axis].max(1) + self.gaps[inner + 1];
        }
        let layout = Layout::strided(shape, strides, self.offset);
        let span = layout.span().expect("a small layout");
        (layout, span + self.tail)
    }
}

/// A tensor on the host, in the buffer it will have on the device.
#[derive(Debug, Clone)]
pub struct Host<T, const R: usize> {
    pub data: Vec<T>,
    pub layout: Layout<R>,
}

impl<T: DeviceRepr + Copy, const R: usize> Host<T, R> {
    /// Elements come from `fill`; everything between them is `between`.
    pub fn of(
        arrangement: &Arrangement,
        shape: [usize; R],
        between: T,
        mut fill: impl FnMut() -> T,
    ) -> Self {
        let (layout, len) = arrangement.layout(shape);
        let mut data = vec![between; len];
        for index in indices(shape) {
            data[layout.position(index)] = fill();
        }
        Self { data, layout }
    }

    /// Copies to the device. An empty tensor gets one element of memory: allocating none is an error.
    pub fn upload_or(&self, padding: T) -> CudaSlice<T> {
        let padding = [padding];
        let data: &[T] = if self.data.is_empty() {
            &padding
        } else {
            &self.data
        };
        gpu().stream.clone_htod(data).expect("upload")
    }

    pub fn view<'a>(&self, device: &'a CudaSlice<T>) -> TensorView<'a, T, R> {
        TensorView::new(device.as_view(), self.layout).expect("a view inside its buffer")
    }
}

impl<T: Element, const R: usize> Host<T, R> {
    /// Elements come from `fill`; everything between them is `between`.
    pub fn new(
        arrangement: &Arrangement,
        shape: [usize; R],
        between: T,
        mut fill: impl FnMut() -> f64,
    ) -> Self {
        Self::of(arrangement, shape, between, || T::from_f64(fill()))
    }

    /// Copies to the device.
    pub fn upload(&self) -> CudaSlice<T> {
        self.upload_or(T::from_f64(f64::NAN))
    }

    /// The same data for the reference.
    pub fn tensor(&self) -> HostTensor<'_, T, R> {
        HostTensor::new(&self.data, self.layout).expect("the layout that made the buffer")
    }

    pub fn view_mut<'a>(&self, device: &'a mut CudaSlice<T>) -> TensorViewMut<'a, T, R> {
        TensorViewMut::new(device.as_view_mut(), self.layout).expect("a view inside its buffer")
    }

    /// Downloads what a kernel wrote, checks that it wrote nothing between the elements, and returns
    /// the elements in row-major order.
    pub fn download(&self, device: &CudaSlice<T>) -> Result<Vec<T>, TestCaseError> {
        let data = gpu().stream.clone_dtoh(device).expect("download");
        let mut untouched = vec![true; self.data.len()];
        let mut elements = Vec::new();
        for index in indices(self.layout.shape()) {
            let position = self.layout.position(index);
            untouched[position] = false;
            elements.push(data[position]);
        }
        for (position, _) in untouched
            .iter()
            .enumerate()
            .filter(|(_, untouched)| **untouched)
        {
            let (was, is) = (self.data[position].to_f64(), data[position].to_f64());
            prop_assert!(
                was.to_bits() == is.to_bits(),
                "element {position} is not part of the output and changed from {was} to {is}"
            );
        }
        Ok(elements)
    }
}

/// Every index of a shape in row-major order.
pub fn indices<const R: usize>(shape: [usize; R]) -> impl Iterator<Item = [usize; R]> {
    let len: usize = shape.iter().product();
    (0..len).map(move |mut linear| {
        let mut index = [0; R];
        for axis in (0..R).rev() {
            index[axis] = linear % shape[axis];
            linear /= shape[axis];
        }
        index
    })
}

/// Normally distributed values, the same for the same seed.
pub fn normal(seed: u64, deviation: f64) -> impl FnMut() -> f64 {
    let mut rng = StdRng::seed_from_u64(seed);
    move || rng.sample::<f64, _>(StandardNormal) * deviation
}

/// Asserts that two runs gave the same bits.
pub fn assert_same_bits<T: Element>(first: &[T], second: &[T]) -> Result<(), TestCaseError> {
    prop_assert_eq!(first.len(), second.len());
    for (index, (a, b)) in first.iter().zip(second).enumerate() {
        let (a, b) = (a.to_f64(), b.to_f64());
        prop_assert!(
            a.to_bits() == b.to_bits(),
            "element {index} differs between runs: {a}, {b}"
        );
    }
    Ok(())
}

/// A failure of a drawn case.
pub fn fail(error: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// Drawn cases of a suite: `usual`, or what `PROPTEST_CASES` asks for.
pub fn cases(usual: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}

/// What the emulator counted in the last launch of a kernel whose name starts so; `None` on a GPU.
pub fn counters(kernel: &str, launch: impl FnOnce()) -> Option<cusim::exec::Counters> {
    let device = cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
    let _gpu = gpu();
    launch();
    if !device.is_emulated() {
        return None;
    }
    let launches = cusim::launches();
    let last = launches
        .iter()
        .rev()
        .find(|launch| launch.kernel.starts_with(kernel));
    Some(last.expect("the launch just made").counters)
}

/// A row-major tensor at the start of a buffer.
pub fn view<const R: usize>(data: &CudaSlice<f16>, shape: [usize; R]) -> TensorView<'_, f16, R> {
    TensorView::contiguous(data.as_view(), shape).expect("a view")
}

/// A row-major output at the start of a buffer.
pub fn view_mut<const R: usize>(
    data: &mut CudaSlice<f16>,
    shape: [usize; R],
) -> TensorViewMut<'_, f16, R> {
    TensorViewMut::contiguous(data.as_view_mut(), shape).expect("a view")
}
