//! What each op's launches move to and from global memory, against its card's bytes and against what the kernels are planned to move.
//!
//! The emulator counts the 32-byte sectors that every access of a warp touches: traffic between a multiprocessor and the L2 cache.
//! What a kernel reads twice counts twice, also where the second read never reaches device memory. So every row of the table says by
//! a formula what its kernels read again or write beside the result, and the launches must stay within 5 % of that: a pass too many,
//! an access that is not coalesced, or a 16-byte load turned into single elements fails. Copies and fills by the driver are no
//! launches and are not counted. Forward only, without a tape.
//!
//! A test file of its own, because the report is asked for in the environment.

use std::path::{Path, PathBuf};

use handloom_engine::cards::{ALL, Card, case};
use handloom_engine::check::oracle::{input_dtype, rounded, tensor};
use handloom_engine::device::Device;
use handloom_engine::dtype::DType;
use handloom_engine::philox::Stream;
use handloom_kernels::matmul::plan::{Math, Plan, Room, Shape, plan};

/// How much more than planned may move: statistics of rows, scalars and ids, which fill a part of their sectors.
const SLACK: f64 = 1.05;
const SECTOR: f64 = 32.0;
/// What a warp reads or writes at once, 16 bytes a lane.
const WARP_BYTES: f64 = 512.0;

/// A card at a size.
struct Row {
    card: &'static str,
    sizes: &'static [usize],
    /// Bytes that its launches are planned to move.
    planned: fn(&Run) -> f64,
    /// Why that is more than the card's bytes.
    why: &'static str,
}

/// A row in a dtype on a device.
struct Run {
    card: &'static Card,
    sizes: &'static [usize],
    dtype: DType,
    room: Room,
}

impl Run {
    fn card_bytes(&self) -> f64 {
        (self.card.bytes)(self.sizes, self.dtype)
    }

    /// Bytes of this many elements.
    fn bytes(&self, numel: usize) -> f64 {
        (numel * self.dtype.size()) as f64
    }
}

const fn row(
    card: &'static str,
    sizes: &'static [usize],
    planned: fn(&Run) -> f64,
    why: &'static str,
) -> Row {
    Row { card, sizes, planned, why }
}

/// A row whose launches move what the card says.
const fn exact(card: &'static str, sizes: &'static [usize]) -> Row {
    row(card, sizes, Run::card_bytes, "")
}

const TILES: &str = "a tile of out reads its rows of lhs and columns of rhs";
const EPILOGUE: &str = "tiles; bias once a row";
const KV: &str = "k and v once per block of queries; lse";
const KV_MASK: &str = "k, v and mask once per block of queries, the mask by each warp; lse";
const BIAS: &str = "the same; a bias that is not f32 cast to it; for every sequence, in half precision by two loads a sector";
const LOGITS: &str = "tiles; the f32 logits written and read";
const LOGITS_BIAS: &str = "the same; bias once a row";

