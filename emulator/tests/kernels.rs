//! Kernels compiled by nvcc (tests/cuda, tests/ptx), against loops on the host.

mod common;

use common::{Random, Run, assert_close};
use handloom_emulator::{AsyncTiming, LaunchConfig, Options, Schedule};

const BASIC: &str = include_str!("ptx/basic.ptx");
const SHARED: &str = include_str!("ptx/shared.ptx");
const CONTROL: &str = include_str!("ptx/control.ptx");
const TENSOR: &str = include_str!("ptx/tensor.ptx");

/// Every schedule that a correct kernel must not notice.
fn schedules() -> Vec<Options> {
    let mut out = vec![
        Options::default(),
        Options { async_timing: AsyncTiming::Early, threads: 1, ..Options::default() },
    ];
    out.extend((1..4).map(|seed| Options { schedule: Schedule::Random, seed, ..Options::default() }));
    out
}

fn floats(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..n).map(|_| random.unit()).collect()
}

#[test]
fn vector_add_with_a_partial_block() {
    let n = 1000 + 7;
    let mut run = Run::new(BASIC, Options::default());
    let (a, b) = (floats(n, 1), floats(n, 2));
    let (pa, pb, out) = (run.put("a", &a), run.put("b", &b), run.empty::<f32>("out", n));
    let report = run.clean(
        "vector_add",
        LaunchConfig::linear(8, 128),
        &[out.into(), pa.into(), pb.into(), (n as i32).into()],
    );
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(run.get::<f32>(out, n), expected);
    // 32 warps start; all but the last have an address in range for all their lanes.
    assert_eq!(report.counters.total.class(handloom_emulator::Class::StoreGlobal).lanes, n as u64);
    assert_eq!(report.counters.total.flops, n as u64);
}

#[test]
fn saxpy_is_fused_and_grid_strided() {
    let n = 777;
    let mut run = Run::new(BASIC, Options::default());
    let (x, y) = (floats(n, 3), floats(n, 4));
    let (px, py) = (run.put("x", &x), run.put("y", &y));
    run.clean(
        "saxpy",
        LaunchConfig::linear(2, 96),
        &[py.into(), px.into(), 0.3f32.into(), (n as u32).into()],
    );
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 0.3f32.mul_add(*x, *y)).collect();
    assert_eq!(run.get::<f32>(py, n), expected);
}

#[test]
fn vectors_structures_constants_and_variables() {
    let mut run = Run::new(BASIC, Options::default());
    let x = floats(400, 5);
    let px = run.put("x", &x);
    let copy = run.empty::<f32>("copy", 400);
    run.clean("copy_float4", LaunchConfig::linear(4, 32), &[copy.into(), px.into(), 100i32.into()]);
    assert_eq!(run.get::<f32>(copy, 400), x);

    let mut affine = Vec::new();
    affine.extend(2.5f64.to_le_bytes());
    affine.extend(0.75f32.to_le_bytes());
    affine.extend(400i32.to_le_bytes());
    [3i16, -4, 5, -6].iter().for_each(|t| affine.extend(t.to_le_bytes()));
    let out = run.empty::<f64>("out", 400);
    run.clean("affine_by_value", LaunchConfig::linear(4, 128), &[out.into(), px.into(), affine[..].into()]);
    let expected: Vec<f64> =
        (0..400).map(|i| 2.5 * x[i] as f64 + 0.75 + [3.0, -4.0, 5.0, -6.0][i & 3]).collect();
    assert_eq!(run.get::<f64>(out, 400), expected);

    let out = run.empty::<f32>("smooth", 400);
    for _ in 0..3 {
        run.clean("convolve5", LaunchConfig::linear(4, 128), &[out.into(), px.into(), 400i32.into()]);
    }
    let taps = [0.0625f32, 0.25, 0.375, 0.25, 0.0625];
    let expected: Vec<f32> = (0..400i32)
        .map(|i| {
            (0..5)
                .filter(|k| (0..400).contains(&(i + k - 2)))
                .fold(0.0f32, |s, k| taps[k as usize].mul_add(x[(i + k - 2) as usize], s))
        })
        .collect();
    assert_eq!(run.get::<f32>(out, 400), expected);
    let (launches, size) = run.module.variable("launches").unwrap();
    assert_eq!((run.get::<u64>(launches, 1), size), (vec![3], 8));
}

