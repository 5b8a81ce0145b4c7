//! Instructions of sm_90 one by one: mbarriers, clusters and their registers, elect, stmatrix, vector atomics, packed
//! 16-bit integers, register pools.

mod common;

use common::Run;
use handloom_emulator::{Arch, Arg, LaunchConfig, LaunchReport, Module, Options, Schedule};

fn options() -> Options {
    Options { arch: Arch::named("sm_90a").unwrap(), ..Options::default() }
}

fn ptx(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 out) {{
.reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .pred %p<8>; .reg .f32 %f<16>;
.shared .align 8 .b64 bar; .shared .align 128 .b8 data[2048];
ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;
setp.eq.u32 %p1, %r1, 0;
{body}
ret;
}}"
    )
}

fn run(body: &str, o: Options, grid: u32, cluster: u32, threads: u32) -> (LaunchReport, Vec<u32>) {
    let mut run = Run::new(&ptx(body), o);
    let count = (grid * threads).max(64) as usize;
    let out = run.put("out", &vec![0u32; count]);
    let config = LaunchConfig {
        grid: [grid, 1, 1],
        block: [threads, 1, 1],
        cluster: [cluster, 1, 1],
        dynamic_shared: 0,
    };
    let report = run.launch("k", config, &[out.into()]);
    let values = run.get::<u32>(out, count);
    (report, values)
}

#[track_caller]
fn clean(body: &str, threads: u32) -> Vec<u32> {
    let mut first = None;
    for seed in 0..3 {
        let schedule = if seed == 0 { Schedule::Fast } else { Schedule::Random };
        let (report, values) = run(body, Options { schedule, seed, ..options() }, 1, 1, threads);
        assert!(report.is_clean(), "{}", report.text());
        assert_eq!(*first.get_or_insert(values.clone()), values);
    }
    first.unwrap()
}

#[test]
fn states_and_counts_of_an_mbarrier() {
    let out = clean(
        "@%p1 mbarrier.init.shared.b64 [bar], 96;
bar.sync 0;
mov.u32 %r5, data; mad.lo.u32 %r5, %r1, 4, %r5; st.shared.u32 [%r5], %r1;
setp.lt.u32 %p2, %r1, 32;
@%p2 bra DROPS;
mbarrier.arrive.shared.b64 %rd4, [bar];
bra WAIT;
DROPS:
mbarrier.arrive_drop.shared.b64 %rd4, [bar];
WAIT:
mbarrier.test_wait.shared.b64 %p3, [bar], %rd4;
@!%p3 nanosleep.u32 20;
@!%p3 bra WAIT;
xor.b32 %r6, %r1, 64; min.u32 %r6, %r6, 95; mov.u32 %r7, data; mad.lo.u32 %r7, %r6, 4, %r7; ld.shared.u32 %r8, [%r7];
st.global.u32 [%rd2], %r8;
bar.sync 0;
@%p2 ret;
// The second phase expects the 64 that have not dropped out.
mbarrier.arrive.release.cta.shared.b64 %rd5, [bar];
AGAIN:
mbarrier.try_wait.shared.b64 %p3, [bar], %rd5;
@!%p3 bra AGAIN;",
        96,
    );
    let expected: Vec<u32> = (0..96u32).map(|i| (i ^ 64).min(95)).collect();
    assert_eq!(out, expected);
}

#[test]
fn pending_counts_and_transactions() {
    let out = clean(
        "@!%p1 ret;
mbarrier.init.shared.b64 [bar], 3;
mbarrier.arrive.noComplete.shared.b64 %rd4, [bar], 2;
mbarrier.pending_count.b64 %r2, %rd4;
st.global.u32 [%rd1], %r2;
mbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 64;
mbarrier.arrive.shared.b64 %rd5, [bar];
mbarrier.pending_count.b64 %r3, %rd5;
st.global.u32 [%rd1+4], %r3;
mbarrier.test_wait.shared.b64 %p2, [bar], %rd5;
selp.u32 %r4, 1, 0, %p2; st.global.u32 [%rd1+8], %r4;
mbarrier.complete_tx.relaxed.cta.shared.b64 [bar], 64;
mbarrier.try_wait.parity.acquire.cta.shared.b64 %p2, [bar], 0, 1000;
selp.u32 %r4, 1, 0, %p2; st.global.u32 [%rd1+12], %r4;
mbarrier.inval.shared.b64 [bar];
mbarrier.init.shared.b64 [bar], 1;
mbarrier.test_wait.parity.shared.b64 %p2, [bar], 1;
selp.u32 %r4, 1, 0, %p2; st.global.u32 [%rd1+16], %r4;",
        32,
    );
    assert_eq!(out[..5], [3, 1, 0, 1, 1], "the phase before the first counts as complete");
}

