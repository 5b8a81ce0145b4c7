//! `handloom emulate`: runs a kernel from a PTX file on the emulated GPU, checks it, and shows what it did.

mod npy;
mod trace;
mod values;

use std::path::{Path, PathBuf};

use clap::Args;
use handloom_emulator::{Arch, Arg, Device, LaunchConfig, LaunchReport, Module, Options, TraceTarget, html};
use serde_json::{Value as Json, json};

use super::CommandResult;
use super::output::say;
use npy::Array;
use values::Value;

/// Arguments of `handloom emulate`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  handloom emulate add.ptx --kernel vector_add --grid 4 --block 256 \\\n    \
    --arg f32[1000]=zeros --arg f32[1000]=arange --arg f32[1000]=randn:1 --arg 1000 --print 0"
)]
pub struct EmulateArgs {
    /// The PTX file
    file: PathBuf,
    /// The kernel; needed when the file has several
    #[arg(long)]
    kernel: Option<String>,
    /// Blocks along x, y, z
    #[arg(long, value_name = "X,Y,Z", value_parser = dims)]
    grid: Dims,
    /// Threads of a block along x, y, z
    #[arg(long, value_name = "X,Y,Z", value_parser = dims)]
    block: Dims,
    /// Blocks of a cluster along x, y, z
    #[arg(long, value_name = "X,Y,Z", value_parser = dims, default_value = "1")]
    cluster: Dims,
    /// Dynamic shared memory in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    shared: u32,
    /// All blocks run at once and may wait for each other (grid.sync)
    #[arg(long)]
    cooperative: bool,
    /// Architecture; the oldest one that runs the file if not given
    #[arg(long)]
    arch: Option<String>,
    /// Another option of the emulator, such as checks=none, schedule=random, seed=7; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// An argument of the kernel, in order: a number (5, u32:5, f32:0.5), a buffer (f32[64x32]=randn:1, =zeros, =ones,
    /// =arange, =uniform:SEED, =fill:VALUE, =uninit), the buffer of an earlier argument (@0, @0+BYTES) or a .npy file (a
    /// buffer, or the bytes of a struct where the kernel takes one)
    #[arg(long = "arg", value_name = "VALUE")]
    args: Vec<String>,
    /// Write the buffer of an argument, by its number from 0, to a .npy file afterwards
    #[arg(long, value_name = "N=PATH")]
    out: Vec<String>,
    /// Print the first elements of an argument's buffer afterwards
    #[arg(long, value_name = "N")]
    print: Vec<usize>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Write the counters as a page with the source annotated
    #[arg(long, value_name = "PATH")]
    html: Option<PathBuf>,
    /// Where the CUDA source is, if not where the PTX says or beside it
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// Show each instruction of one warp and what it wrote: WARP of block 0, or X,Y,Z:WARP
    #[arg(long, value_name = "WARP")]
    trace: Option<String>,
    /// Instructions shown by --trace
    #[arg(long, value_name = "N", default_value_t = 200)]
    trace_limit: usize,
}

#[derive(Clone, Copy, Debug)]
struct Dims([u32; 3]);

fn dims(text: &str) -> Result<Dims, String> {
    let mut out = [1; 3];
    let parts: Vec<&str> = text.split([',', 'x']).collect();
    if parts.len() > 3 {
        return Err(format!("{} numbers, at most three are possible", parts.len()));
    }
    for (d, part) in out.iter_mut().zip(parts) {
        *d = part.trim().parse().map_err(|_| format!("`{part}` is no number"))?;
    }
    Ok(Dims(out))
}

fn trace_target(text: &str, limit: usize) -> Result<TraceTarget, String> {
    let (block, warp) = text.split_once(':').unwrap_or(("0,0,0", text));
    let Dims(mut at) = dims(block).map_err(|e| format!("--trace {text}: {e}"))?;
    let given = block.split([',', 'x']).count();
    at[given..].fill(0);
    let warp = warp.parse().map_err(|_| format!("--trace {text}: expected WARP or X,Y,Z:WARP"))?;
    Ok(TraceTarget { block: at, warp, limit })
}

fn options(args: &EmulateArgs, target: &str) -> Result<Options, Box<dyn std::error::Error>> {
    let mut options = Options::default();
    match (&args.arch, Arch::running(target)) {
        (Some(name), _) => options.set("arch", name)?,
        (None, Some(arch)) => options.arch = arch,
        (None, None) => {
            return Err(
                format!("the file is for {target}; the emulator runs what {} run", Arch::names()).into()
            );
        }
    }
    for pair in &args.set {
        let (key, value) = pair.split_once('=').ok_or(format!("--set {pair}: expected KEY=VALUE"))?;
        options.set(key, value)?;
    }
    if let Some(text) = &args.trace {
        options.trace = Some(trace_target(text, args.trace_limit)?);
        options.counters = true;
    }
    Ok(options)
}

