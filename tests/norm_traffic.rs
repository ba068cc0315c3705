//! What the kernels of the RMSNorm family move, counted by the emulator. One test: the counters are those of the last launch in
//! this process.

mod common;

use common::{counters, gpu};
use cudarc::driver::CudaSlice;
use cudarc::driver::sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
use cusim::exec::Counters;
use ferroflash::norm::backward_workspace;
use ferroflash::{
    Element, InOut, Norm, NormArgs, NormBackwardArgs, PostNorm, QkNormArgs, RmsNorm, Scale,
    Statistics, TensorView, TensorViewMut,
};
use float8::F8E4M3;
use half::{bf16, f16};

fn ones<T: Element>(len: usize) -> CudaSlice<T> {
    let ones = vec![T::from_f64(1.0); len];
    gpu().stream.clone_htod(&ones).expect("memory")
}

fn view<T: Element, const R: usize>(
    data: &CudaSlice<T>,
    shape: [usize; R],
) -> TensorView<'_, T, R> {
    TensorView::contiguous(data.as_view(), shape).expect("a view")
}

fn view_mut<T: Element, const R: usize>(
    data: &mut CudaSlice<T>,
    shape: [usize; R],
) -> TensorViewMut<'_, T, R> {
    TensorViewMut::contiguous(data.as_view_mut(), shape).expect("a view")
}

/// Bytes that must be read and written.
struct Bar {
    reads: usize,
    writes: usize,
}

fn holds(name: &str, counters: Counters, bar: &Bar) {
    println!("{name}: {counters:?}");
    let share = |sectors: u64, bytes: usize| sectors as f64 * 32.0 / bytes as f64;
    let (reads, writes) = (
        share(counters.global_load_sectors, bar.reads),
        share(counters.global_store_sectors, bar.writes),
    );
    assert!(
        (1.0..=1.01).contains(&reads),
        "{name} reads {reads} times the bytes it must"
    );
    assert!(
        (1.0..=1.01).contains(&writes),
        "{name} writes {writes} times the bytes it must"
    );
    assert_eq!(
        counters.shared_wavefronts, counters.shared_wavefronts_ideal,
        "{name} has bank conflicts"
    );
}

/// Launches a norm of rows of `T` to `O` with weights of `W`, each of whose sectors serves so many rows of a warp.
fn launch<T: Element, W: Element, O: Element>(
    name: &str,
    op: &Norm,
    [rows, width]: [usize; 2],
    parts: &str,
    sharing: usize,
) {
    let has = |part| parts.contains(part);
    let (x, gate, weight) = (
        ones::<T>(rows * width),
        ones::<T>(rows * width),
        ones::<W>(width),
    );
    let mut residual = ones::<T>(rows * width);
    let mut out = ones::<O>(rows * width);
    let groups = match op.scale {
        Some(Scale::PerRow) => 1,
        Some(Scale::PerGroup(size)) => width / size,
        _ => 0,
    };
    let mut scales = ones::<f32>((rows * groups).max(1));
    let run = || {
        let (x, gate) = (view(&x, [rows, width]), view(&gate, [rows, width]));
        let weight = view(&weight, [width]);
        let (mut out, mut residual) = (
            view_mut(&mut out, [rows, width]),
            view_mut(&mut residual, [rows, width]),
        );
        let rows_ = InOut::Apart {
            input: &x,
            output: &mut out,
        };
        let args = NormArgs {
            bias: has("bias").then_some(&weight as _),
            gate: has("gate").then_some(&gate as _),
            residual: if has("residual") {
                Some(InOut::InPlace(&mut residual))
            } else {
                None
            },
            post: has("post").then_some(PostNorm {
                weight: Some(&weight),
            }),
            scales: (groups > 0).then(|| view_mut(&mut scales, [rows, groups])),
            ..NormArgs::new(rows_, Some(&weight))
        };
        gpu()
            .kernels
            .norm(&gpu().stream, op, args)
            .expect("a launch");
    };
    let Some(counters) = counters(name, run) else {
        return;
    };
    let vectors = 1 + usize::from(has("bias")) + usize::from(has("post"));
    let tensors = 1 + usize::from(has("gate")) + usize::from(has("residual"));
    let row = rows * width;
    let reads = row * tensors * size_of::<T>() + row * vectors * size_of::<W>() / sharing;
    let sums = usize::from(has("residual")) * size_of::<T>();
    // A scale of a row is a sector of its own, and so are those of a slot's two groups or one.
    let scales = match groups {
        0 | 1 => groups,
        _ => groups / 2,
    };
    let writes = row * (size_of::<O>() + sums) + rows * scales * 32;
    holds(&format!("{name} {parts}"), counters, &Bar { reads, writes });
}