#[test]
fn copies_of_threads_arrive_at_an_mbarrier() {
    for noinc in [false, true] {
        let suffix = if noinc { ".noinc" } else { "" };
        let arrive = if noinc { "" } else { "mbarrier.arrive.shared.b64 %rd5, [bar];" };
        let out = clean(
            &format!(
                "mov.u32 %r9, 7; add.u32 %r9, %r9, %r1; st.global.u32 [%rd2], %r9;
@%p1 mbarrier.init.shared.b64 [bar], 64;
bar.sync 0;
mov.u32 %r5, data; mad.lo.u32 %r5, %r1, 4, %r5;
cp.async.ca.shared.global [%r5], [%rd2], 4;
cp.async.mbarrier.arrive{suffix}.shared.b64 [bar];
{arrive}
WAIT:
mbarrier.try_wait.parity.shared.b64 %p3, [bar], 0;
@!%p3 bra WAIT;
xor.b32 %r6, %r1, 33; mov.u32 %r7, data; mad.lo.u32 %r7, %r6, 4, %r7; ld.shared.u32 %r8, [%r7];
st.global.u32 [%rd2], %r8;"
            ),
            64,
        );
        let expected: Vec<u32> = (0..64).map(|i| 7 + (i ^ 33)).collect();
        assert_eq!(out, expected);
    }
}

#[test]
fn registers_and_addresses_of_a_cluster() {
    let body = "mov.u32 %r2, %cluster_ctarank; mov.u32 %r3, %cluster_nctarank; mov.u32 %r4, %clusterid.x;
mov.u32 %r5, %nclusterid.x; mov.u32 %r6, %cluster_ctaid.x; mov.u32 %r7, %cluster_nctaid.x;
mov.pred %p2, %is_explicit_cluster; selp.u32 %r8, 1, 0, %p2;
mov.u32 %r9, data; mapa.shared::cluster.u32 %r10, %r9, 1; getctarank.shared::cluster.u32 %r11, %r10;
cvta.shared.u64 %rd4, %rd9; mov.u64 %rd5, data; cvta.shared.u64 %rd5, %rd5; mapa.u64 %rd6, %rd5, 1; getctarank.u64 %r12, %rd6;
isspacep.shared::cluster %p3, %rd6; isspacep.shared::cta %p4, %rd6;
selp.u32 %r13, 1, 0, %p3; selp.u32 %r14, 1, 0, %p4;
mov.u32 %r16, %ctaid.x; mul.wide.u32 %rd7, %r16, 64; add.s64 %rd7, %rd1, %rd7;
st.global.v4.u32 [%rd7], {%r2, %r3, %r4, %r5}; st.global.v4.u32 [%rd7+16], {%r6, %r7, %r8, %r11};
st.global.v4.u32 [%rd7+32], {%r12, %r13, %r14, %r14};"
        .replace("cvta.shared.u64 %rd4, %rd9; ", "");
    let (report, out) = run(&body, options(), 4, 2, 16);
    assert!(report.is_clean(), "{}", report.text());
    for block in 0..4u32 {
        let rank = block % 2;
        let expected = [rank, 2, block / 2, 2, rank, 2, 1, 1, 1, 1, rank];
        assert_eq!(out[16 * block as usize..][..11], expected, "block {block}");
    }
}

#[test]
fn distributed_shared_memory_by_generic_address_and_atomics() {
    let body = "mov.u32 %r2, %cluster_ctarank; xor.b32 %r3, %r2, 1;
mov.u32 %r4, data; @%p1 st.shared.u32 [%r4], 100; @%p1 st.shared.u32 [%r4+4], %r2;
barrier.cluster.arrive; barrier.cluster.wait;
mov.u64 %rd5, data; cvta.shared.u64 %rd5, %rd5; mapa.u64 %rd6, %rd5, %r3;
mapa.shared::cluster.u32 %r5, %r4, %r3;
atom.shared::cluster.add.u32 %r6, [%r5], 1;
ld.u32 %r7, [%rd6+4];
barrier.cluster.arrive; barrier.cluster.wait;
ld.shared.u32 %r8, [%r4];
mov.u32 %r16, %ctaid.x; mul.lo.u32 %r16, %r16, 64; mad.lo.u32 %r17, %r1, 4, %r16; cvt.u64.u32 %rd7, %r17; add.s64 %rd7, %rd1, %rd7;
mad.lo.u32 %r8, %r7, 1000, %r8; st.global.u32 [%rd7], %r8;";
    for seed in 0..3 {
        let schedule = if seed == 0 { Schedule::Fast } else { Schedule::Random };
        let (report, out) = run(body, Options { schedule, seed, ..options() }, 2, 2, 16);
        assert!(report.is_clean(), "{}", report.text());
        assert!(out[..16].iter().all(|&v| v == 1116) && out[16..32].iter().all(|&v| v == 116), "{out:?}");
    }
}

