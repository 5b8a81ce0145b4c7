//! Other people's PTX: habits of compilers other than nvcc, wmma, and launches that no kernel can survive.

mod common;

use common::{Random, Run};
use handloom_emulator::{Arg, Device, Error, FindingKind as Kind, LaunchConfig, Module, Options};

const FOREIGN: &str = include_str!("ptx/foreign.ptx");

/// Launches a kernel of one block that writes one number for each thread.
fn each_thread(kernel: &str, threads: u32) -> Vec<u32> {
    let mut run = Run::new(FOREIGN, Options::default());
    let out = run.empty::<u32>("out", threads as usize);
    run.clean(kernel, LaunchConfig::linear(1, threads), &[out.into()]);
    run.get(out, threads as usize)
}

#[test]
fn indirect_calls_reach_the_functions_of_a_table() {
    let expected: Vec<u32> = (0..64).map(|i| [i + 1, 2 * i, i * i][i as usize % 3]).collect();
    assert_eq!(each_thread("through_table", 64), expected);
    // A list of targets, one of them an alias.
    let expected: Vec<u32> = (0..40).map(|i| if i > 3 { 2 * i } else { i * i }).collect();
    assert_eq!(each_thread("listed_targets", 40), expected);
}

#[test]
fn an_indirect_call_to_anything_else_is_a_finding() {
    let run = Run::new(FOREIGN, Options::default());
    for target in [0u64, 0x7d00_0000_0000, 12345, u64::MAX] {
        let report = run.launch("wild_call", LaunchConfig::linear(1, 32), &[target.into()]);
        assert!(report.findings.iter().any(|f| f.kind == Kind::IllegalCall), "{}", report.text());
    }
}

#[test]
fn parameters_in_registers_and_recursion() {
    let expected: Vec<u32> = (0..50).map(|i| (i as f64 * 3.5) as u32 + 5).collect();
    assert_eq!(each_thread("register_parameters", 50), expected);
    let expected: Vec<u32> = (0..33u32).map(|i| (1..=i & 7).product()).collect();
    assert_eq!(each_thread("recursion", 33), expected);
}

#[test]
fn vector_and_128_bit_registers() {
    let mut run = Run::new(FOREIGN, Options::default());
    let out = run.empty::<u32>("out", 4 * 32);
    run.clean("wide_registers", LaunchConfig::linear(1, 32), &[out.into()]);
    for (i, four) in run.get::<u32>(out, 4 * 32).chunks(4).enumerate() {
        // The halves of x, y, z, w are exchanged.
        assert_eq!(four, [0xffff_fffe, -3i32 as u32, i as u32, 1_000_100]);
    }
}

#[test]
fn jump_tables_and_labels_at_the_end() {
    let mut run = Run::new(FOREIGN, Options::default());
    let out = run.put("out", &[99u32; 32]);
    run.clean("jumps", LaunchConfig::linear(1, 32), &[out.into()]);
    let expected: Vec<u32> = (0..32).map(|i| [10, 20, 30, 99][i % 4]).collect();
    assert_eq!(run.get::<u32>(out, 32), expected);
}

#[test]
fn padding_may_be_copied_but_unwritten_words_may_not_be_read() {
    let expected: Vec<u32> = (0..32).map(|i| 2 * i).collect();
    assert_eq!(each_thread("padding", 32), expected);
    let mut run = Run::new(FOREIGN, Options::default());
    let out = run.empty::<u32>("out", 1);
    let report = run.launch("unwritten_local", LaunchConfig::linear(1, 1), &[out.into()]);
    assert!(report.findings.iter().any(|f| f.kind == Kind::Uninitialised), "{}", report.text());
}

#[test]
fn arrays_on_the_stack_are_given_back() {
    let expected: Vec<u32> = (1..=32).map(|n| n * (n + 1) / 2).collect();
    assert_eq!(each_thread("stack_arrays", 32), expected);
    let run = Run::new(FOREIGN, Options::default());
    for bytes in [1u64 << 20, 1 << 40, u64::MAX] {
        let report = run.launch("stack_of", LaunchConfig::linear(1, 32), &[bytes.into()]);
        assert!(report.findings.iter().any(|f| f.kind == Kind::StackOverflow), "{bytes}: {}", report.text());
    }
}

#[test]
fn printing_from_anywhere_is_a_finding() {
    let mut run = Run::new(FOREIGN, Options::default());
    let text = run.put("text", b"%s %d %n %*d %lld %");
    for (format, arguments) in [(0, 0), (u64::MAX, 0), (text, 0), (text, u64::MAX), (text + 19, text)] {
        let args = [format.into(), arguments.into()];
        let report = run.launch("print_anything", LaunchConfig::linear(1, 1), &args);
        assert!(!report.is_clean(), "{format:#x} {arguments:#x}: {}", report.printed);
    }
}

