//! Flash attention, forward and backward: attention.cu, attention_backward.cu (tensor cores), attention_f32.cu (true FP32).

use crate::device::Gpu;
use crate::dropout::Draws;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid;
use crate::slice::{Arg, Slice, SliceMut};

const OP: &str = "attention";

/// Entries by class of head sizes, then by dtype in the order f32, f16, bf16.
const FORWARD: [[&str; 3]; 2] = [
    ["attention_forward_hs64_f32", "attention_forward_hs64_f16", "attention_forward_hs64_bf16"],
    ["attention_forward_hs128_f32", "attention_forward_hs128_f16", "attention_forward_hs128_bf16"],
];
const BACKWARD_QUERIES: [[&str; 3]; 2] = [
    [
        "attention_backward_queries_hs64_f32",
        "attention_backward_queries_hs64_f16",
        "attention_backward_queries_hs64_bf16",
    ],
    [
        "attention_backward_queries_hs128_f32",
        "attention_backward_queries_hs128_f16",
        "attention_backward_queries_hs128_bf16",
    ],
];
const BACKWARD_KEYS: [[&str; 3]; 2] = [
    [
        "attention_backward_keys_hs64_f32",
        "attention_backward_keys_hs64_f16",
        "attention_backward_keys_hs64_bf16",
    ],
    [
        "attention_backward_keys_hs128_f32",
        "attention_backward_keys_hs128_f16",
        "attention_backward_keys_hs128_bf16",
    ],
];
const BACKWARD_BIAS: [&str; 3] =
    ["attention_backward_bias_f32", "attention_backward_bias_f16", "attention_backward_bias_bf16"];

/// Largest head size that the kernels take.
pub const MAX_HEAD_SIZE: usize = 128;

/// Sizes and options of one call.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_size: usize,
    /// Query i sees keys 0 ..= keys - queries + i only.
    pub causal: bool,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// Attention weights are dropped with this probability. Row (b, h, i) of the weights takes its draws from word
    /// ((b * heads + h) * queries + i) * ceil(keys / 4) on.
    pub dropout: Option<(f32, Draws<'a>)>,
    /// (batch, keys) i32: 0 hides a key from every query.
    pub key_mask: Option<Slice<'a>>,
    /// (heads, queries, keys) f32, added to the scaled scores.
    pub bias: Option<Slice<'a>>,
}

/// One of q, k, v: element (b, t, h, d) at `b * batch_stride + t * row_stride + h * head_size + d`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    pub data: Slice<'a>,
    pub batch_stride: usize,
    pub row_stride: usize,
}

/// The same for a gradient.
#[derive(Debug)]
pub struct HeadsMut<'a> {
    pub data: SliceMut<'a>,
    pub batch_stride: usize,
    pub row_stride: usize,
}

/// Where the three gradients go.
#[derive(Debug)]
pub enum Gradients<'a> {
    /// Each to its own array.
    Apart { dq: HeadsMut<'a>, dk: HeadsMut<'a>, dv: HeadsMut<'a> },
    /// Side by side in one (batch, T, 3 * heads * head_size).
    Packed(SliceMut<'a>),
}

/// What forward left for backward, and the gradient that comes in.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// (batch, queries, heads, head_size), as `dout`.
    pub out: Slice<'a>,
    /// (batch, heads, queries) f32: log2 of the sum of e^score.
    pub lse: Slice<'a>,
    pub dout: Slice<'a>,
}

/// Tile sizes of a kernel family, as its source says them.
struct Tiles {
    threads: u32,
    /// Columns of a tile: head sizes up to this.
    cols: usize,
    /// Queries a forward block.
    forward_rows: usize,
    /// Queries or keys a backward block, and keys a step of it.
    rows: usize,
    /// Queries a step of the keys' gradients.
    step: usize,
    /// Whether the next tile is loaded while one is multiplied.
    stages: usize,
    elem: usize,
}

impl Tiles {
    fn new(elem: Elem, class: usize) -> Tiles {
        let cols = [64, 128][class];
        match elem {
            Elem::F32 => {
                let rows = [64, 32][class];
                Tiles { threads: 256, cols, forward_rows: rows, rows, step: rows, stages: 1, elem: 4 }
            }
            _ => Tiles {
                threads: 128,
                cols,
                forward_rows: [128, 64][class],
                rows: 64,
                step: [64, 32][class],
                stages: 2,
                elem: 2,
            },
        }
    }