#[test]
fn one_lane_is_elected_and_stmatrix_undoes_ldmatrix() {
    let out = clean(
        "elect.sync %r2|%p2, 0xffffffff;
selp.u32 %r3, 1, 0, %p2; mad.lo.u32 %r3, %r2, 2, %r3; st.global.u32 [%rd2], %r3;",
        32,
    );
    assert_eq!((out[0], &out[1..32]), (1, &[0u32; 31][..]));
    for (trans, expect) in [("", 0), (".trans", 1)] {
        let out = clean(
            &format!(
                "mov.u32 %r5, data; shl.b32 %r6, %r1, 4; add.u32 %r5, %r5, %r6;
mov.u32 %r9, 0;
mul.lo.u32 %r10, %r1, 2; add.u32 %r11, %r10, 1; shl.b32 %r11, %r11, 16; or.b32 %r10, %r10, %r11;
add.u32 %r12, %r10, 0x00400040; add.u32 %r13, %r12, 0x00400040; add.u32 %r14, %r13, 0x00400040;
stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r5], {{%r10, %r12, %r13, %r14}};
bar.warp.sync -1;
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r15, %r16, %r17, %r18}}, [%r5];
st.global.u32 [%rd2], %r16;"
            ),
            32,
        );
        // Matrix 1 holds 64 + 8 row + column; read back plain or with rows and columns exchanged.
        for lane in 0..32u32 {
            let (g, t) = (lane / 4, 2 * (lane % 4));
            let at = |r: u32, c: u32| 64 + if expect == 0 { 8 * r + c } else { 8 * c + r };
            assert_eq!(out[lane as usize], at(g, t) | at(g, t + 1) << 16, "lane {lane}{trans}");
        }
    }
}

#[test]
fn vectors_of_floats_add_atomically() {
    let (report, out) = run(
        "mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f40400000; mov.f32 %f4, 0f40800000;
atom.global.v4.f32.add {%f5, %f6, %f7, %f8}, [%rd1], {%f1, %f2, %f3, %f4};
mov.b32 %r3, 0x3f803f80;
red.global.v2.bf16x2.add.noftz [%rd1+16], {%r3, %r3};",
        options(),
        2,
        1,
        32,
    );
    assert!(report.is_clean(), "{}", report.text());
    let floats: Vec<f32> = out[..4].iter().map(|&b| f32::from_bits(b)).collect();
    assert_eq!(floats, [64.0, 128.0, 192.0, 256.0]);
    assert_eq!(out[4..6], [0x4280_4280; 2]);
}

#[test]
fn packed_integers_work_by_halves() {
    let out = clean(
        "mov.u32 %r2, 0xffff0005; mov.u32 %r3, 0x00010007;
add.u16x2 %r4, %r2, %r3; min.s16x2 %r5, %r2, %r3; max.u16x2 %r6, %r2, %r3;
st.global.v4.u32 [%rd1], {%r4, %r5, %r6, %r6};
mov.f32 %f1, 0f3F801001; cvt.rn.tf32.f32 %r7, %f1; cvt.rz.relu.tf32.f32 %r8, %f1; st.global.v2.u32 [%rd1+16], {%r7, %r8};",
        1,
    );
    assert_eq!(out[..4], [0x0000_000c, 0xffff_0005, 0xffff_0007, 0xffff_0007]);
    assert_eq!(out[4..6], [0x3f80_2000, 0x3f80_0000]);
}