#[test]
fn special_registers_of_drivers_are_zero() {
    assert_eq!(each_thread("specials", 1), [7]);
}

/// Addresses that are wrong in some space: each access gives findings, never a panic, and never passes.
#[test]
fn wild_addresses_are_findings_in_every_space() {
    let run = Run::new(FOREIGN, Options::default());
    let wild = [
        0,
        1,
        4,
        0xffff,
        0x7fff_ffff,
        0xffff_fffc,
        0x7dff_ffff_fffe,
        0x7e00_0000_0000,
        0x7e00_ffff_fffc,
        0x7e40_0000_0100,
        0x7e80_0000_0000,
        0x7e80_0000_fffc,
        1 << 47,
        u64::MAX - 3,
        u64::MAX,
    ];
    for kernel in run.module.module.kernels().iter().filter(|k| k.name.contains('_') && k.params.len() == 1) {
        if !["touch", "store", "atomic"].iter().any(|p| kernel.name.starts_with(p)) {
            continue;
        }
        for address in wild {
            if kernel.name == "touch_param" && address <= 4 {
                continue; // within the parameters
            }
            let report = run.launch(&kernel.name, LaunchConfig::linear(1, 32), &[address.into()]);
            assert!(!report.findings.is_empty(), "{} accepts {address:#x}", kernel.name);
        }
    }
}

/// The other instructions that take addresses, in a kernel each.
#[test]
fn wild_addresses_do_not_get_past_any_instruction() {
    const TOUCH: &[&str] = &[
        "ld.global.v4.f32 {f, f, f, f}, [a];",
        "ld.shared.v2.b64 {d, d}, [a];",
        "ld.global.nc.b128 q, [a+-16];",
        "ld.const.v4.u8 {h, h, h, h}, [a];",
        "st.global.v2.b64 [a], {a, a};",
        "st.shared.v4.b32 [a+2147483647], {r, r, r, r};",
        "st.local.v4.b32 [a], {r, r, r, r};",
        "atom.shared.add.u32 r, [a], 1;",
        "atom.global.cas.b64 d, [a], d, d;",
        "atom.global.add.noftz.f16x2 r, [a], r;",
        "red.add.f64 [a], 0d3FF0000000000000;",
        "atom.inc.u32 r, [a], 4;",
        "cp.async.ca.shared.global [sh], [a], 4; cp.async.wait_all;",
        "cp.async.cg.shared.global [a], [out], 16; cp.async.wait_all;",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {r, r, r, r}, [a];",
        "ld.volatile.u16 h, [a];",
        "wmma.load.c.sync.aligned.row.m16n16k16.f32 {f, f, f, f, f, f, f, f}, [a], 16;",
    ];
    for body in TOUCH {
        let ptx = format!(
            ".version 8.3\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 at, .param .u64 p) {{
             .reg .b16 h; .reg .b32 r; .reg .f32 f; .reg .b64 a, d, out; .reg .b128 q;
             .shared .align 16 .b8 sh[512]; .local .align 16 .b8 lo[32];
             ld.param.u64 a, [at]; ld.param.u64 out, [p]; mov.b32 r, 0; mov.b64 d, 0; {body} ret; }}"
        );
        let mut run = Run::new(&ptx, Options::default());
        let out = run.put("out", &[0u32; 4]);
        for address in [3, 1 << 20, 0x7dff_ffff_fffe, 0x7e00_00ff_fff0, 1 << 47, u64::MAX - 15, u64::MAX] {
            let report = run.launch("k", LaunchConfig::linear(1, 32), &[address.into(), out.into()]);
            assert!(!report.findings.is_empty(), "`{body}` accepts {address:#x}");
        }
    }
}

#[test]
fn endless_recursion_is_a_finding() {
    let run = Run::new(FOREIGN, Options::default());
    let report = run.launch("overflow", LaunchConfig::linear(2, 64), &[]);
    assert!(report.findings.iter().any(|f| f.kind == Kind::StackOverflow), "{}", report.text());
}

fn refused(
    device: &Device,
    module: &handloom_emulator::Loaded,
    config: LaunchConfig,
    args: &[Arg],
) -> String {
    match device.launch(module, "specials", config, args) {
        Err(Error::Launch { message, .. }) => message,
        Err(other) => panic!("another error: {other}"),
        Ok(report) => panic!("was launched: {}", report.text()),
    }
}

