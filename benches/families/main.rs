//! What each launch takes on a GPU, by the device's own events, with a cold L2: medians, as a share of what the same
//! GPU reaches in copies and in nothing but multiplications of the tensor cores.
//!
//! `cargo bench --bench families [-- FILTER...]` times the cases whose name contains a filter, in the sizes of
//! [`Scale::Timed`]. With `--once` each is launched once in the sizes in which `machine_code` counts it, for a profiler or, on
//! the emulator, to be compared with one. Nothing is timed on the emulator.

#[allow(dead_code)] // the bars are those of `machine_code`
#[path = "../cases/mod.rs"]
mod cases;
mod ceiling;
mod timer;

use cases::{Case, Device, Result, Scale};
use ceiling::Ceilings;
use timer::Timer;

fn main() -> Result<()> {
    let (options, filters): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let selected = cusim::Device::from_env("FERROFLASH_DEVICE")?;
    println!("{selected}");
    if options.iter().any(|option| option == "--once") {
        return once(&filters);
    }
    if selected.is_emulated() {
        println!("nothing is timed without a GPU");
        return Ok(());
    }
    let device = Device::new(Scale::Timed)?;
    let mut timer = Timer::new(&device.stream)?;
    let ceilings = Ceilings::measure(&mut timer)?;
    println!("{ceilings}\n");
    println!(
        "{:56} {:>9} {:>9} {:>10}",
        "", "median us", "least us", "of ceiling"
    );
    for case in &mut cases::all(&device, &filters)? {
        let time = timer.time(|| (case.launch)(&device))?;
        println!(
            "{:56} {:9.1} {:9.1} {}",
            case.name,
            time.median * 1e6,
            time.least * 1e6,
            rate(case, time.median, &ceilings)
        );
    }
    Ok(())
}

/// Launches each case once; on the emulator, prints what it counted.
fn once(filters: &[String]) -> Result<()> {
    let device = Device::new(Scale::Counted)?;
    for case in &mut cases::all(&device, filters)? {
        cusim::take_launches();
        (case.launch)(&device)?;
        device.stream.synchronize()?;
        for launch in cusim::take_launches() {
            let count = launch.counters;
            println!(
                "{}: {}: global sectors {} loaded, {} stored; shared wavefronts {}, {} without conflicts; {} of mma; {} \
                 instructions of PTX",
                case.name,
                launch.kernel,
                count.global_load_sectors,
                count.global_store_sectors,
                count.shared_wavefronts,
                count.shared_wavefronts_ideal,
                count.tensor,
                count.instructions,
            );
        }
    }
    Ok(())
}

/// What a case reaches: operations where it has any, else bytes.
fn rate(case: &Case<'_>, seconds: f64, ceilings: &Ceilings) -> String {
    if case.needed.flops > 0 {
        let flops = case.needed.flops as f64 / seconds;
        let share = flops / ceilings.tensor;
        format!("{share:10.3} = {:.0} TFLOP/s", flops / 1e12)
    } else {
        let bytes = case.needed.bytes as f64 / seconds;
        let share = bytes / ceilings.memory;
        format!("{share:10.3} = {:.0} GB/s", bytes / 1e9)
    }
}
