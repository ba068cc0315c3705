//! Runs the three families on the device at hand, as one step of a transformer layer does, and says what
//! ran where and how far each result is from the f64 reference.

use std::error::Error;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ferroflash::reference::{self, Angles, Exact, HostTensor, Rounded};
use ferroflash::{
    CacheWrite, Float, Heads, Kernels, KvPages, Layout, Mask, NormWeights, PageLayout, Positions,
    Prefill, PrefillArgs, PrefillOptions, QkNorm, RmsNorm, Rope, RopeArgs, Slots, TensorView,
    TensorViewMut, WeightForm,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

const TOKENS: usize = 160;
const Q_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const PAGE_SIZE: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let device = cusim::Device::from_env("FERROFLASH_DEVICE")?;
    println!("{device}\n");
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let kernels = Kernels::load(&context)?;

    println!("{:<42} {:>12} {:>12}", "kernel", "worst error", "allowed");
    let example = Example { stream, kernels };
    for head_dim in [64, 128, 256] {
        example.layer::<f16>(head_dim)?;
        example.layer::<bf16>(head_dim)?;
    }
    println!("\nallowed = 2 x the error of naive arithmetic in the same type + 1e-5");
    if device.is_emulated() {
        let launches = cusim::launches();
        let instructions: u64 = launches
            .iter()
            .map(|launch| launch.counters.instructions)
            .sum();
        println!(
            "emulated: {} launches, {instructions} warp instructions",
            launches.len()
        );
    }
    Ok(())
}

struct Example {
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

impl Example {
    /// A step of a transformer layer: RMSNorm, then QK-norm, RoPE and the write to a paged cache in one launch, then causal
    /// attention on the cache; each compared with the reference on its own inputs.
    fn layer<T: Float>(&self, head_dim: usize) -> Result<(), Box<dyn Error>> {
        let mut rng = StdRng::seed_from_u64(head_dim as u64);
        let mut normal = |len: usize| -> Vec<T> {
            (0..len)
                .map(|_| T::from_f64(rng.sample(StandardNormal)))
                .collect()
        };
        let weight = normal(head_dim);
        let q = self.norm(&normal(TOKENS * Q_HEADS * head_dim), &weight)?;
        let k = normal(TOKENS * KV_HEADS * head_dim);
        let v = normal(TOKENS * KV_HEADS * head_dim);
        let [q, k_pages, v_pages] = self.norm_rope_and_cache(&q, &k, &v, &weight)?;
        self.attention(&q, &k_pages, &v_pages, head_dim)
    }

    fn norm<T: Float>(&self, x: &[T], weight: &[T]) -> Result<Vec<T>, Box<dyn Error>> {
        let (width, shape) = (weight.len(), [x.len() / weight.len(), weight.len()]);
        let op = RmsNorm {
            eps: 1e-6,
            weight: WeightForm::Plain,
        };
        let mut data = self.stream.clone_htod(x)?;
        let weights = self.stream.clone_htod(weight)?;
        self.kernels.rms_norm_in_place(
            &self.stream,
            &op,
            TensorViewMut::contiguous(data.as_view_mut(), shape)?,
            TensorView::contiguous(weights.as_view(), [width])?,
        )?;
        let out = self.stream.clone_dtoh(&data)?;

        let x = HostTensor::new(x, Layout::contiguous(shape))?;
        let weight = HostTensor::new(weight, Layout::contiguous([width]))?;
        let exact = reference::rms_norm::<Exact, T>(&op, &x, &weight);
        let yardstick = reference::rms_norm::<Rounded<T>, T>(&op, &x, &weight);
        let name = format!("rms_norm {} width {width}", T::DTYPE);
        report(&name, &out, exact.data(), yardstick.data())?;
        Ok(out)
    }

