//! Loads, stores, atomics and asynchronous copies that are as they should be, and what they count.

use crate::machine::Machine;

#[test]
fn vectors_and_narrow_elements_keep_their_places() {
    // 16 bytes of each lane go through shared and local memory and every width.
    let body = ".shared .align 16 .b8 tile[512]; .local .align 16 .b8 own[16];\n\
        mov.u32 %r0, %laneid; mul.wide.u32 %rd0, %r0, 16; add.u64 %rd1, %rd0, %p0;\n\
        ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];\n\
        mov.u32 %r5, tile; cvt.u32.u64 %r6, %rd0; add.u32 %r5, %r5, %r6;\n\
        st.shared.v2.b32 [%r5], {%r1, %r2}; mov.b64 %rd2, {%r3, %r4}; st.shared.b64 [%r5+8], %rd2;\n\
        ld.shared.v4.u8 {%h0, %h1, %h2, %h3}, [%r5]; ld.shared.v2.u16 {%h4, %h5}, [%r5+4];\n\
        ld.shared.s8 %r7, [%r5+8]; ld.shared.u8 %r8, [%r5+9]; ld.shared.s16 %r9, [%r5+10];\n\
        ld.shared.b32 %r10, [%r5+12];\n\
        mov.u64 %rd3, own; cvta.local.u64 %rd3, %rd3;\n\
        st.v4.u8 [%rd3], {%h0, %h1, %h2, %h3}; st.v2.u16 [%rd3+4], {%h4, %h5};\n\
        st.u8 [%rd3+8], %r7; st.u8 [%rd3+9], %r8; st.u16 [%rd3+10], %r9; st.u32 [%rd3+12], %r10;\n\
        ld.local.v2.u64 {%rd4, %rd5}, [own]; add.u64 %rd6, %rd0, %p1;\n\
        st.global.v2.u64 [%rd6], {%rd4, %rd5};";
    let mut machine = Machine::of(2, body);
    let data: Vec<u8> = (0..512u32).map(|at| (at * 73 + 5) as u8).collect();
    let source = machine.upload(&data, |byte| [byte]);
    let target = machine.alloc(512);
    let counters = machine
        .launch(32, &[source, target])
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(machine.download(target, 512), data);
    assert_eq!(
        (counters.global_load_requests, counters.global_load_sectors),
        (1, 16)
    );
    assert_eq!(
        (counters.global_store_sectors, counters.global_store_bytes),
        (16, 512)
    );
}

#[test]
fn generic_addresses_reach_every_window() {
    let body = ".shared .align 4 .b32 word;\n\
        mov.u32 %r0, 41; mov.u64 %rd0, word; cvta.shared.u64 %rd1, %rd0; st.u32 [%rd1], %r0;\n\
        isspacep.shared %q0, %rd1; isspacep.global %q1, %rd1; isspacep.global %q2, %p0;\n\
        ld.shared.u32 %r1, [word]; @%q0 add.u32 %r1, %r1, 1; @%q1 mov.u32 %r1, 0; @!%q2 mov.u32 %r1, 0;\n\
        cvta.to.shared.u64 %rd2, %rd1; setp.ne.u64 %q3, %rd2, %rd0; @%q3 mov.u32 %r1, 1;\n\
        cvta.to.global.u64 %rd3, %p0; st.global.u32 [%rd3], %r1;";
    let mut machine = Machine::of(1, body);
    let out = machine.alloc(4);
    machine
        .launch(1, &[out])
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(machine.words(out, 1), [42]);
}

#[test]
fn module_variables_and_parameters_are_read() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n\
        .const .align 4 .b32 table[4] = {10, 20, 30, 40};\n.global .align 8 .u64 where = table;\n\
        .visible .entry k(.param .u64 out, .param .align 8 .b8 block[24])\n{\n\
        .reg .b32 %r<9>; .reg .b64 %rd<9>;\n\
        mov.u32 %r0, %laneid; and.b32 %r0, %r0, 3; mul.wide.u32 %rd0, %r0, 4;\n\
        mov.u64 %rd1, table; add.u64 %rd1, %rd1, %rd0; ld.const.u32 %r1, [%rd1];\n\
        ld.global.u64 %rd2, [where]; add.u64 %rd2, %rd2, %rd0; ld.global.u32 %r2, [%rd2];\n\
        mov.b64 %rd3, block; add.u64 %rd3, %rd3, %rd0; ld.param.u32 %r3, [%rd3+8];\n\
        ld.param.u32 %r4, [block+4]; add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3;\n\
        add.u32 %r1, %r1, %r4; ld.param.u64 %rd4, [out]; add.u64 %rd4, %rd4, %rd0;\n\
        st.global.u32 [%rd4], %r1; ret;\n}\n";
    let mut machine = Machine::new(text);
    let out = machine.alloc(16);
    let mut params = out.to_le_bytes().to_vec();
    params.extend((0..6u32).flat_map(|x| (x * 1000).to_le_bytes()));
    machine
        .launch_named("k", (1, 32, 0), &params)
        .unwrap_or_else(|fault| panic!("{fault}"));
    let want: Vec<u32> = (0..4)
        .map(|at| 20 * (at + 1) + (2 + at) * 1000 + 1000)
        .collect();
    assert_eq!(machine.words(out, 4), want);
}