/// Every card but the views, which have no bytes of their own.
const ROWS: &[Row] = &[
    exact("add", &[2, 256, 768, 256, 768]),
    exact("sub", &[2, 256, 768, 256, 768]),
    row("mul", &[2, 256, 768, 768], |run| 3.0 * run.bytes(256 * 768), "rhs, a row, read once a row"),
    exact("scale", &[256 * 768]),
    exact("sum", &[256, 768]),
    exact("mean", &[256, 768]),
    exact("cast", &[256 * 768]),
    exact("contiguous", &[16, 16, 768]),
    row("matmul_nn", &[256, 256, 192], |run| product(run, 1), TILES),
    row("matmul_nt", &[256, 256, 192], |run| product(run, 1), TILES),
    row("matmul_tn", &[256, 256, 192], |run| product(run, 1), TILES),
    row("matmul_batched", &[2, 2, 128, 128, 64], |run| product(run, 4), TILES),
    row("matmul_shared_rhs", &[1, 1, 256, 256, 192], |run| product(run, 1), TILES),
    row("linear_in_out", &[256, 256, 192], |run| product(run, 1), TILES),
    row("linear_in_out_bias", &[256, 256, 192], |run| product(run, 1) + bias(run), EPILOGUE),
    row("linear_in_out_gelu", &[256, 256, 192], |run| product(run, 1) + bias(run), EPILOGUE),
    row("linear_in_out_residual", &[256, 256, 192], |run| product(run, 1) + bias(run) + out(run), EPILOGUE),
    row("linear_out_in", &[256, 256, 192], |run| product(run, 1), TILES),
    row("linear_out_in_bias", &[256, 256, 192], |run| product(run, 1) + bias(run), EPILOGUE),
    row("linear_out_in_gelu", &[256, 256, 192], |run| product(run, 1) + bias(run), EPILOGUE),
    row("linear_out_in_residual", &[256, 256, 192], |run| product(run, 1) + bias(run) + out(run), EPILOGUE),
    row("mlp_in_out_residual", MLP[0], |run| mlp(run) + run.bytes(256 * 192), EPILOGUE),
    row("mlp_out_in", MLP[0], mlp, EPILOGUE),
    exact("softmax", &[256, 768]),
    row(
        "softmax_key_mask",
        &[2, 128, 768],
        |run| run.bytes(2 * 256 * 768) + (loads_a_sector(run) * 4 * 256 * 768) as f64,
        "the mask of 4 bytes a key, read by every row, in half precision by two loads a sector",
    ),
    row(
        "softmax_added_mask",
        &[2, 128, 768],
        |run| run.bytes(3 * 256 * 768),
        "the mask read by every row, for each of the two sequences",
    ),
    row(
        "layernorm",
        &[256, 768],
        |run| run.bytes(4 * 256 * 768) + 2.0 * 256.0 * SECTOR,
        "weight and bias once a row; mean and rstd",
    ),
    row(
        "residual_layernorm",
        &[256, 768],
        |run| run.bytes((6 + 5) * 256 * 768) + 2.0 * 256.0 * SECTOR,
        "weight and bias once a row; mean and rstd; the card's y - h/2, two launches",
    ),
    row("rmsnorm", &[256, 768], |run| run.bytes(3 * 256 * 768) + 256.0 * SECTOR, "weight once a row; rstd"),
    exact("gelu_tanh", &[256 * 768]),
    exact("gelu_erf", &[256 * 768]),
    row("attention_causal", &[1, 256, 256, 2, 64], |run| attention(run, true), KV),
    row("attention_masked", &[1, 256, 256, 2, 64], |run| attention(run, false) + mask(run, false), KV_MASK),
    row(
        "attention_causal_masked",
        &[1, 256, 256, 2, 64],
        |run| attention(run, true) + mask(run, true),
        KV_MASK,
    ),
    row("attention_dropout", &[1, 256, 256, 2, 64], |run| attention(run, true), KV),
    row(
        "attention_bias",
        &[2, 256, 256, 2, 64],
        |run| attention(run, false) + mask(run, false) + head_bias(run, false),
        BIAS,
    ),
    row(
        "attention_bias_causal_dropout",
        &[2, 256, 256, 2, 64],
        |run| attention(run, true) + mask(run, true) + head_bias(run, true),
        BIAS,
    ),
    row("attention_cache", &[1, 256, 256, 2, 64], |run| attention(run, true), KV),
    row(
        "attention_cache_bias",
        &[2, 256, 256, 2, 64],
        |run| attention(run, true) + head_bias(run, true),
        BIAS,
    ),
    row("attention_packed", &[1, 256, 256, 2, 64], |run| attention(run, true), KV),
    row(
        "attention_packed_masked",
        &[1, 256, 256, 2, 64],
        |run| attention(run, false) + mask(run, false),
        KV_MASK,
    ),
    row(
        "attention_packed_bias",
        &[2, 256, 256, 2, 64],
        |run| attention(run, false) + mask(run, false) + head_bias(run, false),
        BIAS,
    ),
    row(
        "embedding",
        &[256, 1000, 768],
        |run| run.card_bytes() + once_a_warp(run, 256 * 768),
        "an id once a warp",
    ),
    row(
        "gather_rows",
        &[256, 1000, 768],
        |run| run.card_bytes() + once_a_warp(run, 256 * 768),
        "an id once a warp",
    ),
    row(
        "dropout",
        &[256 * 768],
        |run| run.card_bytes() + once_a_warp(run, 256 * 768),
        "the step once a warp",
    ),
    exact("cross_entropy", &[64, 4096]),
    row("linear_cross_entropy", &[256, 1000, 64], logits, LOGITS),
    row("linear_cross_entropy_divisor", &[256, 1000, 64], logits, LOGITS),
    row(
        "linear_cross_entropy_bias",
        &[256, 1000, 64],
        |run| logits(run) + run.bytes(256 * 1000),
        LOGITS_BIAS,
    ),
];

const VIEWS: &[&str] = &["reshape", "transpose", "narrow"];