#[test]
fn rows_are_read_once() {
    let rms = Norm {
        eps: 1e-6,
        ..Norm::default()
    };
    let layer = Norm {
        statistics: Statistics::Deviation,
        ..rms
    };
    let scaled = |scale| Norm {
        scale: Some(scale),
        ..rms
    };
    let long = [16, 4096];
    launch::<bf16, bf16, bf16>("fflash_rms_norm_bf16", &rms, long, "", 1);
    launch::<f16, f16, f16>("fflash_rms_norm_f16", &rms, long, "", 1);
    launch::<f32, f32, f32>("fflash_rms_norm_f32", &rms, long, "", 1);
    launch::<bf16, bf16, bf16>("fflash_rms_norm_bf16", &rms, [4, 8192], "", 1);
    // In registers and as much shared memory as there is, but for 256 bytes and in steps of 512.
    let per_block = gpu()
        .stream
        .context()
        .attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        .expect("an attribute") as usize;
    let kept = (per_block - 256) / 512 * 512;
    let widest = |registers, size| [1, registers + kept / size];
    launch::<bf16, bf16, bf16>("fflash_rms_norm_bf16", &rms, widest(32_768, 2), "", 1);
    launch::<f32, f32, f32>("fflash_rms_norm_f32", &rms, widest(16_384, 4), "", 1);
    launch::<bf16, bf16, bf16>(
        "fflash_layer_norm_bf16",
        &layer,
        widest(32_768, 2),
        "bias",
        1,
    );
    launch::<f32, f32, f32>(
        "fflash_layer_norm_f32",
        &layer,
        widest(16_384, 4),
        "bias",
        1,
    );
    launch::<f32, f32, f32>("fflash_norm_mixed", &rms, widest(8192, 4), "bias", 1);
    // Rows that blocks share.
    let longest = [2, 262_144];
    launch::<bf16, bf16, bf16>("fflash_norm_bf16", &rms, longest, "", 1);
    launch::<f16, f16, f16>("fflash_norm_f16", &layer, longest, "bias", 1);
    launch::<f32, f32, f32>("fflash_norm_mixed", &rms, longest, "residual", 1);
    launch::<bf16, bf16, bf16>("fflash_rms_norm_bf16_short", &rms, [256, 128], "", 16);
    launch::<bf16, bf16, bf16>("fflash_rms_norm_bf16_short", &rms, [256, 512], "", 4);
    launch::<bf16, bf16, bf16>("fflash_add_rms_norm_bf16", &rms, long, "residual", 1);
    launch::<f16, f16, f16>("fflash_add_rms_norm_f16", &rms, long, "residual", 1);
    launch::<f32, f32, f32>("fflash_add_rms_norm_f32", &rms, long, "residual", 1);
    launch::<bf16, bf16, bf16>("fflash_gated_norm_bf16", &rms, long, "gate", 1);
    launch::<f32, f32, f32>("fflash_gated_norm_f32", &rms, long, "gate", 1);
    launch::<bf16, bf16, bf16>("fflash_gated_norm_bf16_short", &rms, [256, 128], "gate", 8);
    launch::<bf16, bf16, bf16>("fflash_norm_bf16", &rms, long, "gate bias", 1);
    launch::<bf16, bf16, bf16>("fflash_layer_norm_bf16", &layer, long, "bias", 1);
    launch::<bf16, bf16, bf16>("fflash_norm_bf16", &layer, long, "residual bias", 1);
    launch::<bf16, bf16, bf16>("fflash_post_norm_bf16", &rms, long, "residual post", 1);
    launch::<f32, f32, f32>("fflash_post_norm_f32", &rms, long, "residual post", 1);
    launch::<f32, f32, f32>("fflash_layer_norm_f32", &layer, long, "bias", 1);
    launch::<f32, f32, f32>("fflash_norm_mixed", &layer, long, "residual bias", 1);
    launch::<bf16, f32, bf16>("fflash_norm_mixed", &rms, long, "", 1);
    launch::<bf16, bf16, f32>("fflash_norm_mixed", &rms, long, "residual", 1);
    launch::<bf16, bf16, F8E4M3>(
        "fflash_quantised_norm_bf16",
        &scaled(Scale::Static(0.5)),
        long,
        "",
        1,
    );
    launch::<f32, f32, i8>(
        "fflash_quantised_norm_f32",
        &scaled(Scale::PerRow),
        long,
        "",
        1,
    );
    launch::<bf16, bf16, F8E4M3>(
        "fflash_quantised_norm_bf16",
        &scaled(Scale::PerRow),
        long,
        "residual",
        1,
    );
    launch::<bf16, bf16, i8>(
        "fflash_quantised_norm_bf16",
        &scaled(Scale::PerRow),
        long,
        "residual",
        1,
    );
    launch::<bf16, bf16, F8E4M3>(
        "fflash_quantised_norm_bf16",
        &scaled(Scale::PerGroup(128)),
        [4, 8192],
        "residual",
        1,
    );
    heads();
    gradients();
}