    /// Weights on their way between two products, which tensor cores keep in registers.
    fn weights_bytes(&self) -> usize {
        if self.elem == 4 { self.rows * self.rows * 4 } else { 0 }
    }

    fn forward_bytes(&self) -> usize {
        (self.forward_rows + self.stages * 2 * self.rows) * self.cols * self.elem + self.weights_bytes()
    }

    fn queries_bytes(&self) -> usize {
        (2 + self.stages * 2) * self.rows * self.cols * self.elem + self.weights_bytes()
    }

    fn keys_bytes(&self) -> usize {
        let tiles = (2 * self.rows + self.stages * 2 * self.step) * self.cols * self.elem;
        tiles + self.stages * self.step * 8 + self.weights_bytes()
    }
}

/// An array of heads as the kernels take it.
#[derive(Clone, Copy)]
struct Place {
    address: u64,
    batch_stride: usize,
    row_stride: usize,
}

impl Place {
    fn args(&self) -> [Arg; 3] {
        [Arg::Pointer(self.address), Arg::U64(self.batch_stride as u64), Arg::U64(self.row_stride as u64)]
    }

    /// Whether every row of every head starts at a multiple of 16 bytes.
    fn is_aligned(&self, size: usize, head_size: usize) -> bool {
        self.address.is_multiple_of(16)
            && [self.batch_stride, self.row_stride, head_size].iter().all(|n| (n * size).is_multiple_of(16))
    }
}

fn wrong(message: String) -> Error {
    Error::argument(OP, message)
}