#[test]
fn block_sum_in_every_schedule() {
    let x = floats(5000, 6);
    for options in schedules() {
        let mut run = Run::new(SHARED, options);
        let (px, out) = (run.put("x", &x), run.empty::<f32>("out", 3));
        run.clean("block_sum", LaunchConfig::linear(3, 256), &[out.into(), px.into(), 5000i32.into()]);
        let total: f64 = run.get::<f32>(out, 3).iter().map(|&v| v as f64).sum();
        let expected: f64 = x.iter().map(|&v| v as f64).sum();
        assert!((total - expected).abs() < 1e-3, "{total} {expected}");
    }
}

#[test]
fn softmax_rows_in_every_schedule() {
    let (rows, columns) = (5, 301);
    let x: Vec<f32> = floats(rows * columns, 7).iter().map(|v| v * 10.0).collect();
    let mut expected = Vec::new();
    for row in x.chunks(columns) {
        let largest = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)) as f64;
        let sum: f64 = row.iter().map(|&v| (v as f64 - largest).exp()).sum();
        expected.extend(row.iter().map(|&v| (v as f64 - largest).exp() / sum));
    }
    for options in schedules() {
        let mut run = Run::new(SHARED, options);
        let (px, out) = (run.put("x", &x), run.empty::<f32>("out", rows * columns));
        let config = LaunchConfig { dynamic_shared: 512, ..LaunchConfig::linear(rows as u32, 128) };
        run.clean("softmax_row", config, &[out.into(), px.into(), (columns as i32).into()]);
        assert_close(&run.get::<f32>(out, rows * columns), &expected, 1e-9, 2e-6);
    }
}

#[test]
fn tiled_matmul_of_odd_sizes() {
    let (m, n, k) = (37, 45, 53);
    let (a, b) = (floats(m * k, 8), floats(k * n, 9));
    let mut expected = vec![0.0f32; m * n];
    for i in 0..m {
        for j in 0..n {
            expected[i * n + j] = (0..k).fold(0.0f32, |s, l| a[i * k + l].mul_add(b[l * n + j], s));
        }
    }
    for options in schedules() {
        let mut run = Run::new(SHARED, options);
        let (pa, pb, out) = (run.put("a", &a), run.put("b", &b), run.empty::<f32>("c", m * n));
        let config = LaunchConfig { grid: [3, 3, 1], block: [16, 16, 1], cluster: [1; 3], dynamic_shared: 0 };
        let sizes = [(m as i32).into(), (n as i32).into(), (k as i32).into()];
        let args = [vec![out.into(), pa.into(), pb.into()], sizes.to_vec()].concat();
        run.clean("matmul_tiled", config, &args);
        assert_eq!(run.get::<f32>(out, m * n), expected, "a fixed order of fused sums is exact");
    }
}

#[test]
fn named_barriers_and_reductions() {
    for options in schedules() {
        let mut run = Run::new(SHARED, options);
        let out = run.empty::<i32>("out", 99);
        run.clean("named_barriers", LaunchConfig::linear(1, 128), &[out.into()]);
        let found = run.get::<i32>(out, 99);
        assert!((0..96).all(|i| found[i] == 3 * i as i32 + 1), "{found:?}");
        assert_eq!(&found[96..], &[64, 1, 0]);
    }
}

#[test]
fn divergent_loops() {
    let inputs: Vec<u32> = (0..200).map(|i| i * i * 37 + i).collect();
    let steps = |mut x: u64| {
        let mut n = 0;
        while x > 1 {
            x = if x & 1 == 1 { 3 * x + 1 } else { x >> 1 };
            n += 1;
        }
        n
    };
    for options in schedules() {
        let mut run = Run::new(CONTROL, options);
        let (inp, out) = (run.put("inp", &inputs), run.empty::<u32>("out", 200));
        let report =
            run.clean("collatz", LaunchConfig::linear(2, 100), &[out.into(), inp.into(), 200i32.into()]);
        let expected: Vec<u32> = inputs.iter().map(|&x| steps(x as u64)).collect();
        assert_eq!(run.get::<u32>(out, 200), expected);
        let efficiency = report.counters.total.lane_efficiency();
        assert!(efficiency > 0.2 && efficiency < 0.9, "{efficiency}");
    }
}

