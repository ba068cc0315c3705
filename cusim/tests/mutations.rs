//! The checks are checked: kernels in which every barrier, wait and commit is needed run right as they
//! are, in every schedule, and are reported with any one of them removed.

use cusim::arch::Arch;
use cusim::exec::{self, Counters, LaunchConfig, Options};
use cusim::fault::{Fault, FaultKind};
use cusim::memory::GlobalMemory;
use cusim::mutation::{Kind, mutants};
use cusim::program::Program;
use cusim::ptx::{self, ast::Module};
use half::f16;

const TEXT: &str = include_str!("fixtures/tiled.ptx");

/// A kernel of the module with its buffers.
struct Kernel {
    name: &'static str,
    grid: u32,
    run: fn(&mut Runner<'_>) -> Result<Counters, Box<Fault>>,
}

/// Launches one kernel of one text.
struct Runner<'a> {
    program: &'a Program,
    memory: GlobalMemory,
    seed: u64,
}

impl Runner<'_> {
    fn upload(&mut self, bytes: &[u8]) -> u64 {
        let address = self.memory.alloc(bytes.len() as u64, "an operand");
        let address = address.expect("memory");
        self.memory.write(address, bytes).expect("the buffer");
        address
    }

    fn launch(&mut self, kernel: &Kernel, words: &[u64]) -> Result<Counters, Box<Fault>> {
        let id = self.program.kernel(kernel.name).expect("the kernel");
        let mut params = Vec::new();
        for (param, word) in self.program.get(id).params().iter().zip(words) {
            params.resize(param.offset as usize, 0);
            params.extend(&word.to_le_bytes()[..param.size as usize]);
        }
        let options = Options {
            seed: self.seed,
            ..Options::default()
        };
        let config = LaunchConfig {
            grid: [kernel.grid, 1, 1],
            block: [128, 1, 1],
            dynamic_shared: 0,
            params: &params,
            global_addresses: &[],
            arch: Arch::of(80).expect("sm_80"),
            options: &options,
            cooperative: false,
            unordered: &[],
        };
        exec::launch(self.program, id, &mut self.memory, &config)
    }
}

const PRODUCT: Kernel = Kernel {
    name: "tiled_product",
    grid: 2,
    run: product,
};

const SUMS: Kernel = Kernel {
    name: "row_sums",
    grid: 1,
    run: sums,
};

/// Small integers, so that every sum is exact.
fn value(at: usize) -> f32 {
    (at * 7919 % 13) as f32 - 6.0
}

fn product(runner: &mut Runner<'_>) -> Result<Counters, Box<Fault>> {
    let (m, n, k) = (100, 64, 160);
    let halves = |count: usize| -> Vec<u8> {
        let values = (0..count).map(|at| f16::from_f32(value(at)).to_bits());
        values.flat_map(u16::to_le_bytes).collect()
    };
    let (a, b) = (runner.upload(&halves(m * k)), runner.upload(&halves(n * k)));
    let c = runner.memory.alloc(4 * (m * n) as u64, "the product");
    let c = c.expect("memory");
    let counters = runner.launch(&PRODUCT, &[a, b, c, m as u64, k as u64])?;
    for (at, got) in floats(&runner.memory, c, m * n).into_iter().enumerate() {
        let (row, column) = (at / n, at % n);
        let terms = (0..k).map(|i| value(row * k + i) * value(column * k + i));
        assert_eq!(got, terms.sum::<f32>(), "row {row}, column {column}");
    }
    Ok(counters)
}

fn sums(runner: &mut Runner<'_>) -> Result<Counters, Box<Fault>> {
    let (rows, width) = (3, 300);
    let bytes: Vec<u8> = (0..rows * width)
        .flat_map(|at| value(at).to_le_bytes())
        .collect();
    let from = runner.upload(&bytes);
    let out = runner.memory.alloc(4 * rows as u64, "the sums");
    let out = out.expect("memory");
    let counters = runner.launch(&SUMS, &[from, out, rows as u64, width as u64])?;
    for (row, got) in floats(&runner.memory, out, rows).into_iter().enumerate() {
        let terms = (row * width..(row + 1) * width).map(value);
        assert_eq!(got, terms.sum::<f32>(), "row {row}");
    }
    Ok(counters)
}

