//! Profiles as a page for a browser: the source with counts beside each line, and nothing to load from elsewhere.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html as page};

use super::{InstructionProfile, KernelProfile, named, remarks};
use crate::exec::Counters;

/// Lines of source that are shown around those that were executed.
const AROUND: u32 = 3;

const STYLE: &str = "
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 15%, transparent);
  --heat: 255 120 0; --bad: color-mix(in srgb, red 65%, currentColor); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 92rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; }
td, th { padding: .1rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.totals { columns: 3 18rem; } .totals div { display: flex; justify-content: space-between; gap: 1rem;
  border-bottom: 1px solid var(--line); break-inside: avoid; }
.source { width: 100%; font: 13px/1.4 ui-monospace, monospace; } .source th { font: 600 13px system-ui, sans-serif; }
.source pre { margin: 0; white-space: pre-wrap; } .skip td { text-align: center; opacity: .5; }
.bad { color: var(--bad); font-weight: 600; } summary { cursor: pointer; } details table { margin: .3rem 0 .6rem; }
.scroll { overflow-x: auto; }
";

/// A page of its own for these kernels. Source is read from the paths that the module names, where they exist.
pub fn html(profiles: &[KernelProfile]) -> String {
    let page = page! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "cusim profile" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "cusim profile" }
                p { "Exact counts of what the kernels executed; nothing here is a time." }
                @for profile in profiles { (kernel(profile)) }
            }
        }
    };
    page.into_string()
}

fn kernel(profile: &KernelProfile) -> Markup {
    let triple = |[x, y, z]: [u32; 3]| format!("{x} × {y} × {z}");
    let mut files: BTreeMap<&str, BTreeMap<u32, Vec<&InstructionProfile>>> = BTreeMap::new();
    for instruction in &profile.instructions {
        let (file, line) = instruction.place();
        files
            .entry(file)
            .or_default()
            .entry(line)
            .or_default()
            .push(instruction);
    }
    page! {
        section {
            h2 { (profile.kernel) }
            p {
                (profile.launches) " launches, grid " (triple(profile.grid)) ", block " (triple(profile.block))
            }
            @for remark in remarks(&profile.counters) { p class="bad" { (remark) } }
            div class="totals" {
                @for (name, value) in named(&profile.counters) {
                    div { span { (name) } span { (value) } }
                }
            }
            (allocations(profile))
            @for (file, lines) in &files { (source(profile, file, lines)) }
        }
    }
}

fn allocations(profile: &KernelProfile) -> Markup {
    page! {
        h3 { "Global traffic by allocation, in 32-byte sectors" }
        div class="scroll" { table {
            thead { tr {
                th { "allocation" } th { "bytes" } th { "loaded" } th { "of which different" }
                th { "stored" } th { "of which different" }
            } }
            tbody { @for traffic in &profile.allocations { tr {
                td { "0x" (format!("{:x}", traffic.address)) " by " (traffic.origin) }
                td class="n" { (traffic.bytes) }
                td class="n" { (traffic.load_sectors) }
                td class="n" { (traffic.unique_load_sectors) }
                td class="n" { (traffic.store_sectors) }
                td class="n" { (traffic.unique_store_sectors) }
            } } }
        } }
    }
}

fn source(
    profile: &KernelProfile,
    file: &str,
    lines: &BTreeMap<u32, Vec<&InstructionProfile>>,
) -> Markup {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let text: Vec<&str> = text.lines().collect();
    // Executed lines with some around them, where the text is known.
    let shown: std::collections::BTreeSet<u32> = lines
        .keys()
        .flat_map(|&line| {
            let around = if text.is_empty() { 0 } else { AROUND };
            line.saturating_sub(around).max(1)..=(line + around).min((text.len() as u32).max(line))
        })
        .collect();
    let mut last = None;
    page! {
        h3 { @if file.is_empty() { "Instructions without a line of source" } @else { (file) } }
        div class="scroll" { table class="source" {
            thead { tr {
                th { "line" } th { "instructions" } th { "loads" } th { "stores" } th { "wavefronts" } th { "source" }
            } }
            tbody { @for line in shown {
                @if last.replace(line).is_some_and(|last| last + 1 < line) {
                    tr class="skip" { td colspan="6" { "⋯" } }
                }
                @let text = text.get(line as usize - 1).copied().unwrap_or_default();
                @match lines.get(&line) {
                    Some(instructions) => (executed(profile, line, text, instructions)),
                    None => tr {
                        td class="n" { (line) } td {} td {} td {} td {} td { pre { (text) } }
                    },
                }
            } }
        } }
    }
}

fn executed(
    profile: &KernelProfile,
    line: u32,
    text: &str,
    instructions: &[&InstructionProfile],
) -> Markup {
    let mut counters = Counters::default();
    instructions
        .iter()
        .for_each(|instruction| counters += instruction.counters);
    let share = counters.instructions as f64 / profile.counters.instructions.max(1) as f64;
    // The square root keeps small shares visible.
    let heat = format!("background: rgb(var(--heat) / {:.2})", share.sqrt() * 0.6);
    page! {
        tr {
            td class="n" { (line) }
            td class="n" style=(heat) { (counters.instructions) }
            td class="n" { (blank(counters.global_load_sectors)) }
            td class="n" { (blank(counters.global_store_sectors)) }
            td class="n" { (blank(counters.shared_wavefronts)) }
            td {
                details {
                    summary {
                        (text)
                        @for remark in remarks(&counters) { " " span class="bad" { (remark) } }
                    }
                    table { tbody { @for instruction in instructions { tr {
                        td class="n" { (instruction.counters.instructions) }
                        td { (instruction.instruction) }
                        td { @for remark in remarks(&instruction.counters) { span class="bad" { (remark) } " " } }
                    } } } }
                }
            }
        }
    }
}

fn blank(count: u64) -> String {
    if count == 0 {
        String::new()
    } else {
        count.to_string()
    }
}