/// A scalar that every warp reads, each for 512 bytes of this many elements.
fn once_a_warp(run: &Run, numel: usize) -> f64 {
    run.bytes(numel) / WARP_BYTES * SECTOR
}

/// The last three sizes.
fn mnk(run: &Run) -> [usize; 3] {
    let from = run.sizes.len() - 3;
    [run.sizes[from], run.sizes[from + 1], run.sizes[from + 2]]
}

fn plan_of(run: &Run, batches: usize, may_split: bool) -> Plan {
    let [m, n, k] = mnk(run);
    let math = match run.dtype {
        DType::F16 => Math::F16,
        DType::BF16 => Math::Bf16,
        _ => Math::F32,
    };
    plan(Shape { m, n, k, batches }, math, run.room, may_split)
}

/// Operands of a product: lhs once per column of tiles, rhs once per row of tiles.
fn operands(run: &Run, plan: &Plan, batches: usize) -> f64 {
    let [m, n, k] = mnk(run);
    let (rows, cols) = (m.div_ceil(plan.tile.bm), n.div_ceil(plan.tile.bn));
    run.bytes(batches * (cols * m * k + rows * n * k))
}

/// One array of the shape of a product.
fn out(run: &Run) -> f64 {
    let [m, n, _] = mnk(run);
    run.bytes(m * n)
}

/// Operands and result; where K is split, the f32 parts written and read.
fn product(run: &Run, batches: usize) -> f64 {
    let [m, n, _] = mnk(run);
    let plan = plan_of(run, batches, true);
    let parts = if plan.splits > 1 { 2 * 4 * plan.splits * batches * m * n } else { 0 };
    operands(run, &plan, batches) + parts as f64 + batches as f64 * out(run)
}

/// A bias (N) for every row of out: a warp finishes 512 bytes of a tile, or of out itself where parts are summed.
fn bias(run: &Run) -> f64 {
    let plan = plan_of(run, 1, true);
    let row = run.bytes(if plan.splits > 1 { mnk(run)[1] } else { plan.tile.bn });
    out(run) * (row / WARP_BYTES).min(1.0)
}

/// Sizes of the MLP (R, N, H, K), and those of its two products.
const MLP: [&[usize]; 3] = [&[256, 192, 256, 192], &[256, 256, 192], &[256, 192, 256]];

/// The two layers of an MLP, one after the other.
fn mlp(run: &Run) -> f64 {
    let layer = |sizes| {
        let layer = Run { sizes, card: run.card, dtype: run.dtype, room: run.room };
        product(&layer, 1) + bias(&layer)
    };
    layer(MLP[1]) + layer(MLP[2])
}

/// The product in f32, and one pass over it.
fn logits(run: &Run) -> f64 {
    let [n, v, _] = mnk(run);
    operands(run, &plan_of(run, 1, false), 1) + (2 * 4 * n * v) as f64
}

/// Queries of a block, for heads of up to 64 (attention.cu, attention_f32.cu).
fn query_rows(run: &Run) -> usize {
    if run.dtype == DType::F32 { 64 } else { 128 }
}

/// Keys that the blocks of queries see, summed over the blocks of a head.
fn keys_seen(run: &Run, causal: bool) -> usize {
    let (t, rows) = (run.sizes[1], query_rows(run));
    (1..=t.div_ceil(rows)).map(|block| if causal { t.min(block * rows) } else { t }).sum()
}

/// q and out once, k and v as far as each block of queries sees, lse in f32.
fn attention(run: &Run, causal: bool) -> f64 {
    let [b, t, _, nh, hs] = *run.sizes else { unreachable!("attention's cards have five sizes") };
    run.bytes(b * nh * (2 * t + 2 * keys_seen(run, causal)) * hs) + (4 * b * nh * t) as f64
}

/// The mask (B, T) i32, by every warp of a block of queries.
fn mask(run: &Run, causal: bool) -> f64 {
    let [b, _, _, nh, _] = *run.sizes else { unreachable!("attention's cards have five sizes") };
    let times = if run.dtype == DType::F32 { 8 } else { 4 };
    (4 * b * nh * times * keys_seen(run, causal)) as f64
}

/// The bias (NH, T, T), cast to f32 once; then what each query sees of it, to the end of its tile of 64 keys, for every sequence.
fn head_bias(run: &Run, causal: bool) -> f64 {
    let [b, t, _, nh, _] = *run.sizes else { unreachable!("attention's cards have five sizes") };
    let seen = if causal { t * (t + 64) / 2 } else { t * t };
    let cast = if run.dtype == DType::F32 { 0 } else { (2 + 4) * nh * t * t };
    (cast + 4 * loads_a_sector(run) * b * nh * seen) as f64
}

