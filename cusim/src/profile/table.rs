//! Profiles as tables for the terminal.

use comfy_table::{CellAlignment, Table, presets};

use super::{KernelProfile, named, remarks};

/// Lines that are listed of a kernel: those with most instructions.
const LINES: usize = 30;

/// The totals of every kernel, its lines with most instructions and its traffic by allocation.
pub fn table(profiles: &[KernelProfile]) -> String {
    let mut text = String::new();
    for profile in profiles {
        let [x, y, z] = profile.grid;
        let [threads_x, threads_y, threads_z] = profile.block;
        text += &format!(
            "{}: {} launches, grid {x} x {y} x {z}, block {threads_x} x {threads_y} x {threads_z}\n",
            profile.kernel, profile.launches
        );
        for part in [totals(profile), lines(profile), allocations(profile)] {
            text += &format!("{part}\n\n");
        }
    }
    text
}

fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(header);
    table
}

/// Numbers stand on the right.
fn align(table: &mut Table, from: usize) {
    for column in table.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn totals(profile: &KernelProfile) -> Table {
    let mut table = new(&["counter", "total"]);
    for (name, value) in named(&profile.counters) {
        table.add_row([name.to_owned(), value.to_string()]);
    }
    align(&mut table, 1);
    table
}

fn lines(profile: &KernelProfile) -> Table {
    let mut table = new(&[
        "line",
        "instructions",
        "share",
        "loads",
        "stores",
        "wavefronts",
        "remarks",
    ]);
    let mut lines = profile.lines();
    lines.sort_by_key(|line| std::cmp::Reverse(line.counters.instructions));
    let all = profile.counters.instructions.max(1) as f64;
    for line in lines.iter().take(LINES) {
        let counters = &line.counters;
        let file = if line.file.is_empty() {
            "PTX"
        } else {
            &line.file
        };
        table.add_row([
            format!("{file}:{}", line.line),
            counters.instructions.to_string(),
            format!("{:.1} %", 100.0 * counters.instructions as f64 / all),
            counters.global_load_sectors.to_string(),
            counters.global_store_sectors.to_string(),
            counters.shared_wavefronts.to_string(),
            remarks(counters).join("; "),
        ]);
    }
    align(&mut table, 1);
    if let Some(remarks) = table.column_mut(6) {
        remarks.set_cell_alignment(CellAlignment::Left);
    }
    table
}

fn allocations(profile: &KernelProfile) -> Table {
    let mut table = new(&[
        "allocation",
        "bytes",
        "load bytes",
        "sectors",
        "once",
        "store bytes",
        "sectors",
        "once",
    ]);
    for traffic in &profile.allocations {
        table.add_row([
            format!("0x{:x} by {}", traffic.address, traffic.origin),
            traffic.bytes.to_string(),
            traffic.load_bytes.to_string(),
            traffic.load_sectors.to_string(),
            traffic.unique_load_sectors.to_string(),
            traffic.store_bytes.to_string(),
            traffic.store_sectors.to_string(),
            traffic.unique_store_sectors.to_string(),
        ]);
    }
    align(&mut table, 1);
    table
}
