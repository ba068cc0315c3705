//! Counts by line and allocation are exact, and reports of them are sound.

use super::*;
use crate::arch::Arch;
use crate::exec::{self, LaunchConfig, Options};
use crate::memory::GlobalMemory;
use crate::ptx;

/// Every thread loads a word of one buffer and, 32 bytes apart, of another, exchanges words of a column in shared
/// memory, and stores one.
const KERNEL: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.file 1 "gone & <lost>.cu"
.visible .entry k(.param .u64 near, .param .u64 far, .param .u64 out)
{
    .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p;
    .shared .align 4 .b8 tile[4096];
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [near]; ld.param.u64 %rd1, [far]; ld.param.u64 %rd2, [out];
    mul.wide.u32 %rd3, %r0, 4; mul.wide.u32 %rd4, %r0, 32;
    add.u64 %rd0, %rd0, %rd3; add.u64 %rd1, %rd1, %rd4; add.u64 %rd2, %rd2, %rd3;
    .loc 1 10 1
    ld.global.u32 %r1, [%rd0];
    .loc 1 11 1
    ld.global.u32 %r2, [%rd1];
    add.u32 %r1, %r1, %r2;
    .loc 1 12 1
    mov.u32 %r3, tile; shl.b32 %r4, %r0, 7; add.u32 %r3, %r3, %r4;
    st.shared.u32 [%r3], %r1;
    .loc 1 13 1
    setp.lt.u32 %p, %r0, 16;
    @%p bra half;
    add.u32 %r1, %r1, 1;
half:
    .loc 1 14 1
    st.global.u32 [%rd2], %r1;
    ret;
}
"#;

fn profile(blocks: u32, threads: usize) -> KernelProfile {
    let module = ptx::parse(KERNEL).expect("PTX");
    let program = Program::load(&module).expect("a program");
    let mut memory = GlobalMemory::new(1 << 20);
    let mut params = Vec::new();
    for bytes in [128u64, 1024, 128] {
        let address = memory.alloc(bytes, "a buffer").expect("room");
        memory.fill(address, &[0], bytes).expect("inside");
        params.extend(address.to_le_bytes());
    }
    let id = program.kernel("k").expect("the kernel");
    let options = Options {
        profile: true,
        threads,
        checks: exec::Checks::NONE,
        ..Options::default()
    };
    let config = LaunchConfig {
        grid: [blocks, 1, 1],
        block: [32, 1, 1],
        dynamic_shared: 0,
        params: &params,
        global_addresses: &[],
        arch: Arch::of(80).expect("sm_80"),
        options: &options,
        cooperative: false,
        unordered: &[],
    };
    let profile = exec::profile(&program, id, &mut memory, &config).expect("no fault");
    KernelProfile::new(
        &program,
        program.get(id),
        config.grid,
        config.block,
        &profile,
    )
}

#[test]
fn lines_and_allocations_are_counted_exactly() {
    let profile = profile(3, 1);
    let lines = profile.lines();
    let at = |line: u32| {
        let found = lines
            .iter()
            .find(|found| found.line == line && !found.file.is_empty());
        found.expect("the line").counters
    };
    assert_eq!(
        (at(10).global_load_sectors, at(10).global_load_bytes),
        (3 * 4, 3 * 128)
    );
    assert_eq!(at(11).global_load_sectors, 3 * 32);
    assert_eq!(
        (at(12).shared_wavefronts, at(12).shared_wavefronts_ideal),
        (3 * 32, 3)
    );
    assert_eq!(at(13).divergent_branches, 3);
    assert_eq!(
        (at(13).instructions, at(13).thread_instructions),
        (3 * 3, 3 * (32 + 16 + 16))
    );
    assert_eq!(at(14).global_store_sectors, 3 * 4);
    let traffic: Vec<_> = profile
        .allocations
        .iter()
        .map(|one| {
            (
                one.load_sectors,
                one.unique_load_sectors,
                one.store_sectors,
                one.unique_store_sectors,
            )
        })
        .collect();
    assert_eq!(traffic, [(12, 4, 0, 0), (96, 32, 0, 0), (0, 0, 12, 4)]);
}

#[test]
fn parts_add_up_to_the_totals_for_any_number_of_threads() {
    let one = profile(5, 1);
    let mut sum = Counters::default();
    one.lines().iter().for_each(|line| sum += line.counters);
    assert_eq!(sum, one.counters);
    let traffic = one
        .allocations
        .iter()
        .map(|traffic| traffic.load_sectors)
        .sum::<u64>();
    assert_eq!(traffic, one.counters.global_load_sectors);
    assert_eq!(profile(5, 3), one);
}

#[test]
fn launches_of_a_kernel_are_added() {
    let mut profiles = Vec::new();
    collect(&mut profiles, profile(1, 1));
    collect(&mut profiles, profile(2, 1));
    let three = profile(3, 1);
    assert_eq!(profiles.len(), 1);
    assert_eq!(
        (profiles[0].launches, &profiles[0].counters),
        (2, &three.counters)
    );
    assert_eq!(profiles[0].lines(), three.lines());
}

#[test]
fn json_comes_back_as_it_was() {
    let profiles = vec![profile(1, 1)];
    let read: Vec<KernelProfile> = serde_json::from_str(&json(&profiles)).expect("JSON");
    assert_eq!(read, profiles);
}

#[test]
fn the_table_names_what_stands_out() {
    let text = table(&[profile(1, 1)]);
    for part in [
        "gone & <lost>.cu:12",
        "bank conflicts, wavefronts: 32 instead of 1",
        "load sectors: 32 instead of 4",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_page_is_whole_and_refers_to_nothing_outside() {
    let page = html(&[profile(1, 1)]);
    assert!(
        page.contains("gone &amp; &lt;lost&gt;.cu"),
        "names are escaped"
    );
    for forbidden in [
        "http:", "https:", "<script", "src=", "href=", "url(", "@import",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let name = tag.split(['>', ' ']).next().unwrap_or_default();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "tags close in order"),
            None if name.starts_with('!') || name == "meta" => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, [""; 0]);
}