/// Loads that meet in each sector of an array of 4 bytes an element, where a lane has eight halves or pairs of scores in a row.
fn loads_a_sector(run: &Run) -> usize {
    if run.dtype == DType::F32 { 1 } else { 2 }
}

/// The emulator's report, read launch by launch.
struct Report {
    path: PathBuf,
    read: usize,
}

impl Report {
    /// Bytes of global memory that the launches since the last call moved, and the kernels' names.
    fn moved(&mut self) -> (f64, Vec<String>) {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let new = text[self.read..].to_string();
        self.read = text.len();
        let (mut bytes, mut kernels) = (0.0, Vec::new());
        for line in new.lines() {
            let launch: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let classes = &launch["counters"]["total"]["classes"];
            let name = launch["kernel"].as_str().expect("a name").to_string();
            assert!(classes["Atomic"].is_null(), "{name} has atomics, whose sectors are not counted");
            let sectors = |class: &str| classes[class]["transfers"].as_f64().unwrap_or(0.0);
            bytes += SECTOR
                * ["LoadGlobal", "StoreGlobal", "Generic", "AsyncCopy"].map(sectors).iter().sum::<f64>();
            kernels.push(name);
        }
        (bytes, kernels)
    }
}

fn forward(run: &Run, device: Device) {
    let case = case(run.sizes, "traffic");
    let mut reader = Stream { seed: 1, stream: 2, step: 3 }.reader();
    let inputs: Vec<_> = (run.card.inputs)(&case, &mut reader)
        .iter()
        .map(|input| {
            let dtype = input_dtype(input, run.dtype);
            tensor(&rounded(&input.array, dtype), dtype).to_device(device).expect("on the device")
        })
        .collect();
    (run.card.forward)(&case, &inputs).expect("forward runs");
    device.synchronize().expect("ran");
}

/// Prints a row's line; what is wrong with it, if anything.
fn check(row: &Row, run: &Run, moved: f64, kernels: &[String]) -> Option<String> {
    let (card, planned) = (run.card_bytes(), (row.planned)(run));
    println!(
        "{:<28} {:<5} {moved:>9} {card:>9} {:>6.3} {:>8.3}  {}",
        row.card,
        run.dtype.to_string(),
        moved / card,
        moved / planned,
        row.why
    );
    // Not `moved > limit`: NaN must fail.
    let fine = moved >= card && moved <= SLACK * planned;
    (!fine).then(|| {
        format!(
            "{} {:?} {}: {kernels:?} move {moved} B, expected {card} (the card) to {SLACK} x {planned} (planned)",
            row.card, row.sizes, run.dtype
        )
    })
}

fn table(path: &Path) -> Vec<String> {
    let device = Device::emulator().expect("the emulated driver is built with the tests");
    let Device::Cuda(gpu) = device else { unreachable!("an emulated GPU") };
    let limits = gpu.limits();
    let room = Room {
        multiprocessors: limits.multiprocessors as usize,
        shared_bytes: limits.shared_bytes_per_block,
        wgmma: false,
    };
    let mut report = Report { path: path.to_owned(), read: 0 };
    let mut wrong = Vec::new();
    println!(
        "op                           dtype     bytes      card   /card /planned  more than the card because of"
    );
    for row in ROWS {
        let card = ALL.iter().find(|card| card.name == row.card).expect("a card of that name");
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // The card casts to f32: from f32 there is nothing to do.
            if row.card == "cast" && dtype == DType::F32 {
                continue;
            }
            let run = Run { card, sizes: row.sizes, dtype, room };
            forward(&run, device);
            let (moved, kernels) = report.moved();
            wrong.extend(check(row, &run, moved, &kernels));
        }
    }
    wrong
}

#[test]
fn launches_move_what_the_cards_and_the_plans_say() {
    let missing: Vec<&str> = ALL
        .iter()
        .map(|card| card.name)
        .filter(|name| !VIEWS.contains(name) && ROWS.iter().all(|row| row.card != *name))
        .collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    let path = std::env::temp_dir().join(format!("traffic-{}.json", std::process::id()));
    // SAFETY: this file's only test, and nothing has read the environment yet.
    unsafe { std::env::set_var("HANDLOOM_EMULATOR", format!("report={}", path.display())) };
    let wrong = table(&path);
    std::fs::remove_file(&path).expect("removed");
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}
