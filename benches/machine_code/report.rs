//! What is seen of a case, and the bars that it misses.

use cusim::exec::Counters;

use crate::cases::{Case, Device, Result};
use crate::sass::Kernel;

/// Bytes of a sector, the unit in which global memory is moved.
const SECTOR: usize = 32;

/// The architecture whose machine code is held to the bars of a loop.
const MODELLED: &str = "sm_80";

/// What the emulator saw of it.
pub struct Run {
    pub kernel: String,
    pub threads: u32,
    pub warps: u64,
    pub dynamic_shared: u32,
    pub counters: Counters,
}

impl Case<'_> {
    pub fn run(&mut self, device: &Device) -> Result<Run> {
        cusim::take_launches();
        (self.launch)(device)?;
        device.stream.synchronize()?;
        let launches = cusim::take_launches();
        let [launch] = launches.as_slice() else {
            return Err(format!("{}: {} launches, not one", self.name, launches.len()).into());
        };
        let (blocks, threads): (u32, u32) =
            (launch.grid.iter().product(), launch.block.iter().product());
        Ok(Run {
            kernel: launch.kernel.clone(),
            threads,
            warps: u64::from(blocks) * u64::from(threads.div_ceil(32)),
            dynamic_shared: launch.dynamic_shared,
            counters: launch.counters,
        })
    }

    /// Prints the case; returns the bars it misses.
    pub fn report(&self, run: &Run, kernels: &[Kernel]) -> Vec<String> {
        println!("\n{}: {}", self.name, run.kernel);
        let mut check = Check {
            case: &self.name,
            missed: Vec::new(),
        };
        self.report_counters(run, &mut check);
        for kernel in kernels {
            self.report_kernel(kernel, &mut check);
        }
        check.missed
    }

    fn report_counters(&self, run: &Run, check: &mut Check<'_>) {
        let counters = &run.counters;
        let sectors = counters.global_load_sectors + counters.global_store_sectors;
        let traffic = sectors as f64 * SECTOR as f64 / self.needed.bytes as f64;
        let conflicts = counters.shared_wavefronts - counters.shared_wavefronts_ideal;
        println!(
            "  counted: {} warp instructions, {sectors} sectors ({traffic:.3} of what must move), {} passes over shared \
             memory, {conflicts} for conflicts",
            counters.instructions, counters.shared_wavefronts,
        );
        check.at_most("sectors over needed", traffic, Some(self.bars.traffic));
        if self.needed.flops == 0 {
            let executed = counters.instructions as f64 * 32.0 * 16.0 / self.needed.bytes as f64;
            println!("  counted: {executed:.1} instructions of PTX for 16 bytes");
            let bar = self.bars.executed_per_16_bytes;
            check.at_most("instructions of PTX for 16 bytes", executed, bar);
            let bytes = counters.global_load_bytes + counters.global_store_bytes;
            let share = counters.global_vector_bytes as f64 / bytes as f64;
            println!(
                "  counted: {:.1} % of bytes in accesses of 128 bits",
                share * 100.0
            );
            // The others are indices and scales.
            check.at_least("share of bytes in 128-bit accesses", share, Some(0.99));
        }
        check.at_most("bank conflicts", conflicts as f64, Some(0.0));
        if self.needed.flops > 0 {
            let flops = counters.mma_flops as f64 / self.needed.flops as f64;
            println!("  counted: {flops:.3} of the tensor operations that are needed");
            check.at_most("tensor operations over needed", flops, self.bars.flops);
            let barriers = counters.barrier as f64 / run.warps as f64;
            println!("  counted: {barriers:.1} barriers for each warp");
            let bar = self.bars.barriers.map(|barriers| barriers as f64);
            check.at_most("barriers for each warp", barriers, bar);
        }
    }

    fn report_kernel(&self, kernel: &Kernel, check: &mut Check<'_>) {
        let arch = &kernel.built_for;
        println!(
            "  {arch}: {} registers, {} spills",
            kernel.registers,
            kernel.spills()
        );
        check.at_most(&format!("{arch} spills"), kernel.spills().into(), Some(0.0));
        let is_modelled = arch == MODELLED;
        if let Some(code) = kernel.main_loop() {
            let bound = code.tensor_bound.unwrap_or(0.0);
            let replay = code.replay.as_ref().map_or(0.0, |replay| replay.tensor);
            println!(
                "    main loop: {} instructions, bound {bound:.2}, replay {replay:.2}: {}",
                code.instructions,
                mix(&code.counts)
            );
            let local = code.local_accesses();
            check.at_most(
                &format!("{arch} local accesses in the loop"),
                local.into(),
                Some(0.0),
            );
            if is_modelled {
                check.at_least("bound", bound, self.bars.bound);
                check.at_least("replay", replay, self.bars.replay);
            }
        } else {
            let code = kernel.streaming();
            let share = code.share_128bit.unwrap_or(0.0);
            let instructions = code.instructions_per_16_bytes.unwrap_or(f64::INFINITY);
            let in_flight = code.load_bytes_in_flight_sm.unwrap_or(0);
            println!(
                "    streaming: {} instructions, {:.0} % of accesses in 128 bits, {instructions:.1} instructions for 16 bytes, \
                 {} KiB of loads in flight: {}",
                code.instructions,
                share * 100.0,
                in_flight / 1024,
                mix(&code.counts)
            );
            if let Some(bar) = self.bars.straightest_way {
                let way = kernel.straightest_way.unwrap_or(f64::INFINITY);
                println!("    straightest way: {way:.1} instructions for 16 bytes");
                if is_modelled {
                    let what = "instructions of the straightest way for 16 bytes";
                    check.at_most(what, way, Some(bar));
                }
            }
            if is_modelled {
                let bar = self.bars.instructions_per_16_bytes;
                check.at_most("instructions for 16 bytes", instructions, bar);
                check.at_least("share of 128-bit accesses", share, bar.map(|_| 1.0));
                let bar = self.bars.load_bytes_in_flight.map(|bytes| bytes as f64);
                check.at_least("bytes of loads in flight", in_flight as f64, bar);
            }
        }
    }
}

/// The commonest classes of instructions.
fn mix(counts: &std::collections::BTreeMap<String, u32>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    let counts = counts
        .iter()
        .take(8)
        .map(|(class, count)| format!("{class} {count}"));
    counts.collect::<Vec<_>>().join(", ")
}

/// Collects the bars that a case misses.
struct Check<'a> {
    case: &'a str,
    missed: Vec<String>,
}

impl Check<'_> {
    fn at_most(&mut self, what: &str, value: f64, bar: Option<f64>) {
        if let Some(bar) = bar
            && value > bar
        {
            self.missed
                .push(format!("{}: {what}: {value:.3}, at most {bar}", self.case));
        }
    }

    fn at_least(&mut self, what: &str, value: f64, bar: Option<f64>) {
        if let Some(bar) = bar
            && value < bar
        {
            self.missed
                .push(format!("{}: {what}: {value:.3}, at least {bar}", self.case));
        }
    }
}
