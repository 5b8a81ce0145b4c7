//! Arithmetic of two tensors with broadcasting, and scaling.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::Result;
use crate::grid;
use crate::slice::{Arg, Slice, SliceMut};
use crate::view::{RANK, fold, run_fits};

const BINARY: [&str; 3] = ["elementwise_binary_f32", "elementwise_binary_f16", "elementwise_binary_bf16"];
const BROADCAST: [&str; 3] =
    ["elementwise_broadcast_f32", "elementwise_broadcast_f16", "elementwise_broadcast_bf16"];
const SCALE: [&str; 3] = ["elementwise_scale_f32", "elementwise_scale_f16", "elementwise_scale_bf16"];
const FILL: [&str; 3] = ["elementwise_fill_f32", "elementwise_fill_f16", "elementwise_fill_bf16"];

/// What an op of two inputs computes; the numbers are those of `elementwise.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Add = 0,
    Sub = 1,
    Mul = 2,
}

/// out = a op b, all of one length and dtype.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) when lengths or dtypes differ.
pub fn binary(gpu: &Gpu, op: Binary, out: SliceMut, a: Slice, b: Slice) -> Result<()> {
    const OP: &str = "elementwise_binary";
    let (elem, count) = (out.elem(), out.len());
    a.expect(OP, "a", elem, count)?;
    b.expect(OP, "b", elem, count)?;
    let entry = elem.pick(OP, BINARY)?;
    if count == 0 {
        return Ok(());
    }
    let vectors = grid::vectors(count, elem.size(), grid::aligned(&out, &[a, b]));
    let args = [
        Arg::from(&out),
        a.into(),
        b.into(),
        Arg::U64(count as u64),
        Arg::U64(vectors as u64),
        Arg::U32(op as u32),
    ];
    gpu.launch(entry, grid::walk(count, vectors, elem.size()), grid::BLOCK, 0, &args)
}

/// out (row-major of `shape`) = a op b, read with the strides given: 0 along what is repeated.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) for more than six dimensions that cannot be merged, sizes or strides above 2^32 - 1, or dtypes that differ.
pub fn broadcast(
    gpu: &Gpu,
    op: Binary,
    out: SliceMut,
    shape: &[usize],
    a: Slice,
    a_strides: &[usize],
    b: Slice,
    b_strides: &[usize],
) -> Result<()> {
    const OP: &str = "elementwise_broadcast";
    let elem = out.elem();
    let entry = elem.pick(OP, BROADCAST)?;
    let count = shape.iter().product::<usize>();
    out.expect(OP, "out", elem, count)?;
    if count == 0 {
        return Ok(());
    }
    let (size, [a_strides, b_strides]) = fold(OP, shape, [a_strides, b_strides])?;
    a.expect(OP, "a", elem, reach(&size, &a_strides))?;
    b.expect(OP, "b", elem, reach(&size, &b_strides))?;
    let run = grid::VECTOR / elem.size();
    let wide = out.is_aligned(16)
        && run_fits(a, &size, &a_strides, run, true)
        && run_fits(b, &size, &b_strides, run, true);
    let width = if wide { run } else { 1 };
    let mut args = vec![Arg::from(&out), a.into(), b.into()];
    for words in [size, a_strides, b_strides] {
        args.extend(words.map(Arg::U32));
    }
    let groups = count / width;
    args.extend([Arg::U64(groups as u64), Arg::U32(width as u32), Arg::U32(op as u32)]);
    gpu.launch(entry, grid::linear(groups), grid::BLOCK, 0, &args)
}

/// Elements from the first to the last that these strides reach.
pub(crate) fn reach(size: &[u32; RANK], strides: &[u32; RANK]) -> usize {
    1 + size.iter().zip(strides).map(|(size, stride)| (*size as usize - 1) * *stride as usize).sum::<usize>()
}

/// out = inp * factor * *device_factor, or out += that.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) when lengths or dtypes differ.
pub fn scale(
    gpu: &Gpu,
    out: SliceMut,
    inp: Slice,
    factor: f32,
    device_factor: Option<Slice>,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "elementwise_scale";
    inp.expect(OP, "inp", out.elem(), out.len())?;
    let address = Arg::Pointer(inp.address());
    let aligned = grid::aligned(&out, &[inp]);
    scale_from(gpu, out, address, aligned, factor, device_factor, accumulate)
}

/// x = x * factor * *device_factor.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) when the dtype is not a float.
pub fn scale_in_place(gpu: &Gpu, x: SliceMut, factor: f32, device_factor: Option<Slice>) -> Result<()> {
    let address = Arg::Pointer(x.address());
    let aligned = grid::aligned(&x, &[]);
    scale_from(gpu, x, address, aligned, factor, device_factor, false)
}

fn scale_from(
    gpu: &Gpu,
    out: SliceMut,
    inp: Arg,
    aligned: bool,
    factor: f32,
    device_factor: Option<Slice>,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "elementwise_scale";
    let (elem, count) = (out.elem(), out.len());
    let entry = elem.pick(OP, SCALE)?;
    if let Some(device_factor) = device_factor {
        device_factor.expect(OP, "device_factor", Elem::F32, 1)?;
    }
    if count == 0 {
        return Ok(());
    }
    let vectors = grid::vectors(count, elem.size(), aligned);
    let args = [
        Arg::from(&out),
        inp,
        Arg::optional(device_factor),
        Arg::U64(count as u64),
        Arg::U64(vectors as u64),
        Arg::F32(factor),
        Arg::U32(accumulate as u32),
    ];
    gpu.launch(entry, grid::walk(count, vectors, elem.size()), grid::BLOCK, 0, &args)
}

/// out = factor * *device_factor everywhere.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) when the dtype is not a float or there is no factor.
pub fn fill(gpu: &Gpu, out: SliceMut, factor: f32, device_factor: Slice) -> Result<()> {
    const OP: &str = "elementwise_fill";
    let (elem, count) = (out.elem(), out.len());
    let entry = elem.pick(OP, FILL)?;
    device_factor.expect(OP, "device_factor", Elem::F32, 1)?;
    if count == 0 {
        return Ok(());
    }
    let vectors = grid::vectors(count, elem.size(), grid::aligned(&out, &[]));
    let args = [
        Arg::from(&out),
        device_factor.into(),
        Arg::U64(count as u64),
        Arg::U64(vectors as u64),
        Arg::F32(factor),
    ];
    gpu.launch(entry, grid::walk(count, vectors, elem.size()), grid::BLOCK, 0, &args)
}
