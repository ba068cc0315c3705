//! How fast the emulator is, with all checks on: warp instructions and `mma` per second, and the wall time of one
//! causal attention head of 1,024 queries and keys of size 128.
//!
//! ```text
//! cargo bench -p cusim
//! ```

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cusim::arch::Arch;
use cusim::exec::{self, Counters, LaunchConfig, Options};
use cusim::memory::GlobalMemory;
use cusim::program::Program;
use cusim::ptx;
use half::f16;

const HEAD_DIM: usize = 128;

/// A kernel of its own module with the memory it works on.
struct Bench {
    program: Program,
    memory: GlobalMemory,
    grid: u32,
    block: u32,
    params: Vec<u8>,
}

impl Bench {
    fn new(text: &str, grid: u32, block: u32) -> Self {
        let module = ptx::parse(text).expect("PTX");
        Self {
            program: Program::load(&module).expect("a program"),
            memory: GlobalMemory::new(1 << 30),
            grid,
            block,
            params: Vec::new(),
        }
    }

    /// The next argument is a buffer of these halves.
    fn halves(&mut self, values: &[f64]) -> u64 {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&value| f16::from_f64(value).to_le_bytes())
            .collect();
        let address = self.memory.alloc(bytes.len() as u64, "an operand");
        let address = address.expect("room");
        self.memory.write(address, &bytes).expect("the buffer");
        self.params.extend(address.to_le_bytes());
        address
    }

    fn launch(&mut self) -> Counters {
        let kernel = self.program.kernels().next().expect("a kernel");
        let id = self.program.kernel(kernel.name()).expect("the kernel");
        self.params.resize(kernel.param_bytes() as usize, 0);
        let config = LaunchConfig {
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            dynamic_shared: 0,
            params: &self.params,
            global_addresses: &[],
            arch: Arch::of(80).expect("sm_80"),
            options: &Options::default(),
            cooperative: false,
            unordered: &[],
        };
        exec::launch(&self.program, id, &mut self.memory, &config).expect("no fault")
    }
}

/// A kernel that runs `body` 1,000 times.
fn repeated(registers: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry repeated()\n{{\n\
         .reg .pred %p; .reg .b32 %i;\n{registers}\nmov.u32 %i, 0;\nagain:\n{body}\n\
         add.u32 %i, %i, 1;\nsetp.lt.u32 %p, %i, 1000;\n@%p bra again;\nret;\n}}\n"
    )
}

/// Additions, multiplications, shifts and comparisons in a row, each on the result of the last.
fn arithmetic() -> Bench {
    let registers = ".reg .f32 %a, %b; .reg .b32 %x, %y;\n\
                     mov.f32 %a, 0f3F800000; mov.f32 %b, 0f3F000000; mov.u32 %x, %tid.x; mov.u32 %y, 3;";
    let body = "fma.rn.f32 %a, %a, %b, %b;\nadd.s32 %x, %x, %y;\nmul.f32 %b, %b, %a;\nshl.b32 %y, %x, 1;\n\
                max.f32 %b, %a, %b;\nxor.b32 %x, %x, %y;\n";
    Bench::new(&repeated(registers, &body.repeat(16)), 16, 128)
}

/// Products of matrices in registers.
fn products() -> Bench {
    let registers = ".reg .f32 %d<4>; .reg .b32 %a, %b;\n\
                     mov.f32 %d0, 0f00000000; mov.f32 %d1, %d0; mov.f32 %d2, %d0; mov.f32 %d3, %d0;\n\
                     mov.u32 %a, 0x3c003c00; mov.u32 %b, 0x38003800;";
    let body = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%d0, %d1, %d2, %d3}, {%a, %a, %b, %b}, {%b, %a}, \
                {%d0, %d1, %d2, %d3};\n";
    Bench::new(&repeated(registers, &body.repeat(8)), 4, 128)
}

/// Numbers of both signs, the same in every run.
fn numbers(count: usize, salt: usize) -> Vec<f64> {
    let number = |at: usize| ((at + salt).wrapping_mul(2_654_435_761) >> 8) % 2001;
    (0..count)
        .map(|at| number(at) as f64 / 1000.0 - 1.0)
        .map(|number| f16::from_f64(number).to_f64())
        .collect()
}

/// One causal head, with the address of its output.
fn head(length: usize) -> (Bench, u64) {
    let mut bench = Bench::new(include_str!("head.ptx"), (length / 128) as u32, 256);
    let [q, k, v] = operands(length);
    bench.halves(&q);
    bench.halves(&k);
    bench.halves(&v);
    let out = bench.halves(&vec![0.0; length * HEAD_DIM]);
    bench.params.extend((length as u32).to_le_bytes());
    (bench, out)
}

fn operands(length: usize) -> [Vec<f64>; 3] {
    [0, 1, 2].map(|salt| numbers(length * HEAD_DIM, 1000 * salt))
}

/// Row `row` of the head, in f64.
fn exact(row: usize, [q, k, v]: &[Vec<f64>; 3]) -> Vec<f64> {
    let at = |operand: &[f64], row: usize| operand[row * HEAD_DIM..(row + 1) * HEAD_DIM].to_vec();
    let query = at(q, row);
    let weights: Vec<f64> = (0..=row)
        .map(|key| {
            let products = query.iter().zip(at(k, key)).map(|(q, k)| q * k);
            (products.sum::<f64>() / (HEAD_DIM as f64).sqrt()).exp()
        })
        .collect();
    let total: f64 = weights.iter().sum();
    let sum = |column: usize| -> f64 {
        let terms = weights.iter().enumerate();
        terms
            .map(|(key, weight)| weight * v[key * HEAD_DIM + column])
            .sum()
    };
    (0..HEAD_DIM).map(|column| sum(column) / total).collect()
}

/// What is measured computes what it should.
fn check_head(length: usize) {
    let (mut bench, out) = head(length);
    bench.launch();
    let mut bytes = vec![0; length * HEAD_DIM * 2];
    bench.memory.read(out, &mut bytes).expect("the output");
    let (halves, _) = bytes.as_chunks::<2>();
    let operands = operands(length);
    for row in [0, 1, 63, 64, length - 1] {
        for (column, exact) in exact(row, &operands).into_iter().enumerate() {
            let got = f16::from_le_bytes(halves[row * HEAD_DIM + column]).to_f64();
            // Weights and result are rounded to f16, of values below 1.
            assert!(
                (got - exact).abs() < 2.0 / 1024.0,
                "row {row}: {got}, not {exact}"
            );
        }
    }
}

fn speed(criterion: &mut Criterion) {
    for (name, mut bench, count) in [
        (
            "warp instructions",
            arithmetic(),
            (|counters| counters.instructions) as fn(&Counters) -> u64,
        ),
        ("mma", products(), |counters| counters.tensor),
    ] {
        let done = count(&bench.launch());
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(done));
        group.bench_function("per second", |bencher| {
            bencher.iter(|| black_box(bench.launch()));
        });
        group.finish();
    }
    check_head(256);
    let (mut bench, _) = head(1024);
    criterion.bench_function("causal head of 1,024 x 128", |bencher| {
        bencher.iter(|| black_box(bench.launch()));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = speed
}
criterion_main!(benches);