/// The number and path of `--out N=PATH`.
fn out_target(text: &str, count: usize) -> Result<(usize, PathBuf), String> {
    let parts = text.split_once('=').and_then(|(n, path)| Some((n.parse::<usize>().ok()?, path)));
    let (n, path) = parts.ok_or(format!("--out {text}: expected N=PATH, such as 0=result.npy"))?;
    if n >= count {
        return Err(format!("--out {text}: there are {count} arguments, numbered from 0"));
    }
    Ok((n, PathBuf::from(path)))
}

/// A buffer on the device, with what is needed to read it back.
struct Buffer {
    address: u64,
    ty: values::Type,
    shape: Vec<usize>,
    bytes: usize,
}

impl Buffer {
    fn read(&self, device: &Device) -> Result<Array, handloom_emulator::Error> {
        let mut bytes = vec![0; self.bytes];
        device.read(self.address, &mut bytes)?;
        Ok(Array { ty: self.ty, shape: self.shape.clone(), bytes })
    }
}

/// Runs the command.
pub fn run(args: EmulateArgs) -> CommandResult {
    let ptx = std::fs::read_to_string(&args.file).map_err(|e| format!("{}: {e}", args.file.display()))?;
    let module = Module::parse(&ptx).map_err(|e| format!("{}: {e}", args.file.display()))?;
    let kernel = choose(&module, args.kernel.as_deref())?;
    let mut device = Device::new(options(&args, module.target())?);
    let loaded = device.load(&module)?;
    let (passed, buffers) = arguments(&mut device, &module, &kernel, &args.args)?;
    let outputs: Vec<(usize, PathBuf)> =
        args.out.iter().map(|text| out_target(text, buffers.len())).collect::<Result<_, _>>()?;
    for n in outputs.iter().map(|o| o.0).chain(args.print.iter().copied()) {
        if buffers.get(n).is_none_or(|b| b.is_none()) {
            return Err(format!("argument {n} is no buffer").into());
        }
    }
    let config = LaunchConfig {
        grid: args.grid.0,
        block: args.block.0,
        cluster: args.cluster.0,
        dynamic_shared: args.shared,
    };
    let report = match args.cooperative {
        false => device.launch(&loaded, &kernel, config, &passed)?,
        true => {
            let params: Vec<u8> = device.param_block(&loaded, &kernel, &passed)?;
            device.launch_cooperative(&loaded, &kernel, config, &params)?
        }
    };
    for (n, path) in &outputs {
        if let Some(buffer) = &buffers[*n] {
            npy::write(path, &buffer.read(&device)?)?;
        }
    }
    let source = |name: &str| source_text(&args.file, args.source.as_deref(), name);
    if let Some(path) = &args.html {
        let arch = device.options().arch.name;
        let page = html::Page { kernel: &kernel, arch, config, report: &report, ptx: &ptx, source: &source };
        std::fs::write(path, html::page(&page)).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let printed: Vec<(usize, String)> = args
        .print
        .iter()
        .filter_map(|&n| buffers[n].as_ref().map(|b| (n, b)))
        .map(|(n, b)| Ok((n, elements(&b.read(&device)?))))
        .collect::<Result<_, handloom_emulator::Error>>()?;
    if args.json {
        say(json_report(&kernel, config, &report, &printed)?);
    } else {
        print_report(&kernel, &report, &printed, &trace::text(&report.trace, &ptx, &source));
    }
    match (report.findings.len(), report.stopped) {
        (0, false) => Ok(()),
        (0, true) => Err(format!("{kernel}: the launch was stopped").into()),
        (1, _) => Err(format!("{kernel}: 1 finding").into()),
        (n, _) => Err(format!("{kernel}: {n} findings").into()),
    }
}

fn choose(module: &Module, name: Option<&str>) -> Result<String, String> {
    let kernels = module.kernels();
    let known = || kernels.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) if module.kernel(name).is_some() => Ok(name.to_string()),
        Some(name) => Err(format!("no kernel `{name}`; the file has {}", known())),
        None if kernels.len() == 1 => Ok(kernels[0].name.clone()),
        None if kernels.is_empty() => Err("the file has no kernels".to_string()),
        None => Err(format!("the file has several kernels, choose one with --kernel: {}", known())),
    }
}

type Arguments = (Vec<Arg>, Vec<Option<Buffer>>);

