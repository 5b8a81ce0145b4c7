//! Values that nothing has written: programs carry them about, and only a use that decides something is a mistake.

mod common;

use common::Run;
use handloom_emulator::{FindingKind as Kind, LaunchConfig, LaunchReport, Options};

/// Lanes from 16 on leave %r5 unwritten; then BODY; then the lanes below 16 store %r6.
fn run(body: &str) -> LaunchReport {
    let ptx = format!(
        ".version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out) {{
    .reg .b32 %r<12>; .reg .b64 %rd<8>; .reg .pred %p<6>; .reg .f32 %f<4>;
    .shared .align 8 .b8 tile[256];
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 2;
    cvt.u64.u32 %rd2, %r2;
    add.s64 %rd3, %rd1, %rd2;
    mov.u32 %r3, tile;
    add.u32 %r4, %r3, %r2;
    setp.lt.u32 %p1, %r1, 16;
    @!%p1 bra NEXT;
    add.u32 %r5, %r1, 1;
NEXT:
    {body}
    @%p1 st.global.u32 [%rd3], %r6;
    ret;
}}"
    );
    let mut run = Run::new(&ptx, Options::default());
    let out = run.put("out", &[0u32; 64]);
    run.launch("k", LaunchConfig::linear(1, 32), &[out.into()])
}

#[test]
fn values_that_nobody_uses_may_be_carried_about() {
    for body in [
        "mov.u32 %r6, %r5;",
        "add.u32 %r7, %r5, 1; mul.lo.u32 %r6, %r7, 3; cvt.rn.f32.u32 %f1, %r6;",
        "st.shared.u32 [%r4], %r5; bar.sync 0; ld.shared.u32 %r6, [%r4];",
        "shfl.sync.down.b32 %r6, %r5, 1, 31, -1;",
        "selp.u32 %r6, %r5, 0, %p1;",
        "setp.gt.u32 %p2, %r5, 3; and.pred %p3, %p1, %p2; selp.u32 %r6, 1, 0, %p3;",
        // The padding of a structure.
        "mov.b64 %rd4, {%r1, %r5}; mov.u32 %r6, %r1; @!%p1 st.global.v2.u64 [%rd1+128], {%rd4, %rd4};",
        "mov.u32 %r6, %r1; @!%p1 st.global.v2.u32 [%rd1+64], {%r1, %r5};",
    ] {
        let report = run(body);
        assert!(report.is_clean(), "{body}\n{}", report.text());
    }
}

#[test]
fn a_use_that_decides_something_is_found() {
    for (body, register) in [
        ("mov.u32 %r6, 0; st.global.u32 [%rd3], %r5;", "%r5"),
        ("add.u32 %r6, %r5, 1; st.global.u32 [%rd3], %r6;", "%r6"),
        ("mov.u32 %r6, 0; add.u32 %r5, %r5, 2; st.global.u32 [%rd3], %r5;", "%r5"),
        ("mov.u32 %r6, 0; add.u32 %r7, %r4, %r5; st.shared.u32 [%r7+-64], %r1;", "%r7"),
        ("mov.u32 %r6, 0; setp.gt.u32 %p2, %r5, 3; @%p2 mov.u32 %r6, 1;", "%p2"),
        ("mov.u32 %r6, 0; red.global.add.u32 [%rd1], %r5;", "%r5"),
        ("mov.u32 %r6, 0; st.global.v2.u32 [%rd1], {%r5, %r5};", "%r5"),
        ("vote.sync.ballot.b32 %r6, %p3, -1;", "%p3"),
    ] {
        let report = run(body);
        let found = |f: &handloom_emulator::Finding| {
            f.kind == Kind::Uninitialised
                && f.message == format!("reads register {register}, which it has not written")
        };
        assert!(report.findings.iter().any(found), "{body}\n{}", report.text());
    }
}