fn heads() {
    let (tokens, heads, head_dim) = (32, [8, 2], 128);
    let op = Norm {
        eps: 1e-6,
        ..Norm::default()
    };
    let mut data = heads.map(|heads| ones::<bf16>(tokens * heads * head_dim));
    let weight = ones::<bf16>(head_dim);
    let launch = || {
        let weight = view(&weight, [head_dim]);
        let [q, k] = &mut data;
        let args = QkNormArgs {
            q: InOut::InPlace(&mut view_mut(q, [tokens, heads[0], head_dim])),
            k: InOut::InPlace(&mut view_mut(k, [tokens, heads[1], head_dim])),
            q_weight: Some(&weight),
            k_weight: Some(&weight),
        };
        gpu()
            .kernels
            .qk_norm(&gpu().stream, &op, args)
            .expect("a launch");
    };
    let Some(counters) = counters("fflash_rms_norm_bf16_short", launch) else {
        return;
    };
    let bytes = tokens * (heads[0] + heads[1]) * head_dim * 2;
    // Heads that share a warp share the weight: one sector serves 16 of them.
    let weights = bytes / 16;
    let bar = Bar {
        reads: bytes + weights,
        writes: bytes,
    };
    holds("heads", counters, &bar);
}

fn gradients() {
    let [rows, width] = [64, 4096];
    let op: RmsNorm = RmsNorm {
        eps: 1e-6,
        weight: Default::default(),
    };
    let [x, dy, dh] = [(); 3].map(|()| ones::<bf16>(rows * width));
    let (weight, mut dx, mut dw) = (
        ones::<bf16>(width),
        ones::<bf16>(rows * width),
        ones::<f32>(width),
    );
    let needed = backward_workspace(rows, width);
    let mut workspace = ones::<f32>(needed);
    let launch = || {
        let args = NormBackwardArgs {
            x: &view(&x, [rows, width]),
            weight: Some(&view(&weight, [width])),
            gradient: InOut::Apart {
                input: &view(&dy, [rows, width]),
                output: &mut view_mut(&mut dx, [rows, width]),
            },
            residual_gradient: Some(&view(&dh, [rows, width])),
            weight_gradient: Some(&mut view_mut(&mut dw, [width])),
            workspace: Some(view_mut(&mut workspace, [needed])),
        };
        gpu()
            .kernels
            .rms_norm_backward(&gpu().stream, &op, args)
            .expect("a launch");
    };
    let Some(counters) = counters("fflash_norm_backward_bf16", launch) else {
        return;
    };
    let rows_bytes = rows * width * 2;
    let bar = Bar {
        reads: 4 * rows_bytes,
        writes: rows_bytes + needed * 4,
    };
    holds("gradients", counters, &bar);
}