#[test]
fn impossible_launches_are_errors() {
    let mut run = Run::new(FOREIGN, Options::default());
    let out = run.empty::<u32>("out", 1);
    let args: Vec<Arg> = vec![out.into()];
    let plain = LaunchConfig::linear(1, 1);
    let shapes = [
        LaunchConfig { grid: [0, 1, 1], ..plain },
        LaunchConfig { grid: [1, 0, 1], ..plain },
        LaunchConfig { grid: [1, 1, 1 << 16], ..plain },
        LaunchConfig { grid: [u32::MAX, u32::MAX, u32::MAX], ..plain },
        LaunchConfig { block: [0, 1, 1], ..plain },
        LaunchConfig { block: [1025, 1, 1], ..plain },
        LaunchConfig { block: [1, 1, 65], ..plain },
        LaunchConfig { block: [u32::MAX, u32::MAX, u32::MAX], ..plain },
        LaunchConfig { block: [1024, 1024, 64], ..plain },
        LaunchConfig { cluster: [2, 1, 1], ..plain },
        LaunchConfig { cluster: [0, 0, 0], ..plain },
        LaunchConfig { dynamic_shared: u32::MAX, ..plain },
        LaunchConfig { dynamic_shared: 1 << 20, ..plain },
    ];
    for config in shapes {
        assert!(!refused(&run.device, &run.module, config, &args).is_empty());
    }
    for wrong in [vec![], vec![out.into(), 1u32.into()], vec![1u32.into()], vec![Arg(vec![0; 4096])]] {
        let message = refused(&run.device, &run.module, plain, &wrong);
        assert!(message.contains("given"), "{message}");
    }
    assert!(matches!(
        run.device.launch(&run.module, "absent", plain, &args),
        Err(Error::Launch { message, .. }) if message.contains("no such kernel")
    ));
    let short = run.device.launch_block(&run.module, "specials", plain, &[0; 3]);
    assert!(matches!(short, Err(Error::Launch { .. })), "a parameter block that is too short");
}

#[test]
fn more_parameters_than_the_architecture_allows_are_an_error() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .align 4 .b8 p[4360]) { ret; }";
    let mut device = Device::new(Options::default());
    let module = device.load(&Module::parse(ptx).unwrap()).unwrap();
    let launch = device.launch(&module, "k", LaunchConfig::linear(1, 1), &[Arg(vec![0; 4360])]);
    assert!(
        matches!(&launch, Err(Error::Launch { message, .. }) if message.contains("4360 B of parameters"))
    );
    let huge = ptx.replace("4360", "100000000000");
    assert!(Module::parse(&huge).map(|_| ()).is_err(), "100 GB of parameters");
}

// wmma -------------------------------------------------------------------------------------------------------------

/// A product D = A B + C by wmma: element types in memory and layouts.
struct Wmma {
    shape: [usize; 3],
    input: &'static str,
    output: &'static str,
    rows: [bool; 3],
}

impl Wmma {
    /// Registers of A, B and of the accumulators.
    fn registers(&self) -> [usize; 3] {
        let [m, n, k] = self.shape;
        match (self.input, self.output) {
            ("f16", out) => [8, 8, if out == "f16" { 4 } else { 8 }],
            ("bf16", _) => [m * k / 64, k * n / 64, 8],
            ("tf32", _) => [4, 4, 8],
            ("f64", _) => [1, 1, 2],
            _ => [m * k / 128, k * n / 128, 8],
        }
    }

    fn ptx(&self) -> String {
        let layout = |row| if row { "row" } else { "col" };
        let [m, n, k] = self.shape;
        let [la, lb, lc] = self.rows.map(layout);
        let list = |prefix: &str, count: usize| {
            let names: Vec<String> = (0..count).map(|i| format!("%{prefix}{i}")).collect();
            format!("{{{}}}", names.join(", "))
        };
        let [na, nb, nc] = self.registers();
        let part = if self.input == "f64" { "f64" } else { "b32" };
        let sum = match self.output {
            "f16" => "b32",
            "s32" => "b32",
            other => other,
        };
        let types = match self.input {
            "f16" => format!("{0}.{0}", self.output),
            _ => format!("{0}.{1}.{1}.{0}", self.output, self.input),
        };
        let shape = format!("m{m}n{n}k{k}");
        let (a, b, c, d) = (list("a", na), list("b", nb), list("c", nc), list("d", nc));
        let (input, output) = (self.input, self.output);
        let stride = |rows: usize, columns: usize, row: bool| 8 + if row { columns } else { rows };
        let (sa, sb, sc) =
            (stride(m, k, self.rows[0]), stride(k, n, self.rows[1]), stride(m, n, self.rows[2]));
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64
.visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u32 stride)
{{
.reg .{part} %a<8>; .reg .{part} %b<8>; .reg .{sum} %c<8>; .reg .{sum} %d<8>; .reg .b32 %s; .reg .b64 %p<3>;
ld.param.u64 %p0, [pa]; ld.param.u64 %p1, [pb]; ld.param.u64 %p2, [pc]; ld.param.u32 %s, [stride];
wmma.load.a.sync.aligned.{la}.{shape}.global.{input} {a}, [%p0], {sa};
wmma.load.b.sync.aligned.{lb}.{shape}.{input} {b}, [%p1], {sb};
wmma.load.c.sync.aligned.{lc}.{shape}.global.{output} {c}, [%p2], {sc};
wmma.mma.sync.aligned.{la}.{lb}.{shape}.{types} {d}, {a}, {b}, {c};
wmma.store.d.sync.aligned.{lc}.{shape}.global.{output} [%p2], {d}, %s;
ret;
}}"
        )
    }
}

