//! Kernels of sm_90a written in CUDA C++ (tests/cuda/hopper.cu), checked against f64 under every timing and schedule.

mod common;

use common::{Random, Run, assert_close, tensor_map as map};
use handloom_emulator::{Arch, AsyncTiming, LaunchConfig, Options, Schedule};

const PTX: &str = include_str!("ptx/hopper.ptx");

fn options(schedule: Schedule, async_timing: AsyncTiming, seed: u64) -> Options {
    Options { arch: Arch::named("sm_90a").unwrap(), schedule, async_timing, seed, ..Options::default() }
}

/// Late, early, and some random schedules.
fn all() -> Vec<Options> {
    let mut out = vec![
        options(Schedule::Fast, AsyncTiming::Late, 0),
        options(Schedule::Fast, AsyncTiming::Early, 0),
        options(Schedule::Fast, AsyncTiming::Random, 7),
        options(Schedule::Random, AsyncTiming::Late, 8),
    ];
    for seed in 1..3 {
        out.push(options(Schedule::Random, AsyncTiming::Auto, seed));
        out.push(options(Schedule::Priority, AsyncTiming::Auto, seed));
    }
    out
}

fn shape(grid: [u32; 3], threads: u32, dynamic_shared: u32) -> LaunchConfig {
    LaunchConfig { grid, block: [threads, 1, 1], cluster: [1; 3], dynamic_shared }
}

fn bf16(v: f32) -> u16 {
    half::bf16::from_f32(v).to_bits()
}

#[test]
fn a_tma_pipeline_doubles_a_matrix() {
    let (rows, columns) = (40u64, 128u64);
    for o in all() {
        let mut r = Random(1);
        let values: Vec<f32> = (0..rows * columns).map(|_| r.unit()).collect();
        let mut run = Run::new(PTX, o);
        let (a, b) = (run.put("in", &values), run.empty::<f32>("out", values.len()));
        let (ma, mb) =
            (map(7, a, &[columns, rows], &[32, 16], 0, 4), map(7, b, &[columns, rows], &[32, 16], 0, 4));
        run.clean("tma_copy", shape([3, 1, 1], 128, 0), &[ma, mb, 4i32.into()]);
        let expected: Vec<f64> = values.iter().map(|&v| 2.0 * v as f64).collect();
        assert_close(&run.get::<f32>(b, values.len()), &expected, 0.0, 0.0);
    }
}

#[test]
fn a_wgmma_matmul_with_multicast_is_right() {
    let (m, n, k) = (256usize, 256usize, 320usize);
    let mut r = Random(2);
    let a: Vec<f32> = (0..m * k).map(|_| r.unit()).map(|v| half::bf16::from_f32(v).to_f32()).collect();
    let b: Vec<f32> = (0..n * k).map(|_| r.unit()).map(|v| half::bf16::from_f32(v).to_f32()).collect();
    let mut expected = vec![0.0f64; m * n];
    for i in 0..m {
        for j in 0..n {
            expected[i * n + j] = (0..k).map(|x| a[i * k + x] as f64 * b[j * k + x] as f64).sum();
        }
    }
    for o in all() {
        let mut run = Run::new(PTX, o);
        let (pa, pb) = (
            run.put("a", &a.iter().map(|&v| bf16(v)).collect::<Vec<_>>()),
            run.put("b", &b.iter().map(|&v| bf16(v)).collect::<Vec<_>>()),
        );
        let c = run.empty::<f32>("c", m * n);
        let args = [
            map(9, pa, &[k as u64, m as u64], &[64, 128], 3, 2),
            map(9, pb, &[k as u64, n as u64], &[64, 64], 3, 2),
            c.into(),
            (n as i32).into(),
            (k as i32).into(),
        ];
        run.clean("matmul", shape([2, 2, 1], 384, 3 * 2 * 128 * 64 * 2 + 64), &args);
        assert_close(&run.get::<f32>(c, m * n), &expected, 1e-4, 1e-5);
    }
}