#[test]
fn registers_wait_for_each_other() {
    let text = ptx("shr.u32 %r2, %r1, 7; setp.eq.u32 %p2, %r2, 0;
@%p2 bra LESS;
setmaxnreg.inc.sync.aligned.u32 240;
bra DONE;
LESS:
setmaxnreg.dec.sync.aligned.u32 24;
DONE:
st.global.u32 [%rd2], %r2;")
    .replace("k(.param .u64 out) {", "k(.param .u64 out) .maxntid 384 .minnctapersm 1 {");
    for (increase, ok) in [("232", true), ("240", true), ("248", false)] {
        let text = text.replace("u32 240", &format!("u32 {increase}"));
        let mut run = Run::new(&text, options());
        let out = run.empty::<u32>("out", 384);
        let args: [Arg; 1] = [out.into()];
        let report = run.launch("k", LaunchConfig::linear(1, 384), &args);
        assert_eq!(report.is_clean(), ok, "{increase}: {}", report.text());
    }
}

/// A kernel makes a tensor map of its own, copies it to global memory, and loads 8 x 4 words of a matrix by it.
#[test]
fn a_tensor_map_made_on_the_device() {
    let replace = |field: &str, bits: u32, value: &str| {
        format!("tensormap.replace.tile.{field}.shared::cta.b1024.b{bits} [%r5+1024], {value};\n")
    };
    let fields = [
        ("global_address", 64, "%rd1"),
        ("rank", 32, "1"),
        ("box_dim", 32, "0, 8"),
        ("box_dim", 32, "1, 4"),
        ("global_dim", 32, "0, 16"),
        ("global_dim", 32, "1, 8"),
        ("global_stride", 64, "0, 64"),
        ("element_stride", 32, "0, 1"),
        ("element_stride", 32, "1, 1"),
        ("elemtype", 32, "2"),
        ("interleave_layout", 32, "0"),
        ("swizzle_mode", 32, "0"),
        ("fill_mode", 32, "0"),
    ];
    let replacements: String = fields.iter().map(|&(f, b, v)| replace(f, b, v)).collect();
    let out = clean(
        &format!(
            "add.u32 %r9, %r1, 1000; st.global.u32 [%rd2], %r9; fence.proxy.async.global;
bar.sync 0;
add.s64 %rd3, %rd1, 512;
mov.u32 %r5, data;
@!%p1 bra MADE;
{replacements}mbarrier.init.shared.b64 [bar], 1;
MADE:
bar.sync 0;
setp.lt.u32 %p2, %r1, 32;
@%p2 tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd3], [%r5+1024], 128;
fence.proxy.tensormap::generic.acquire.gpu [%rd3], 128;
@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 128;
@%p1 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%rd3, {{4, 2}}], [bar];
WAIT:
mbarrier.try_wait.parity.shared.b64 %p3, [bar], 0;
@!%p3 bra WAIT;
setp.ge.u32 %p4, %r1, 32;
@%p4 ret;
mad.lo.u32 %r6, %r1, 4, %r5; ld.shared.u32 %r7, [%r6]; st.global.u32 [%rd2], %r7;"
        ),
        192,
    );
    let expected: Vec<u32> = (0..32).map(|i| 1000 + (2 + i / 8) * 16 + 4 + i % 8).collect();
    assert_eq!(out[..32], expected);
}

#[test]
fn limits_and_targets() {
    let text = ptx("barrier.cluster.arrive;\nbarrier.cluster.wait;");
    let mut run = Run::new(&text, options());
    let out = run.empty::<u32>("out", 1024);
    let shape = |grid, cluster| LaunchConfig { grid, block: [32, 1, 1], cluster, dynamic_shared: 0 };
    let message = |config| {
        run.device.launch(&run.module, "k", config, &[out.into()]).map(|_| ()).unwrap_err().to_string()
    };
    assert!(message(shape([34, 1, 1], [17, 1, 1])).contains("at most 16"));
    assert!(message(shape([3, 1, 1], [2, 1, 1])).contains("not a multiple of cluster"));
    let wrong = |body: &str| Module::parse(&ptx(body)).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(wrong("setmaxnreg.inc.sync.aligned.u32 236;").contains("multiple of 8"));
    assert!(wrong("wgmma.wait_group.sync.aligned 9;").contains("0 to 7"));
    assert!(wrong("mbarrier.arrive.shared::cluster.b64 %rd4, [%r1];").contains("write `_`"));
    let old = ptx("wgmma.fence.sync.aligned;").replace("sm_90a", "sm_90");
    assert!(Module::parse(&old).err().unwrap().to_string().contains("needs sm_90a"));
}
