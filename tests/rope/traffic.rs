//! What the kernels move, counted by the emulator, at the sizes of a model with 32 heads for queries and 8 for keys and values.

use cudarc::driver::CudaSlice;
use cusim::exec::Counters;
use ferroflash::{
    CacheScale, CacheWrite, Element, Heads, KvPages, NormWeights, PageLayout, Positions, QkNorm,
    QuantisedPages, Rope, RopeArgs, Slots, TensorView, WeightForm,
};
use float8::F8E4M3;
use half::f16;

use crate::common::{Mode, counters, enter, gpu, view, view_mut};

const TOKENS: usize = 1024;
const Q: [usize; 3] = [TOKENS, 32, 128];
const KV: [usize; 3] = [TOKENS, 8, 128];
const PAGES: [usize; 4] = [TOKENS / 16, 16, 8, 128];

fn memory<T: Element>(shape: &[usize]) -> CudaSlice<T> {
    let len = shape.iter().product();
    gpu()
        .stream
        .clone_htod(&vec![T::from_f64(0.5); len])
        .expect("memory")
}

/// What must move: bytes read and bytes written, apart from positions, slots and weights.
fn print_and_check(name: &str, counters: Counters, read: usize, written: usize) {
    let moved = 32 * (counters.global_load_sectors + counters.global_store_sectors);
    let share = moved as f64 / (read + written) as f64;
    let instructions = (counters.instructions * 32) as f64 / ((read + written) / 16) as f64;
    println!("{name}: {share:.4} of the bytes, {instructions:.1} instructions per 16 B");
    assert_eq!(32 * counters.global_store_sectors, written as u64, "{name}");
    assert!(share <= 1.01, "{name}: {share}");
    assert_eq!(
        counters.shared_wavefronts, counters.shared_wavefronts_ideal,
        "{name}: bank conflicts"
    );
}

fn norm() -> Rope {
    Rope {
        norm: Some(QkNorm {
            eps: 1e-6,
            weight: WeightForm::Plain,
        }),
        ..Rope::default()
    }
}

/// One test, since the counters are those of the last launch in this process.
#[test]
fn everything_is_moved_once() {
    let _mode = enter(Mode::default());
    let stream = &gpu().stream;
    let numbers: Vec<i32> = (0..TOKENS as i32).collect();
    let positions = Positions::new(stream, &numbers).expect("positions");
    let order: Vec<_> = (0..TOKENS).map(|token| Some(token * 7 % TOKENS)).collect();
    let slots = Slots::new(stream, &order).expect("slots");
    let (mut q, mut k, v) = (memory::<f16>(&Q), memory::<f16>(&KV), memory::<f16>(&KV));
    let (mut q_out, weight) = (memory::<f16>(&Q), memory::<f16>(&[128]));
    let bytes = |shape: [usize; 3]| 2 * shape.iter().product::<usize>();
    let (of_q, of_kv) = (bytes(Q), bytes(KV));
    let launch = |op: &Rope, args: RopeArgs<'_, f16>| {
        gpu().kernels.rope(stream, op, args).expect("a launch");
    };

    let plain = counters("fflash_rope", || {
        let k = Some(view_mut(&mut k, KV));
        launch(
            &Rope::default(),
            RopeArgs::new(view_mut(&mut q, Q), k, &positions),
        );
    });
    let Some(plain) = plain else { return };
    print_and_check("rope", plain, of_q + of_kv, of_q + of_kv);

    let part = Rope {
        rotary_dim: Some(64),
        ..Rope::default()
    };
    let elsewhere = counters("fflash_rope", || {
        let heads = Heads::Into {
            x: view(&q, Q),
            out: view_mut(&mut q_out, Q),
        };
        launch(&part, RopeArgs::new(heads, None, &positions));
    });
    print_and_check(
        "rope of half a head, out of place",
        elsewhere.expect("counts"),
        of_q,
        of_q,
    );

    for (name, op) in [
        ("rope + cache", Rope::default()),
        ("qk-norm + rope + cache", norm()),
    ] {
        let weights = || {
            op.norm.map(|_| NormWeights {
                q: Some(view(&weight, [128])),
                k: Some(view(&weight, [128])),
            })
        };
        let (mut k_pages, mut v_pages) = (memory::<f16>(&PAGES), memory::<f16>(&PAGES));
        let same = counters("fflash_rope", || {
            let pages = KvPages::Same {
                k: view_mut(&mut k_pages, PAGES),
                v: view_mut(&mut v_pages, PAGES),
            };
            let args = cached(
                view_mut(&mut q, Q).into(),
                &k,
                &v,
                pages,
                &slots,
                &positions,
            );
            launch(
                &op,
                RopeArgs {
                    weights: weights(),
                    ..args
                },
            );
        });
        let read = of_q + 2 * of_kv;
        print_and_check(name, same.expect("counts"), read, of_q + 2 * of_kv);

        let (mut k_pages, mut v_pages) = (memory::<F8E4M3>(&PAGES), memory::<F8E4M3>(&PAGES));
        let quantised = counters("fflash_rope", || {
            let pages = |data| ferroflash::TensorViewMut::contiguous(data, PAGES).expect("a view");
            let pages = KvPages::E4M3(QuantisedPages {
                k: pages(k_pages.as_view_mut()),
                v: pages(v_pages.as_view_mut()),
                k_scale: CacheScale::Tensor(0.5),
                v_scale: CacheScale::Tensor(0.5),
            });
            let args = cached(
                view_mut(&mut q, Q).into(),
                &k,
                &v,
                pages,
                &slots,
                &positions,
            );
            launch(
                &op,
                RopeArgs {
                    weights: weights(),
                    ..args
                },
            );
        });
        print_and_check(
            &format!("{name} in fp8"),
            quantised.expect("counts"),
            read,
            of_q + of_kv,
        );
    }
}

fn cached<'a>(
    q: Heads<'a, f16>,
    k: &'a CudaSlice<f16>,
    v: &'a CudaSlice<f16>,
    pages: KvPages<'a, f16>,
    slots: &'a Slots,
    positions: &'a Positions,
) -> RopeArgs<'a, f16> {
    let v: TensorView<'a, f16, 3> = view(v, KV);
    RopeArgs {
        k: Some(Heads::ToCache(view(k, KV))),
        cache: Some(CacheWrite {
            v,
            pages,
            layout: PageLayout::Nhd,
            slots,
        }),
        ..RopeArgs::new(q, None, positions)
    }
}
