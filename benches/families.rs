//! Time of one launch of each family, by the device's own events: GPU time on a GPU, and the emulator's
//! wall time (which says nothing of a GPU) without one.

#![allow(missing_docs)] // criterion's macros make public functions

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use ferroflash::{
    Kernels, Mask, Positions, Prefill, PrefillArgs, PrefillOptions, RmsNorm, Rope, RopeArgs,
    TensorView, TensorViewMut, WeightForm,
};
use half::f16;

/// Sizes that the emulator runs in milliseconds; a GPU gets work that fills it.
struct Sizes {
    seqlen: usize,
    heads: usize,
    rows: usize,
}

struct Bench {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    sizes: Sizes,
}

impl Bench {
    fn ones(&self, len: usize) -> CudaSlice<f16> {
        self.stream
            .clone_htod(&vec![f16::ONE; len])
            .expect("memory")
    }

    /// Device time of `count` launches.
    fn time(&self, count: u64, mut launch: impl FnMut()) -> Duration {
        let start = self
            .stream
            .record_event(Some(CU_EVENT_DEFAULT))
            .expect("an event");
        (0..count).for_each(|_| launch());
        let end = self
            .stream
            .record_event(Some(CU_EVENT_DEFAULT))
            .expect("an event");
        let milliseconds = start.elapsed_ms(&end).expect("both were recorded");
        Duration::from_secs_f64(f64::from(milliseconds) / 1e3)
    }
}

fn view<const R: usize>(data: &CudaSlice<f16>, shape: [usize; R]) -> TensorView<'_, f16, R> {
    TensorView::contiguous(data.as_view(), shape).expect("a view")
}

fn view_mut<const R: usize>(
    data: &mut CudaSlice<f16>,
    shape: [usize; R],
) -> TensorViewMut<'_, f16, R> {
    TensorViewMut::contiguous(data.as_view_mut(), shape).expect("a view")
}

fn families(criterion: &mut Criterion) {
    let device = cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
    println!("{device}");
    let sizes = if device.is_emulated() {
        Sizes {
            seqlen: 256,
            heads: 1,
            rows: 64,
        }
    } else {
        Sizes {
            seqlen: 4096,
            heads: 16,
            rows: 16384,
        }
    };
    let context = CudaContext::new(0).expect("a context");
    let stream = context.new_stream().expect("a stream");
    let kernels = Kernels::load(&context).expect("kernels");
    let bench = Bench {
        stream,
        kernels,
        sizes,
    };
    for head_dim in [64, 128, 256] {
        prefill(criterion, &bench, head_dim);
    }
    rms_norm(criterion, &bench);
    rope(criterion, &bench);
}

fn prefill(criterion: &mut Criterion, bench: &Bench, head_dim: usize) {
    let Sizes { seqlen, heads, .. } = bench.sizes;
    let shape = [1, seqlen, heads, head_dim];
    let len = shape.iter().product();
    let (q, k, v, mut o) = (
        bench.ones(len),
        bench.ones(len),
        bench.ones(len),
        bench.ones(len),
    );
    let op = Prefill {
        mask: Mask::Causal,
        ..Prefill::default()
    };
    let mut group = criterion.benchmark_group("prefill");
    // Half of 4 b s^2 h d: the causal triangle.
    group.throughput(Throughput::Elements(
        (2 * seqlen * seqlen * heads * head_dim) as u64,
    ));
    group
        .sample_size(10)
        .bench_function(format!("f16 causal d{head_dim}, FLOP"), |bencher| {
            bencher.iter_custom(|count| {
                bench.time(count, || {
                    let (q, k, v) = (view(&q, shape), view(&k, shape), view(&v, shape));
                    let args = PrefillArgs {
                        q,
                        k,
                        v,
                        o: view_mut(&mut o, shape),
                        lse: None,
                        options: PrefillOptions::default(),
                    };
                    bench
                        .kernels
                        .prefill(&bench.stream, &op, args)
                        .expect("a launch");
                })
            });
        });
    group.finish();
}

fn rms_norm(criterion: &mut Criterion, bench: &Bench) {
    let (rows, width) = (bench.sizes.rows, 4096);
    let (x, weight, mut out) = (
        bench.ones(rows * width),
        bench.ones(width),
        bench.ones(rows * width),
    );
    let op = RmsNorm {
        eps: 1e-6,
        weight: WeightForm::Plain,
    };
    let mut group = criterion.benchmark_group("rms_norm");
    group.throughput(Throughput::Bytes(
        (2 * rows * width * size_of::<f16>()) as u64,
    ));
    group
        .sample_size(10)
        .bench_function("f16 width 4096", |bencher| {
            bencher.iter_custom(|count| {
                bench.time(count, || {
                    let (x, weight) = (view(&x, [rows, width]), view(&weight, [width]));
                    let out = view_mut(&mut out, [rows, width]);
                    bench
                        .kernels
                        .rms_norm(&bench.stream, &op, x, weight, out)
                        .expect("a launch");
                })
            });
        });
    group.finish();
}

fn rope(criterion: &mut Criterion, bench: &Bench) {
    let (tokens, q_heads, k_heads, head_dim) = (bench.sizes.rows, 16, 4, 128);
    let mut q = bench.ones(tokens * q_heads * head_dim);
    let mut k = bench.ones(tokens * k_heads * head_dim);
    let numbers: Vec<i32> = (0..tokens as i32).collect();
    let positions = Positions::new(&bench.stream, &numbers).expect("valid positions");
    let op = Rope::default();
    let mut group = criterion.benchmark_group("rope");
    let bytes = 2 * tokens * (q_heads + k_heads) * head_dim * size_of::<f16>();
    group.throughput(Throughput::Bytes(bytes as u64));
    group
        .sample_size(10)
        .bench_function("f16 q and k d128", |bencher| {
            bencher.iter_custom(|count| {
                bench.time(count, || {
                    let args = RopeArgs::new(
                        view_mut(&mut q, [tokens, q_heads, head_dim]),
                        Some(view_mut(&mut k, [tokens, k_heads, head_dim])),
                        &positions,
                    );
                    bench
                        .kernels
                        .rope(&bench.stream, &op, args)
                        .expect("a launch");
                })
            });
        });
    group.finish();
}

criterion_group!(benches, families);
criterion_main!(benches);
