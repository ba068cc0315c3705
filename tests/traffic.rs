//! What the kernels move, counted by the emulator (RoPE: tests/rope/traffic.rs). One test for each family: the counters are those of
//! the family's last launch in this process.

mod common;

use common::{counters, gpu, view, view_mut};
use cudarc::driver::CudaSlice;
use ferroflash::{Mask, Prefill, PrefillArgs, PrefillOptions, RmsNorm, WeightForm};
use half::f16;

/// Bytes of a sector, the unit in which global memory is moved.
const SECTOR: usize = 32;

fn ones(len: usize) -> CudaSlice<f16> {
    gpu()
        .stream
        .clone_htod(&vec![f16::ONE; len])
        .expect("memory")
}

fn sectors(elements: usize) -> u64 {
    (elements * size_of::<f16>() / SECTOR) as u64
}

#[test]
fn rms_norm_reads_x_once() {
    let (rows, width) = (64, 2048);
    let (x, weight) = (ones(rows * width), ones(width));
    let mut out = ones(rows * width);
    let op = RmsNorm {
        eps: 1e-6,
        weight: WeightForm::Plain,
    };
    let launch = || {
        let (x, weight) = (view(&x, [rows, width]), view(&weight, [width]));
        let out = view_mut(&mut out, [rows, width]);
        gpu()
            .kernels
            .rms_norm(&gpu().stream, &op, x, weight, out)
            .expect("a launch");
    };
    let Some(counters) = counters("fflash_rms_norm", launch) else {
        return;
    };
    assert_eq!(counters.global_store_sectors, sectors(rows * width));
    let weights = sectors(rows * width);
    assert_eq!(
        counters.global_load_sectors,
        sectors(rows * width) + weights
    );
    assert_eq!(counters.shared_wavefronts, counters.shared_wavefronts_ideal);
}

#[test]
fn prefill_reads_q_once_and_k_and_v_once_for_each_block_of_queries() {
    let (seqlen, heads, head_dim, block_m) = (256, 2, 128, 128);
    let shape = [1, seqlen, heads, head_dim];
    let elements = seqlen * heads * head_dim;
    let (q, k, v) = (ones(elements), ones(elements), ones(elements));
    let mut o = ones(elements);
    let op = Prefill {
        mask: Mask::Full,
        ..Prefill::default()
    };
    let launch = || {
        let (q, k, v) = (view(&q, shape), view(&k, shape), view(&v, shape));
        let args = PrefillArgs {
            q,
            k,
            v,
            o: view_mut(&mut o, shape),
            lse: None,
            options: PrefillOptions::default(),
        };
        gpu()
            .kernels
            .prefill(&gpu().stream, &op, args)
            .expect("a launch");
    };
    let Some(counters) = counters("fflash_prefill", launch) else {
        return;
    };
    let blocks = (seqlen / block_m) as u64;
    assert_eq!(
        counters.global_load_sectors,
        sectors(elements) * (1 + 2 * blocks)
    );
    assert_eq!(counters.global_store_sectors, sectors(elements));
    assert_eq!(
        counters.mma_flops,
        (4 * seqlen * seqlen * heads * head_dim) as u64
    );
    assert_eq!(
        counters.shared_wavefronts, counters.shared_wavefronts_ideal,
        "bank conflicts"
    );
}