#[test]
fn a_cluster_sums_through_distributed_shared_memory() {
    let n = 3001;
    let mut r = Random(3);
    let values: Vec<f32> = (0..n).map(|_| r.unit()).collect();
    for o in all() {
        let mut run = Run::new(PTX, o);
        let (a, b) = (run.put("in", &values), run.empty::<f32>("out", 2));
        run.clean("cluster_sum", shape([8, 1, 1], 128, 0), &[a.into(), b.into(), (n as i32).into()]);
        // Cluster c sums the elements whose index, modulo 1024, lies in its 512.
        let part =
            |c: usize| -> f64 { (0..n).filter(|i| i % 1024 / 512 == c).map(|i| values[i] as f64).sum() };
        assert_close(&run.get::<f32>(b, 2), &[part(0), part(1)], 1e-4, 0.0);
    }
}

#[test]
fn blocks_send_to_each_other_with_st_async() {
    for o in all() {
        let mut run = Run::new(PTX, o);
        let values: Vec<i32> = (0..256).map(|i| 7 * i - 300).collect();
        let (a, b) = (run.put("in", &values), run.empty::<i32>("out", 256));
        run.clean("send", shape([4, 1, 1], 64, 0), &[a.into(), b.into()]);
        let expected: Vec<i32> = (0..256).map(|i| values[i ^ 64]).collect();
        assert_eq!(run.get::<i32>(b, 256), expected);
    }
}

#[test]
fn tensor_reductions_add_up() {
    for o in all() {
        let mut run = Run::new(PTX, o);
        let (columns, rows) = (36usize, 10usize);
        let a = run.put("out", &vec![0.5f32; columns * rows]);
        let m = map(7, a, &[columns as u64, rows as u64], &[32, 8], 0, 4);
        run.clean("tma_reduce", shape([3, 1, 1], 64, 0), &[m]);
        let mut expected = vec![0.5f64; columns * rows];
        for (y, x) in (0..8).flat_map(|y| (0..32).map(move |x| (y, x))) {
            expected[(y + 1) * columns + x + 3] += (1..=3).map(|b| (b + y * 32 + x) as f64).sum::<f64>();
        }
        assert_close(&run.get::<f32>(a, columns * rows), &expected, 0.0, 0.0);
    }
}

#[test]
fn bulk_copies_move_and_add() {
    let (blocks, count) = (3usize, 100usize);
    for o in all() {
        let mut run = Run::new(PTX, o);
        let values: Vec<i32> = (0..blocks * count).map(|i| (i * i) as i32).collect();
        let (a, b) = (run.put("in", &values), run.empty::<i32>("out", values.len()));
        let s = run.put("sum", &vec![10i32; count]);
        let args = [a.into(), b.into(), s.into(), (count as i32).into()];
        run.clean("bulk", shape([blocks as u32, 1, 1], 128, 4 * count as u32), &args);
        let moved: Vec<i32> = values.iter().map(|v| v + 1).collect();
        assert_eq!(run.get::<i32>(b, values.len()), moved);
        let sums: Vec<i32> =
            (0..count).map(|i| 10 + (0..blocks).map(|b| moved[b * count + i]).sum::<i32>()).collect();
        assert_eq!(run.get::<i32>(s, count), sums);
    }
}

/// Engines are reused by clusters that other threads take up: a block that was another's of its cluster starts anew.
#[test]
fn many_clusters_run_in_parallel_and_again() {
    let options = Options { arch: Arch::named("sm_90a").unwrap(), threads: 3, ..Options::default() };
    let mut run = Run::new(PTX, options);
    let n = 40_000;
    let clusters = 60;
    let (a, b) = (run.put("in", &vec![1.0f32; n]), run.empty::<f32>("out", clusters));
    let config = LaunchConfig {
        grid: [4 * clusters as u32, 1, 1],
        block: [128, 1, 1],
        cluster: [1; 3],
        dynamic_shared: 0,
    };
    for _ in 0..3 {
        run.clean("cluster_sum", config, &[a.into(), b.into(), (n as i32).into()]);
        assert_eq!(run.get::<f32>(b, clusters).iter().sum::<f32>(), n as f32);
    }
}