#[test]
fn a_spin_lock_among_lanes_and_blocks_ends() {
    for options in schedules() {
        let mut run = Run::new(CONTROL, options);
        let (lock, counter) = (run.put("lock", &[0i32]), run.put("counter", &[0i32]));
        run.clean("spin_lock", LaunchConfig::linear(3, 96), &[lock.into(), counter.into()]);
        assert_eq!((run.get::<i32>(lock, 1), run.get::<i32>(counter, 1)), (vec![0], vec![288]));
    }
}

/// The lane that gets the lock leaves the loop in which the others spin: it must be let run all the same.
#[test]
fn a_lane_outside_the_spinning_loop_gets_its_turn() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64
.visible .entry k(.param .u64 lock, .param .u64 counter) {
    .reg .pred %p<2>; .reg .b32 %r<6>; .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [lock];
    ld.param.u64 %rd2, [counter];
SPIN:
    atom.global.cas.b32 %r1, [%rd1], 0, 1;
    setp.ne.s32 %p1, %r1, 0;
    @%p1 bra SPIN;
    membar.gl;
    ld.volatile.global.u32 %r2, [%rd2];
    add.u32 %r3, %r2, 1;
    st.volatile.global.u32 [%rd2], %r3;
    membar.gl;
    atom.global.exch.b32 %r4, [%rd1], 0;
    ret;
}";
    for options in schedules() {
        let mut run = Run::new(ptx, Options { instruction_limit: 2_000_000, ..options });
        let (lock, counter) = (run.put("lock", &[0i32]), run.put("counter", &[0i32]));
        run.clean("k", LaunchConfig::linear(2, 64), &[lock.into(), counter.into()]);
        assert_eq!(run.get::<i32>(counter, 1), [128]);
    }
}

#[test]
fn histograms_with_shared_and_global_atomics() {
    let mut random = Random(10);
    let data: Vec<u8> = (0..4001).map(|_| (random.next() % 251) as u8).collect();
    let mut expected = vec![0u32; 256];
    data.iter().for_each(|&b| expected[b as usize] += 1);
    for options in schedules() {
        let mut run = Run::new(CONTROL, options);
        let (bins, inp) = (run.put("bins", &[0u32; 256]), run.put("inp", &data));
        run.clean("histogram", LaunchConfig::linear(3, 128), &[bins.into(), inp.into(), 4001i32.into()]);
        assert_eq!(run.get::<u32>(bins, 256), expected);
    }
}

#[test]
fn every_atomic() {
    let n = 70u64;
    for options in schedules() {
        let mut run = Run::new(CONTROL, options);
        let s = run.put("s", &[0i32, 100, -100, 0]);
        let u = run.put("u", &[u32::MAX, 0, u32::MAX, 0, 0, 0, 0, 0, 0]);
        let (q, f, d) = (run.put("q", &[0u64, 0]), run.put("f", &[0f32]), run.put("d", &[0f64]));
        run.clean(
            "atomics",
            LaunchConfig::linear(2, 35),
            &[s.into(), u.into(), q.into(), f.into(), d.into()],
        );
        let sum = (n * (n - 1) / 2) as i32;
        assert_eq!(run.get::<i32>(s, 4), [sum - 20 * 70, -69, 207, -sum]);
        let xor = (0..70u32).fold(0, |a, t| a ^ t);
        // 70 increments that wrap after 10: 70 mod 11; 70 decrements from 0 wrapping to 10.
        let mut dec = 0u32;
        (0..70).for_each(|_| dec = if dec == 0 || dec > 10 { 10 } else { dec - 1 });
        let found = run.get::<u32>(u, 9);
        assert_eq!(found, [0x8000_0000 - 69, 0x8000_0000 + 69, 0, u32::MAX, xor, 70 % 11, dec, 1, 77]);
        assert_eq!(run.get::<u64>(q, 2), [(n * (n - 1) / 2) << 33, 69 << 40]);
        assert_eq!((run.get::<f32>(f, 1), run.get::<f64>(d, 1)), (vec![35.0], vec![17.5]));
    }
}