#[test]
fn atomics_of_all_lanes_add_up() {
    let body = "mov.u32 %r0, %tid.x;\n\
        atom.global.add.u32 %r1, [%p0], %r0; red.global.max.s32 [%p0+4], %r0;\n\
        atom.global.inc.u32 %r2, [%p0+8], 9; mov.f32 %f0, 0f3F000000; red.global.add.f32 [%p0+12], %f0;\n\
        mov.b32 %r3, 0x3C003C00; red.global.add.noftz.f16x2 [%p0+16], %r3;\n\
        mul.wide.u32 %rd0, %r0, 1; red.global.xor.b64 [%p0+24], %rd0;\n\
        mov.u16 %h0, 1; atom.global.cas.b16 %h1, [%p0+20], 0, %h0;";
    let mut machine = Machine::of(1, body);
    let out = machine.upload(&[0u32; 8], u32::to_le_bytes);
    machine
        .launch(64, &[out])
        .unwrap_or_else(|fault| panic!("{fault}"));
    let xor = (0..64).fold(0, |all, x| all ^ x);
    // 64 in f16 is 0x5400.
    let want = [
        63 * 32,
        63,
        64 % 10,
        32f32.to_bits(),
        0x5400_5400,
        1,
        xor,
        0,
    ];
    assert_eq!(machine.words(out, 8), want);
}

#[test]
fn shared_counters_of_several_warps_do_not_race() {
    let body = ".shared .b32 count;\n\
        mov.u32 %r0, %tid.x; setp.eq.u32 %q0, %r0, 0; @%q0 st.shared.u32 [count], 0; bar.sync 0;\n\
        atom.shared.add.u32 %r1, [count], 1; bar.sync 0; ld.shared.u32 %r2, [count];\n\
        @%q0 st.global.u32 [%p0], %r2;";
    let mut machine = Machine::of(1, body);
    let out = machine.alloc(4);
    machine
        .launch(256, &[out])
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(machine.words(out, 1), [256]);
}

/// Copies 16 bytes a lane, with `size` of them from the source.
fn copy(size: &str, wait: &str) -> String {
    format!(
        ".shared .align 16 .b8 tile[512];\n\
         mov.u32 %r0, %laneid; mul.wide.u32 %rd0, %r0, 16; add.u64 %rd1, %rd0, %p0; add.u64 %rd2, %rd0, %p1;\n\
         mov.u32 %r1, tile; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2;\n\
         cp.async.cg.shared.global [%r1], [%rd1], 16{size};\n{wait}\n\
         ld.shared.v4.u32 {{%r3, %r4, %r5, %r6}}, [%r1]; st.global.v4.u32 [%rd2], {{%r3, %r4, %r5, %r6}};"
    )
}

#[test]
fn asynchronous_copies_land_and_fill_with_zeros() {
    let wait = "cp.async.commit_group; cp.async.wait_group 0;";
    // Lanes copy 0 to 16 bytes.
    let body = copy(", %r7", wait).replace("cp.async.cg", "rem.u32 %r7, %r0, 17; cp.async.cg");
    let mut machine = Machine::of(2, &body);
    let data: Vec<u8> = (0..512u32).map(|at| (at * 7 + 1) as u8 | 1).collect();
    let source = machine.upload(&data, |byte| [byte]);
    let target = machine.alloc(512);
    let counters = machine
        .launch(32, &[source, target])
        .unwrap_or_else(|fault| panic!("{fault}"));
    let want: Vec<u8> = data
        .iter()
        .enumerate()
        .map(|(at, &byte)| if at % 16 < at / 16 % 17 { byte } else { 0 })
        .collect();
    assert_eq!(machine.download(target, 512), want);
    let copied: u64 = (0..32).map(|lane| lane % 17).sum();
    assert_eq!(counters.copy_async_bytes, copied);
}

#[test]
fn copies_that_are_ignored_read_nothing() {
    let wait = "cp.async.wait_all;";
    let body = copy(", %q0", wait).replace("cp.async.cg", "setp.ne.u32 %q0, %r0, 99; cp.async.cg");
    let mut machine = Machine::of(2, &body);
    let target = machine.alloc(512);
    // The source is no address at all.
    machine
        .launch(32, &[16, target])
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(machine.download(target, 512), vec![0; 512]);
}

#[test]
fn mbarriers_hand_over_what_was_written() {
    let body = ".shared .align 8 .b64 bar; .shared .b32 word;\n\
        mov.u32 %r0, %tid.x; setp.eq.u32 %q0, %r0, 0; @%q0 mbarrier.init.shared.b64 [bar], 32; bar.sync 0;\n\
        setp.lt.u32 %q1, %r0, 32; @!%q1 bra C;\n\
        @%q0 st.shared.u32 [word], 9; bar.warp.sync -1; mbarrier.arrive.shared.b64 _, [bar]; bra E;\n\
        C: mbarrier.test_wait.parity.shared.b64 %q2, [bar], 0; @!%q2 bra C;\n\
        ld.shared.u32 %r1, [word]; mul.wide.u32 %rd0, %r0, 4; add.u64 %rd0, %rd0, %p0;\n\
        st.global.u32 [%rd0], %r1;\nE:";
    for seed in 0..4 {
        let mut machine = Machine::of(1, body).seed(seed);
        let out = machine.alloc(256);
        machine
            .launch(64, &[out])
            .unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(machine.words(out + 128, 32), vec![9; 32], "seed {seed}");
    }
}