impl Attention<'_> {
    fn class(&self) -> usize {
        (self.head_size > 64) as usize
    }

    /// Elements from the first to the last of `rows` rows a sequence.
    fn span(&self, batch_stride: usize, row_stride: usize, rows: usize) -> usize {
        (self.batch - 1) * batch_stride + (rows - 1) * row_stride + self.heads * self.head_size
    }

    fn place(&self, what: &str, elem: Elem, heads: Heads, rows: usize) -> Result<Place> {
        let Heads { data, batch_stride, row_stride } = heads;
        data.expect(OP, what, elem, self.span(batch_stride, row_stride, rows))?;
        Ok(Place { address: data.address(), batch_stride, row_stride })
    }

    /// The place of an array (batch, queries, heads, head_size) without gaps.
    fn packed(&self, what: &str, elem: Elem, data: Slice) -> Result<Place> {
        let row_stride = self.heads * self.head_size;
        self.place(
            what,
            elem,
            Heads { data, batch_stride: self.queries * row_stride, row_stride },
            self.queries,
        )
    }

    fn is_empty(&self) -> bool {
        self.batch * self.heads * self.queries * self.head_size == 0
    }

    /// Checks what does not depend on the arrays' places.
    fn check(&self) -> Result<()> {
        let Attention { batch, heads, queries, keys, head_size, .. } = *self;
        if head_size > MAX_HEAD_SIZE {
            return Err(wrong(format!(
                "head size is {head_size}, the GPU's kernels take at most {MAX_HEAD_SIZE}"
            )));
        }
        if keys == 0 {
            return Err(wrong("there are no keys; the output is 0 and needs no kernel".into()));
        }
        if self.causal && keys < queries {
            return Err(wrong(format!(
                "causal needs at least as many keys as queries, got {keys} < {queries}"
            )));
        }
        grid::blocks(OP, "batch * heads", batch * heads)?;
        if let Some((what, size)) =
            [("queries", queries), ("keys", keys)].into_iter().find(|(_, size)| *size > 65535 * 32)
        {
            return Err(wrong(format!("{what} is {size}, a grid has room for {}", 65535 * 32)));
        }
        if let Some(mask) = self.key_mask {
            mask.expect(OP, "key_mask", Elem::I32, batch * keys)?;
        }
        if let Some(bias) = self.bias {
            bias.expect(OP, "bias", Elem::F32, heads * queries * keys)?;
        }
        if let Some((drop_prob, draws)) = self.dropout {
            if !(0.0..1.0).contains(&drop_prob) {
                return Err(wrong(format!("drop_prob is {drop_prob}, expected 0 <= drop_prob < 1")));
            }
            if let Some(step) = draws.device_step {
                step.expect(OP, "device_step", Elem::I32, 1)?;
            }
        }
        Ok(())
    }

    /// ATTENTION_PARAMETERS of attention.cuh.
    fn args(&self, inputs: [Place; 3], aligned: bool) -> Vec<Arg> {
        let mut args: Vec<Arg> = inputs.iter().flat_map(Place::args).collect();
        let none = Draws { seed: 0, stream: 0, step: 0, device_step: None };
        let (drop_prob, draws) = self.dropout.unwrap_or((0.0, none));
        args.extend([
            Arg::optional(self.key_mask),
            Arg::optional(self.bias),
            Arg::optional(draws.device_step),
            Arg::U64(draws.seed),
            Arg::U32(draws.stream),
            Arg::U32(draws.step),
            // A draw has 24 bits.
            Arg::U32((drop_prob * 16_777_216.0) as u32),
            Arg::F32(1.0 / (1.0 - drop_prob)),
            Arg::I32(self.heads as i32),
            Arg::I32(self.queries as i32),
            Arg::I32(self.keys as i32),
            Arg::I32(self.head_size as i32),
            Arg::F32(self.scale),
            Arg::I32(self.causal as i32),
            Arg::I32(aligned as i32),
        ]);
        args
    }

    fn inputs(&self, elem: Elem, q: Heads, k: Heads, v: Heads) -> Result<[Place; 3]> {
        Ok([
            self.place("q", elem, q, self.queries)?,
            self.place("k", elem, k, self.keys)?,
            self.place("v", elem, v, self.keys)?,
        ])
    }

    /// Places of dq, dk and dv.
    fn targets(&self, elem: Elem, gradients: Gradients) -> Result<[Place; 3]> {
        match gradients {
            Gradients::Apart { dq, dk, dv } => {
                let place = |what, heads: HeadsMut, rows| {
                    let HeadsMut { data, batch_stride, row_stride } = heads;
                    if row_stride < self.heads * self.head_size {
                        let (heads, size) = (self.heads, self.head_size);
                        let message = format!(
                            "{what} has rows {row_stride} elements apart, expected {heads} heads of {size}"
                        );
                        return Err(wrong(message));
                    }
                    self.place(what, elem, Heads { data: data.as_slice(), batch_stride, row_stride }, rows)
                };
                Ok([place("dq", dq, self.queries)?, place("dk", dk, self.keys)?, place("dv", dv, self.keys)?])
            }
            Gradients::Packed(dqkv) => {
                if self.queries != self.keys {
                    let (queries, keys) = (self.queries, self.keys);
                    return Err(wrong(format!(
                        "packed gradients need as many keys as queries, got {keys} and {queries}"
                    )));
                }
                let cols = self.heads * self.head_size;
                let (batch_stride, row_stride) = (3 * self.queries * cols, 3 * cols);
                dqkv.expect(OP, "dqkv", elem, self.batch * batch_stride)?;
                let place = |part: usize| Place {
                    address: dqkv.address() + (part * cols * elem.size()) as u64,
                    batch_stride,
                    row_stride,
                };
                Ok([place(0), place(1), place(2)])
            }
        }
    }

    /// Grid of a kernel whose blocks own `rows` of `count` rows of each head.
    fn grid(&self, count: usize, rows: usize) -> [u32; 3] {
        [(self.batch * self.heads) as u32, count.div_ceil(rows) as u32, 1]
    }

    /// out (batch, queries, heads, head_size), lse (batch, heads, queries) f32, log2 of the sum of e^score; both overwritten.
    ///
    /// # Errors
    /// [`Error::Argument`] when an array is too short or of another dtype, the head size is above [`MAX_HEAD_SIZE`], there are no
    /// keys, or with `causal` fewer keys than queries.
    pub fn forward(
        &self,
        gpu: &Gpu,
        out: SliceMut,
        lse: SliceMut,
        q: Heads,
        k: Heads,
        v: Heads,
    ) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.check()?;
        let elem = out.elem();
        let entry = elem.pick(OP, FORWARD[self.class()])?;
        let inputs = self.inputs(elem, q, k, v)?;
        let place = self.packed("out", elem, out.as_slice())?;
        lse.expect(OP, "lse", Elem::F32, self.batch * self.heads * self.queries)?;
        let aligned =
            inputs.iter().chain([&place]).all(|place| place.is_aligned(elem.size(), self.head_size));
        let mut args = vec![Arg::from(&out), Arg::from(&lse)];
        args.extend(self.args(inputs, aligned));
        let tiles = Tiles::new(elem, self.class());
        let grid = self.grid(self.queries, tiles.forward_rows);
        gpu.launch(entry, grid, [tiles.threads, 1, 1], tiles.forward_bytes(), &args)
    }

    /// dq, dk, dv of the dtype of q: overwritten, or with `accumulate` added to. dbias (heads, queries, keys) f32 where asked for, by
    /// its own flag.
    ///
    /// # Errors
    /// As [`Attention::forward`], and [`Error::OutOfMemory`] without room for two floats a query and head.
    pub fn backward(
        &self,
        gpu: &'static Gpu,
        gradients: Gradients,
        dbias: Option<(SliceMut, bool)>,
        saved: Saved,
        q: Heads,
        k: Heads,
        v: Heads,
        accumulate: bool,
    ) -> Result<()> {
        if self.is_empty() {
            return match dbias {
                Some((dbias, false)) => gpu.fill_zero(dbias),
                _ => Ok(()),
            };
        }
        self.check()?;
        let (elem, class) = (q.data.elem(), self.class());
        let inputs = self.inputs(elem, q, k, v)?;
        let targets = self.targets(elem, gradients)?;
        let rows = [self.packed("out", elem, saved.out)?, self.packed("dout", elem, saved.dout)?];
        saved.lse.expect(OP, "lse", Elem::F32, self.batch * self.heads * self.queries)?;
        let aligned = inputs
            .iter()
            .chain(&targets)
            .chain(&rows)
            .all(|place| place.is_aligned(elem.size(), self.head_size));
        let problem = self.args(inputs, aligned);
        let tiles = Tiles::new(elem, class);
        let block = [tiles.threads, 1, 1];
        let [dq, dk, dv] = targets;
        let accumulate = Arg::I32(accumulate as i32);

        // {lse, delta} of each query; rows of an even number, so that 16 bytes hold two queries.
        let stats_len = 2 * self.batch * self.heads * self.queries.next_multiple_of(2);
        let mut stats = gpu.buffer(Elem::F32, stats_len)?;
        let mut args = dq.args().to_vec();
        args.push(Arg::from(&stats.slice_mut()));
        args.extend([saved.dout.into(), saved.out.into(), saved.lse.into(), accumulate]);
        args.extend(&problem);
        let entry = elem.pick(OP, BACKWARD_QUERIES[class])?;
        gpu.launch(entry, self.grid(self.queries, tiles.rows), block, tiles.queries_bytes(), &args)?;

        let stats = Arg::from(stats.slice());
        let mut args = [dk.args(), dv.args()].concat();
        args.extend([stats, saved.dout.into(), accumulate]);
        args.extend(&problem);
        let entry = elem.pick(OP, BACKWARD_KEYS[class])?;
        gpu.launch(entry, self.grid(self.keys, tiles.rows), block, tiles.keys_bytes(), &args)?;

        let Some((dbias, added_to)) = dbias else { return Ok(()) };
        dbias.expect(OP, "dbias", Elem::F32, self.heads * self.queries * self.keys)?;
        let mut args = vec![
            Arg::from(&dbias),
            stats,
            saved.dout.into(),
            Arg::I32(added_to as i32),
            Arg::I32(self.batch as i32),
        ];
        args.extend(&problem);
        let tiles = Tiles::new(elem, 1);
        let blocks = |size: usize| size.div_ceil(tiles.rows) as u32;
        let grid = [blocks(self.keys), blocks(self.queries), self.heads as u32];
        let bytes = 4 * tiles.rows * tiles.cols * tiles.elem;
        gpu.launch(elem.pick(OP, BACKWARD_BIAS)?, grid, block, bytes, &args)
    }
}