#[test]
fn local_arrays_sort() {
    let mut random = Random(11);
    let keys: Vec<i32> = (0..8 * 40).map(|_| random.next() as i32).collect();
    let mut run = Run::new(CONTROL, Options::default());
    let (inp, out) = (run.put("inp", &keys), run.empty::<i32>("out", keys.len()));
    run.clean("sort8", LaunchConfig::linear(1, 40), &[out.into(), inp.into()]);
    let mut expected = keys.clone();
    expected.chunks_mut(8).for_each(|c| c.sort());
    assert_eq!(run.get::<i32>(out, keys.len()), expected);
}

#[test]
fn printing_and_asserting() {
    let mut run = Run::new(CONTROL, Options::default());
    let report = run.clean("say", LaunchConfig::linear(1, 32), &[2i32.into(), 0.5f32.into()]);
    assert_eq!(
        report.printed,
        "thread 0 of 32 says 0.500 warp 0x100000000%\nthread 1 of 32 says 1.500 warp 0x200000000%\n"
    );
    let inp = run.put("inp", &[3i32, 2, 0, 1]);
    let report = run.launch("assert_positive", LaunchConfig::linear(1, 4), &[inp.into()]);
    assert!(report.stopped);
    assert!(
        report.text().contains("thread (2,0,0) block (0,0,0) fails assert(inp[threadIdx.x] > 0)"),
        "{}",
        report.text()
    );
}