    /// Gives q, and the pages of k and v. The pages follow one another, so that they are row-major k and v too.
    fn norm_rope_and_cache<T: Float>(
        &self,
        q: &[T],
        k: &[T],
        v: &[T],
        weight: &[T],
    ) -> Result<[Vec<T>; 3], Box<dyn Error>> {
        let head_dim = weight.len();
        let op = Rope {
            norm: Some(QkNorm {
                eps: 1e-6,
                weight: WeightForm::Plain,
            }),
            ..Rope::default()
        };
        // A context that continues at position 1,000,000, and its place in the cache.
        let positions = Positions::range(1_000_000, TOKENS)?;
        let slots = Slots::new(&self.stream, &(0..TOKENS).map(Some).collect::<Vec<_>>())?;
        let pages = [TOKENS / PAGE_SIZE, PAGE_SIZE, KV_HEADS, head_dim];
        let (q_shape, k_shape) = ([TOKENS, Q_HEADS, head_dim], [TOKENS, KV_HEADS, head_dim]);
        let mut q_data = self.stream.clone_htod(q)?;
        let (k_data, v_data) = (self.stream.clone_htod(k)?, self.stream.clone_htod(v)?);
        let mut k_pages = self.stream.alloc_zeros::<T>(k.len())?;
        let mut v_pages = self.stream.alloc_zeros::<T>(v.len())?;
        let weights = self.stream.clone_htod(weight)?;
        let args = RopeArgs {
            k: Some(Heads::ToCache(TensorView::contiguous(
                k_data.as_view(),
                k_shape,
            )?)),
            weights: Some(NormWeights {
                q: Some(TensorView::contiguous(weights.as_view(), [head_dim])?),
                k: Some(TensorView::contiguous(weights.as_view(), [head_dim])?),
            }),
            cache: Some(CacheWrite {
                v: TensorView::contiguous(v_data.as_view(), k_shape)?,
                pages: KvPages::Same {
                    k: TensorViewMut::contiguous(k_pages.as_view_mut(), pages)?,
                    v: TensorViewMut::contiguous(v_pages.as_view_mut(), pages)?,
                },
                layout: PageLayout::Nhd,
                slots: &slots,
            }),
            ..RopeArgs::new(
                TensorViewMut::contiguous(q_data.as_view_mut(), q_shape)?,
                None,
                &positions,
            )
        };
        self.kernels.rope(&self.stream, &op, args)?;
        let q_out = self.stream.clone_dtoh(&q_data)?;
        let k_out = self.stream.clone_dtoh(&k_pages)?;
        let v_out = self.stream.clone_dtoh(&v_pages)?;

        let numbers: Vec<f64> = (0..TOKENS)
            .map(|token| (1_000_000 + token) as f64)
            .collect();
        let angles = Angles {
            positions: &numbers,
            table: None,
        };
        let weight = HostTensor::new(weight, Layout::contiguous([head_dim]))?;
        for (name, x, shape, out) in [("q", q, q_shape, &q_out), ("k", k, k_shape, &k_out)] {
            let x = HostTensor::new(x, Layout::contiguous(shape))?;
            let exact = reference::rope::<Exact, T>(&op, &x, &angles, Some(&weight));
            let yardstick = reference::rope::<Rounded<T>, T>(&op, &x, &angles, Some(&weight));
            let name = format!(
                "norm + rope + cache {} {name} head_dim {head_dim}",
                T::DTYPE
            );
            report(&name, out, exact.data(), yardstick.data())?;
        }
        if v_out != v {
            return Err("the cache holds other values than were written".into());
        }
        Ok([q_out, k_out, v_out])
    }

    fn attention<T: Float>(
        &self,
        q: &[T],
        k: &[T],
        v: &[T],
        head_dim: usize,
    ) -> Result<(), Box<dyn Error>> {
        let op = Prefill {
            mask: Mask::Causal,
            ..Prefill::default()
        };
        let qo = Layout::contiguous([1, TOKENS, Q_HEADS, head_dim]);
        let kv = Layout::contiguous([1, TOKENS, KV_HEADS, head_dim]);
        let q_data = self.stream.clone_htod(q)?;
        let k_data = self.stream.clone_htod(k)?;
        let v_data = self.stream.clone_htod(v)?;
        let mut o_data = self.stream.alloc_zeros::<T>(q.len())?;
        let args = PrefillArgs {
            q: TensorView::new(q_data.as_view(), qo)?,
            k: TensorView::new(k_data.as_view(), kv)?,
            v: TensorView::new(v_data.as_view(), kv)?,
            o: TensorViewMut::new(o_data.as_view_mut(), qo)?,
            lse: None,
            options: PrefillOptions::default(),
        };
        self.kernels.prefill(&self.stream, &op, args)?;
        let out = self.stream.clone_dtoh(&o_data)?;

        let (q, k, v) = (
            HostTensor::new(q, qo)?,
            HostTensor::new(k, kv)?,
            HostTensor::new(v, kv)?,
        );
        let exact = reference::prefill::<Exact, T>(&op, &q, &k, &v);
        let yardstick = reference::prefill::<Rounded<T>, T>(&op, &q, &k, &v);
        let name = format!("prefill {} causal head_dim {head_dim}", T::DTYPE);
        report(&name, &out, exact.o.data(), yardstick.o.data())
    }
}

/// Prints a line of the table; an error outside the bound ends the program.
fn report<T: Float>(
    name: &str,
    out: &[T],
    exact: &[f64],
    yardstick: &[f64],
) -> Result<(), Box<dyn Error>> {
    let out: Vec<f64> = out.iter().map(|x| x.to_f64()).collect();
    let worst = reference::check(&out, exact, yardstick)?;
    let allowed = reference::error_bound(exact, yardstick);
    println!("{name:<42} {worst:>12.2e} {allowed:>12.2e}");
    Ok(())
}