/// Bytes of a small whole number in a type; all of them are exact.
fn encode(ty: &str, v: i32, out: &mut Vec<u8>) {
    match ty {
        "s8" | "u8" => out.push(v as u8),
        "s32" => out.extend(v.to_le_bytes()),
        "f64" => out.extend((v as f64).to_le_bytes()),
        "bf16" => out.extend(&(v as f32).to_le_bytes()[2..]),
        "f16" => {
            let f = (v as f32).to_bits();
            let exponent = (f >> 23 & 0xff) as i32 - 127 + 15;
            let bits = if v == 0 { 0 } else { f >> 16 & 0x8000 | (exponent as u32) << 10 | f >> 13 & 0x3ff };
            out.extend((bits as u16).to_le_bytes());
        }
        _ => out.extend((v as f32).to_le_bytes()),
    }
}

/// Places a matrix in memory with eight elements of nobody after each row or column.
fn matrix(ty: &str, rows: usize, columns: usize, row: bool, value: impl Fn(usize, usize) -> i32) -> Vec<u8> {
    let (major, minor) = if row { (rows, columns) } else { (columns, rows) };
    let mut out = Vec::new();
    for i in 0..major {
        for j in 0..minor + 8 {
            let v = match (j < minor, row) {
                (false, _) => 77,
                (_, true) => value(i, j),
                (_, false) => value(j, i),
            };
            encode(ty, v, &mut out);
        }
    }
    out
}

#[test]
fn wmma_multiplies_every_shape_type_and_layout() {
    let mut cases = Vec::new();
    for bits in 0..8 {
        let rows = [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0];
        for shape in [[16, 16, 16], [32, 8, 16], [8, 32, 16]] {
            for (input, output) in
                [("f16", "f32"), ("f16", "f16"), ("bf16", "f32"), ("s8", "s32"), ("u8", "s32")]
            {
                cases.push(Wmma { shape, input, output, rows });
            }
        }
        cases.push(Wmma { shape: [16, 16, 8], input: "tf32", output: "f32", rows });
        cases.push(Wmma { shape: [8, 8, 4], input: "f64", output: "f64", rows });
    }
    let mut random = Random(7);
    for case in cases {
        let [m, n, k] = case.shape;
        let low = if case.input == "u8" { 0 } else { -4 };
        let mut numbers =
            |count: usize| -> Vec<i32> { (0..count).map(|_| low + (random.next() % 8) as i32).collect() };
        let (a, b, c) = (numbers(m * k), numbers(k * n), numbers(m * n));
        let mut run = Run::new(&case.ptx(), Options::default());
        let pa = run.put("a", &matrix(case.input, m, k, case.rows[0], |i, j| a[i * k + j]));
        let pb = run.put("b", &matrix(case.input, k, n, case.rows[1], |i, j| b[i * n + j]));
        let pc = run.put("c", &matrix(case.output, m, n, case.rows[2], |i, j| c[i * n + j]));
        let stride = 8 + if case.rows[2] { n } else { m };
        let args = [pa.into(), pb.into(), pc.into(), (stride as u32).into()];
        run.clean("k", LaunchConfig::linear(1, 32), &args);
        let expected = matrix(case.output, m, n, case.rows[2], |i, j| {
            c[i * n + j] + (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<i32>()
        });
        let found = run.get::<u8>(pc, expected.len());
        let name = format!("{:?} {} {} {:?}", case.shape, case.input, case.output, case.rows);
        assert!(found == expected, "wmma {name} gives another product");
    }
}
