//! Runs the three families on the device at hand, as one step of a transformer layer does, and says what
//! ran where and how far each result is from the f64 reference.

use std::error::Error;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ferroflash::reference::{self, Angles, Exact, HostTensor, Rounded};
use ferroflash::{
    Float, Frequencies, Kernels, Layout, Mask, Positions, Prefill, PrefillArgs, PrefillOptions,
    RmsNorm, Rope, RopeArgs, RopeStyle, TensorView, TensorViewMut, WeightForm,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

const TOKENS: usize = 160;
const Q_HEADS: usize = 4;
const KV_HEADS: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let device = cusim::Device::from_env("FERROFLASH_DEVICE")?;
    println!("{device}\n");
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let kernels = Kernels::load(&context)?;

    println!("{:<34} {:>12} {:>12}", "kernel", "worst error", "allowed");
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
    /// QK-norm, RoPE and causal attention, each compared with the reference on its own inputs.
    fn layer<T: Float>(&self, head_dim: usize) -> Result<(), Box<dyn Error>> {
        let mut rng = StdRng::seed_from_u64(head_dim as u64);
        let mut normal = |len: usize| -> Vec<T> {
            (0..len)
                .map(|_| T::from_f64(rng.sample(StandardNormal)))
                .collect()
        };
        let q = normal(TOKENS * Q_HEADS * head_dim);
        let k = normal(TOKENS * KV_HEADS * head_dim);
        let v = normal(TOKENS * KV_HEADS * head_dim);
        let weight = normal(head_dim);

        let q = self.norm(&q, &weight)?;
        let k = self.norm(&k, &weight)?;
        let (q, k) = self.rope(&q, &k, head_dim)?;
        self.attention(&q, &k, &v, head_dim)
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

    fn rope<T: Float>(
        &self,
        q: &[T],
        k: &[T],
        head_dim: usize,
    ) -> Result<(Vec<T>, Vec<T>), Box<dyn Error>> {
        let op = Rope {
            style: RopeStyle::HalfSplit,
            rotary_dim: None,
            frequencies: Frequencies::Base {
                base: 10_000.0,
                scale: 1.0,
            },
        };
        // A context that continues at position 1,000,000.
        let numbers: Vec<i32> = (1_000_000..).take(TOKENS).collect();
        let positions = Positions::new(&self.stream, &numbers)?;
        let mut q_data = self.stream.clone_htod(q)?;
        let mut k_data = self.stream.clone_htod(k)?;
        let (q_shape, k_shape) = ([TOKENS, Q_HEADS, head_dim], [TOKENS, KV_HEADS, head_dim]);
        let args = RopeArgs {
            q: TensorViewMut::contiguous(q_data.as_view_mut(), q_shape)?,
            k: Some(TensorViewMut::contiguous(k_data.as_view_mut(), k_shape)?),
            positions: &positions,
            table: None,
        };
        self.kernels.rope(&self.stream, &op, args)?;
        let (q_out, k_out) = (
            self.stream.clone_dtoh(&q_data)?,
            self.stream.clone_dtoh(&k_data)?,
        );

        let angles = Angles {
            positions: &numbers,
            table: None,
        };
        for (name, x, shape, out) in [("q", q, q_shape, &q_out), ("k", k, k_shape, &k_out)] {
            let x = HostTensor::new(x, Layout::contiguous(shape))?;
            let exact = reference::rope::<Exact, T>(&op, &x, &angles);
            let yardstick = reference::rope::<Rounded<T>, T>(&op, &x, &angles);
            let name = format!("rope {} {name} head_dim {head_dim}", T::DTYPE);
            report(&name, out, exact.data(), yardstick.data())?;
        }
        Ok((q_out, k_out))
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
    println!("{name:<34} {worst:>12.2e} {allowed:>12.2e}");
    Ok(())
}