/// Puts the arguments on the device.
fn arguments(
    device: &mut Device,
    module: &Module,
    kernel: &str,
    texts: &[String],
) -> Result<Arguments, Box<dyn std::error::Error>> {
    let params = module.kernel(kernel).map(|k| k.params.as_slice()).unwrap_or_default();
    if texts.len() != params.len() {
        let list: Vec<String> = params.iter().map(|p| format!("{} {}", p.ty, p.name)).collect();
        return Err(format!(
            "{kernel} takes {} arguments, {} are given with --arg; it takes: {}",
            params.len(),
            texts.len(),
            list.join(", ")
        )
        .into());
    }
    let (mut passed, mut buffers) = (Vec::new(), Vec::new());
    for (i, (text, param)) in texts.iter().zip(params).enumerate() {
        let pointer = || match param.size {
            8 => Ok(()),
            _ => {
                Err(format!("argument {i} ({} {}) is no pointer, `{text}` is a buffer", param.ty, param.name))
            }
        };
        match values::parse(text, &param.ty)? {
            Value::Scalar(bytes) => {
                passed.push(Arg(bytes));
                buffers.push(None);
            }
            Value::Again { argument, offset } => {
                pointer()?;
                let before: Option<&Buffer> = buffers.get(argument).and_then(Option::as_ref);
                let Some(before) = before else {
                    return Err(format!(
                        "argument {i} (`{text}`): argument {argument} is no buffer before it"
                    )
                    .into());
                };
                passed.push(Arg::from(before.address.wrapping_add(offset)));
                buffers.push(None);
            }
            Value::Buffer { array, .. }
                if param.ty.contains('[') && array.bytes.len() == param.size as usize =>
            {
                passed.push(Arg(array.bytes));
                buffers.push(None);
            }
            Value::Buffer { array, written } => {
                pointer()?;
                let bytes = array.bytes.len();
                let address = device.allocate(bytes as u64, &format!("argument {i} ({text})"))?;
                if written {
                    device.write(address, &array.bytes)?;
                }
                passed.push(Arg::from(address));
                buffers.push(Some(Buffer { address, ty: array.ty, shape: array.shape, bytes }));
            }
        }
    }
    Ok((passed, buffers))
}

/// A source file by the name in the PTX: in the directory given, as it is, or beside the PTX file.
fn source_text(ptx: &Path, dir: Option<&Path>, name: &str) -> Option<String> {
    let file = Path::new(name).file_name().unwrap_or_default();
    let places = [dir.map(|d| d.join(file)), Some(PathBuf::from(name)), ptx.parent().map(|d| d.join(file))];
    places.into_iter().flatten().find_map(|path| std::fs::read_to_string(path).ok())
}

/// Elements of a buffer that are printed.
const PRINTED: usize = 16;

fn elements(array: &Array) -> String {
    let shown: Vec<String> =
        array.bytes.chunks(array.ty.bytes()).take(PRINTED).map(|b| array.ty.show(b)).collect();
    let count = array.bytes.len() / array.ty.bytes();
    let more = if count > PRINTED { format!(", … ({count} in all)") } else { String::new() };
    format!("{}{:?}: {}{more}", array.ty.name(), array.shape, shown.join(", "))
}

fn print_report(kernel: &str, report: &LaunchReport, printed: &[(usize, String)], trace: &str) {
    if !trace.is_empty() {
        say(format_args!("{trace}"));
    }
    if !report.printed.is_empty() {
        say(report.printed.trim_end());
    }
    match report.is_clean() {
        true => say(format_args!("{kernel}: no findings")),
        false => say(format_args!("{kernel}: findings")),
    }
    for finding in &report.findings {
        say(format_args!("  {finding}"));
    }
    for (n, text) in printed {
        say(format_args!("argument {n}  {text}"));
    }
    say(report.counters.text().trim_end());
}

fn json_report(
    kernel: &str,
    config: LaunchConfig,
    report: &LaunchReport,
    printed: &[(usize, String)],
) -> Result<Json, serde_json::Error> {
    let findings: Vec<Json> = report
        .findings
        .iter()
        .map(|f| {
            json!({
                "kind": format!("{:?}", f.kind), "block": f.block, "thread": f.thread, "ptx_line": f.ptx_line,
                "source": f.source.as_ref().map(|(file, line)| json!({ "file": file, "line": line })),
                "message": f.message, "count": f.count, "order": f.order,
            })
        })
        .collect();
    let trace: Vec<Json> = report
        .trace
        .iter()
        .map(|s| {
            let writes: Vec<Json> = s
                .writes
                .iter()
                .map(|w| json!({ "register": w.register, "bits": w.bits, "values": w.values }))
                .collect();
            json!({ "ptx_line": s.ptx_line, "active": s.active, "mask": s.mask, "writes": writes })
        })
        .collect();
    let counters: Json = serde_json::from_str(&report.counters.json())?;
    let values: Vec<Json> = printed.iter().map(|(n, text)| json!({ "argument": n, "text": text })).collect();
    Ok(json!({
        "kernel": kernel, "grid": config.grid, "block": config.block, "clean": report.is_clean(),
        "stopped": report.stopped, "findings": findings, "printed": report.printed, "values": values,
        "counters": counters, "trace": trace,
    }))
}