fn floats(memory: &GlobalMemory, address: u64, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * count];
    memory.read(address, &mut bytes).expect("the result");
    let (words, _) = bytes.as_chunks();
    words
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn fixture() -> Module {
    ptx::parse(TEXT).expect("PTX")
}

fn run(module: &Module, kernel: &Kernel, seed: u64) -> Result<Counters, Box<Fault>> {
    let program = Program::load(module).expect("a program");
    let mut runner = Runner {
        program: &program,
        memory: GlobalMemory::new(1 << 24),
        seed,
    };
    (kernel.run)(&mut runner)
}

/// Removes each such instruction in turn: every schedule must report it, and name both accesses.
fn each_is_needed(kernel: &Kernel, instruction: &str, count: usize, kinds: &[FaultKind]) {
    let module = fixture();
    let mut mutants = mutants(&module, kernel.name);
    mutants.retain(|mutant| {
        mutant.kind == Kind::Remove && mutant.instruction.starts_with(instruction)
    });
    assert_eq!(mutants.len(), count, "{instruction} in {}", kernel.name);
    for mutant in mutants {
        for seed in 0..4 {
            let Err(fault) = run(&mutant.apply(&module), kernel, seed) else {
                panic!("nothing is reported of {mutant}, seed {seed}");
            };
            assert!(
                kinds.contains(&fault.kind),
                "{mutant}, seed {seed}: {fault}"
            );
            // Where the other warp has not got to its access, there is none to name.
            let is_lone = fault.kind == FaultKind::Uninitialized;
            assert!(is_lone || fault.other.is_some(), "{fault}");
            for site in [
                Some(&fault.site),
                fault.other.as_ref().map(|(site, _)| site),
            ] {
                let source = site.map(|site| site.source.as_deref().unwrap_or_default());
                assert!(
                    source.is_none_or(|source| source.starts_with("tiled.cu:")),
                    "{fault}"
                );
            }
        }
    }
}

#[test]
fn kernels_run_right_in_every_schedule() {
    for kernel in [PRODUCT, SUMS] {
        for seed in 0..8 {
            run(&fixture(), &kernel, seed).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        }
    }
}

#[test]
fn each_barrier_is_needed() {
    // What others write before a barrier they may have written, be writing, or not have come to.
    let kinds = [
        FaultKind::Race,
        FaultKind::AsyncPending,
        FaultKind::Uninitialized,
    ];
    each_is_needed(&PRODUCT, "bar.sync", 4, &kinds);
    each_is_needed(&SUMS, "bar.sync", 2, &kinds);
}

#[test]
fn each_wait_and_commit_is_needed() {
    let kinds = [FaultKind::AsyncPending];
    each_is_needed(&PRODUCT, "cp.async.wait_group", 1, &kinds);
    each_is_needed(&PRODUCT, "cp.async.commit_group", 2, &kinds);
}

#[test]
fn a_wait_for_too_few_groups_is_reported() {
    let module = fixture();
    let mut mutants = mutants(&module, PRODUCT.name);
    mutants.retain(|mutant| mutant.kind == Kind::WaitForFewer);
    let [mutant] = mutants.as_slice() else {
        panic!("{mutants:?}");
    };
    assert_eq!(mutant.instruction, "cp.async.wait_group 1");
    let fault = run(&mutant.apply(&module), &PRODUCT, 0).expect_err("the tile is in flight");
    assert_eq!(fault.kind, FaultKind::AsyncPending);
}

#[test]
fn a_product_is_counted_exactly() {
    let counters = run(&fixture(), &PRODUCT, 0).expect("no fault");
    let (blocks, steps, warps) = (2, 160 / 32, 4);
    // A warp multiplies 16 rows by 64 columns in two slices of each step.
    let products = blocks * steps * warps * 2 * 8;
    assert_eq!(counters.tensor, products);
    assert_eq!(counters.mma_flops, products * 2 * 16 * 8 * 16);
    // Rows that are not there are not read.
    assert_eq!(counters.copy_async_bytes, 2 * 160 * (100 + 2 * 64));
    assert_eq!(counters.global_store_bytes, 4 * 100 * 64);
    assert_eq!(counters.global_store_sectors, 4 * 100 * 64 / 32);
    // Each of the blocks' warps passes two barriers a step and two for each half of the tile.
    assert_eq!(counters.barrier, blocks * warps * (2 * steps + 2 * 2));
}