#[test]
fn calls_and_recursion() {
    for options in schedules() {
        let mut run = Run::new(CONTROL, options);
        let x = floats(40, 12);
        let c = [1.0f32, -2.0, 0.5, 0.25];
        let (px, pc) = (run.put("x", &x), run.put("c", &c));
        let (y, fib) = (run.empty::<f32>("y", 40), run.empty::<u32>("fib", 40));
        run.clean(
            "calls",
            LaunchConfig::linear(1, 40),
            &[y.into(), fib.into(), px.into(), pc.into(), 3i32.into()],
        );
        let expected: Vec<f32> =
            x.iter().map(|x| (0..3).rev().fold(c[3], |y, i| y.mul_add(*x, c[i]))).collect();
        assert_eq!(run.get::<f32>(y, 40), expected);
        let fibonacci = [0u32, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
        assert!(run.get::<u32>(fib, 40).iter().enumerate().all(|(i, &f)| f == fibonacci[i % 12]));
    }
}

#[test]
fn warp_operations_follow_the_isa() {
    let x: Vec<u32> = (0..32u32).map(|i| (i * 7 + 3) % 23).collect();
    for options in schedules() {
        let mut run = Run::new(CONTROL, options);
        let (inp, out) = (run.put("inp", &x), run.empty::<u32>("out", 20 * 32));
        run.clean("warp_operations", LaunchConfig::linear(1, 32), &[out.into(), inp.into()]);
        let rows: Vec<Vec<u32>> = run.get::<u32>(out, 640).chunks(32).map(|c| c.to_vec()).collect();
        let each = |f: &dyn Fn(usize) -> u32| (0..32).map(f).collect::<Vec<u32>>();
        let ballot = |f: &dyn Fn(u32) -> bool| (0..32).map(|i| (f(x[i]) as u32) << i).sum::<u32>();
        assert_eq!(rows[0], each(&|_| x[5]));
        assert_eq!(rows[1], each(&|l| x[(l & !7) + (l + 3) % 8]));
        assert_eq!(rows[2], each(&|l| x[if l < 2 { l } else { l - 2 }]));
        assert_eq!(rows[3], each(&|l| x[if l % 16 < 3 { l } else { l - 3 }]));
        assert_eq!(rows[4], each(&|l| x[if l + 7 > 31 { l } else { l + 7 }]));
        assert_eq!(rows[5], each(&|l| x[l ^ 9]));
        assert_eq!(rows[6], each(&|_| ballot(&|v| v & 1 == 1)));
        assert_eq!(rows[7], each(&|_| x.contains(&3) as u32));
        assert_eq!(rows[8], each(&|_| 1));
        assert_eq!(rows[9], each(&|l| ballot(&|v| v % 5 == x[l] % 5)));
        assert_eq!((rows[10].clone(), rows[11].clone()), (vec![0; 32], vec![0; 32]));
        assert_eq!(rows[12], each(&|_| x.iter().sum()));
        assert_eq!(rows[13], each(&|_| x.iter().map(|&v| v as i32 - 50).min().unwrap() as u32));
        assert_eq!(rows[14], each(&|_| *x.iter().max().unwrap()));
        assert_eq!(rows[15], each(&|_| x.iter().fold(0, |a, b| a ^ b)));
        assert_eq!(rows[16], each(&|_| x.iter().fold(!0, |a, b| a & (b | 0xf0))));
        assert_eq!(rows[17], each(&|_| x.iter().fold(0, |a, b| a | b)));
        let low = ballot(&|v| v & 2 != 0) & 0xffff;
        assert_eq!(rows[18], each(&|l| if l < 16 { low } else { x[20] }));
    }
}

/// bf16 values, as bits, and what they stand for.
fn bf16(n: usize, seed: u64) -> (Vec<u16>, Vec<f64>) {
    let bits: Vec<u16> = floats(n, seed).iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect();
    let values = bits.iter().map(|&b| half::bf16::from_bits(b).to_f64()).collect();
    (bits, values)
}

#[test]
fn tensor_core_matmul_in_every_schedule() {
    let (m, n, k) = (128, 64, 96);
    let ((a, av), (b, bv)) = (bf16(m * k, 13), bf16(k * n, 14));
    let mut expected = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            expected[i * n + j] = (0..k).map(|l| av[i * k + l] * bv[l * n + j]).sum();
        }
    }
    for options in schedules() {
        let mut run = Run::new(TENSOR, options);
        let (pa, pb, c) = (run.put("a", &a), run.put("b", &b), run.empty::<f32>("c", m * n));
        let config = LaunchConfig { grid: [1, 2, 1], block: [128, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
        let args = [c.into(), pa.into(), pb.into(), (m as i32).into(), (n as i32).into(), (k as i32).into()];
        let report = run.clean("matmul_bf16", config, &args);
        assert_close(&run.get::<f32>(c, m * n), &expected, 1e-5, 1e-5);
        assert_eq!(report.counters.total.tensor_flops, (2 * m * n * k) as u64);
    }
}

#[test]
fn movmatrix_transposes() {
    let x: Vec<u32> = (0..32).map(|i| (2 * i) | (2 * i + 1) << 16).collect();
    let mut run = Run::new(TENSOR, Options::default());
    let (inp, out) = (run.put("inp", &x), run.empty::<u32>("out", 32));
    run.clean("transpose8", LaunchConfig::linear(1, 32), &[out.into(), inp.into()]);
    let found = run.get::<u32>(out, 32);
    // Element (r, c) of the input is 8 r + c.
    for r in 0..8 {
        for c in 0..8 {
            assert_eq!(found[r * 4 + c / 2] >> (16 * (c % 2)) & 0xffff, (8 * c + r) as u32);
        }
    }
}

/// Cooperative groups of several warps keep their barriers in the part of shared memory that is reserved for system
/// software (PTX ISA 10.29): zero at the start, and apart from the kernel's own.
#[test]
fn reserved_shared_memory_is_zero_and_nobody_elses() {
    let ptx = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out) {
    .reg .b32 %r<12>; .reg .b64 %rd<6>;
    .shared .align 4 .b8 own[128];
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 2;
    mov.u32 %r3, own;
    add.u32 %r3, %r3, %r2;
    st.shared.u32 [%r3], 7;
    mov.u32 %r4, %reserved_smem_offset_1;
    cvt.u64.u32 %rd2, %r4;
    cvta.shared.u64 %rd2, %rd2;
    atom.add.u32 %r5, [%rd2], 1;
    mov.u32 %r6, %reserved_smem_offset_begin;
    mov.u32 %r7, %reserved_smem_offset_end;
    sub.u32 %r6, %r7, %r6;
    mov.u32 %r7, %reserved_smem_offset_cap;
    sub.u32 %r6, %r6, %r7;
    add.u32 %r5, %r5, %r6;
    ld.shared.u32 %r8, [%r3];
    add.u32 %r5, %r5, %r8;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    st.global.u32 [%rd4], %r5;
    ret;
}";
    let mut run = Run::new(ptx, Options::default());
    let out = run.empty::<u32>("out", 32);
    run.clean("k", LaunchConfig::linear(1, 32), &[out.into()]);
    assert_eq!(run.get::<u32>(out, 32), (7..39).collect::<Vec<u32>>());
}
