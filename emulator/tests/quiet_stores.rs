//! Threads that set one flag to one value: a race by the letter of the memory model, on which programs rely. It is not
//! reported; that they set it to different values is, and that a store of what is there already comes in the way of a read: with
//! other values the reader would have read them.

mod common;

use common::Run;
use handloom_emulator::{FindingKind as Kind, LaunchConfig, Options};

/// Every thread stores 7 to one word; after a barrier the first warp reads it and the others store 7 once more.
fn reread(space: &str) -> String {
    let address = if space == "shared" { "%rd2" } else { "%rd1" };
    format!(
        ".version 7.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out) {{
    .reg .b32 %r<4>; .reg .b64 %rd<3>; .reg .pred %p;
    .shared .align 4 .b8 flag[4];
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    mov.u64 %rd2, flag;
    st.{space}.u32 [{address}], 7;
    bar.sync 0;
    setp.lt.u32 %p, %r1, 32;
    @%p bra READ;
    st.{space}.u32 [{address}], 7;
    ret;
READ:
    ld.{space}.u32 %r3, [{address}];
    setp.ne.u32 %p, %r1, 0;
    @%p ret;
    st.global.u32 [%rd1+4], %r3;
    ret;
}}"
    )
}

/// Every thread stores `value + step * tid` to one word, of shared or of global memory.
fn kernel(space: &str, step: u32) -> String {
    format!(
        ".version 7.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out) {{
    .reg .b32 %r<4>; .reg .b64 %rd<3>; .reg .pred %p;
    .shared .align 4 .b8 flag[4];
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    mad.lo.u32 %r2, %r1, {step}, 7;
    mov.u64 %rd2, flag;
    st.{space}.u32 [{}], %r2;
    bar.sync 0;
    ld.{space}.u32 %r3, [{}];
    setp.ne.u32 %p, %r1, 0;
    @%p ret;
    st.global.u32 [%rd1+4], %r3;
    ret;
}}",
        if space == "shared" { "%rd2" } else { "%rd1" },
        if space == "shared" { "%rd2" } else { "%rd1" },
    )
}

fn findings(space: &str, step: u32, blocks: u32) -> Vec<Kind> {
    findings_of(&kernel(space, step), blocks)
}

fn findings_of(ptx: &str, blocks: u32) -> Vec<Kind> {
    let mut run = Run::new(ptx, Options::parse("arch=sm_80,checks=all,threads=1").unwrap());
    let out = run.device.allocate(8, "out").unwrap();
    run.device.write(out, &[0; 8]).unwrap();
    let config = LaunchConfig::linear(blocks, 96);
    let report = run.device.launch(&run.module, "k", config, &[out.into()]).unwrap();
    let mut kinds: Vec<Kind> = report.findings.iter().map(|f| f.kind).collect();
    kinds.dedup();
    kinds
}

#[test]
fn one_value_is_no_race_and_two_are() {
    assert_eq!(findings("shared", 0, 1), []);
    assert_eq!(findings("shared", 1, 1), [Kind::SharedRace]);
    assert_eq!(findings("global", 0, 1), []);
    assert_eq!(findings("global", 1, 1), [Kind::GlobalRace]);
}

#[test]
fn one_value_over_what_another_warp_reads_is_a_race() {
    assert_eq!(findings_of(&reread("shared"), 1), [Kind::SharedRace]);
    assert_eq!(findings_of(&reread("global"), 1), [Kind::GlobalRace]);
}
