//! Copies: up to three dimensions, between and within the host and the device.

use handloom_emulator::Error;

use crate::errors::*;
use crate::ffi::{In, Out};
use crate::ops::{Op, run_and_wait, submit};
use crate::state::*;

/// Where one end of a copy lies.
#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    Host(usize),
    Device(u64),
}

/// One end of a copy: the first byte, and the bytes from row to row and from slice to slice.
#[derive(Clone, Copy, PartialEq)]
pub struct Side {
    pub place: Place,
    pub pitch: usize,
    pub slice: usize,
}

/// `depth` slices of `height` rows of `width` bytes.
#[derive(Clone, Copy, PartialEq)]
pub struct Copy3 {
    pub from: Side,
    pub to: Side,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

pub fn bad(e: Error) -> Code {
    refuse(ERROR_INVALID_VALUE, e)
}

/// The range lies in one allocation of the device.
pub fn in_allocation(s: &State, address: u64, bytes: u64) -> Result<(), Code> {
    match s.device.memory().find(address) {
        Some(_) if s.device.memory().holds(address, bytes) => Ok(()),
        Some(_) => Err(bad(Error::Memory(format!(
            "{bytes} B at {address:#x} run past the end: it is {}",
            s.device.memory().describe(address)
        )))),
        // What a node will allocate is not there yet when a copy of it is captured.
        None if s.will_be_allocated(address, bytes) => Ok(()),
        None => Err(bad(Error::Memory(format!(
            "{bytes} B at {address:#x}: {}",
            s.device.memory().describe(address)
        )))),
    }
}

impl Side {
    /// Where a row starts; the sizes have been checked.
    fn row(&self, y: usize, z: usize) -> usize {
        let start = match self.place {
            Place::Host(p) => p,
            Place::Device(p) => p as usize,
        };
        start.wrapping_add(y.wrapping_mul(self.pitch)).wrapping_add(z.wrapping_mul(self.slice))
    }

    /// Bytes from the first to past the last.
    fn extent(&self, copy: &Copy3) -> Option<usize> {
        let rows = self.pitch.checked_mul(copy.height - 1)?;
        let slices = self.slice.checked_mul(copy.depth - 1)?;
        rows.checked_add(slices)?.checked_add(copy.width)
    }

    fn check(&self, s: &State, copy: &Copy3) -> Result<(), Code> {
        if copy.height > 1 && self.pitch < copy.width {
            return Err(ERROR_INVALID_VALUE);
        }
        match self.place {
            Place::Host(0) => Err(ERROR_INVALID_VALUE),
            Place::Host(_) => self.extent(copy).map(|_| ()).ok_or(ERROR_INVALID_VALUE),
            Place::Device(first) => {
                in_allocation(s, first, self.extent(copy).ok_or(ERROR_INVALID_VALUE)? as u64)
            }
        }
    }
}

impl Copy3 {
    /// A plain run of bytes.
    pub fn line(to: Place, from: Place, bytes: usize) -> Copy3 {
        let side = |place| Side { place, pitch: bytes, slice: bytes };
        Copy3 { from: side(from), to: side(to), width: bytes, height: 1, depth: 1 }
    }

    fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    pub fn check(&self, s: &State) -> Result<(), Code> {
        if self.is_empty() {
            return Ok(());
        }
        self.from.check(s, self).and_then(|_| self.to.check(s, self))
    }

    pub fn run(&self, s: &State) -> Result<(), Code> {
        self.check(s)?;
        if self.is_empty() {
            return Ok(());
        }
        for z in 0..self.depth {
            for y in 0..self.height {
                let (from, to) = (self.from.row(y, z), self.to.row(y, z));
                row(s, self.from.place, from, self.to.place, to, self.width)?;
            }
        }
        Ok(())
    }
}

fn row(s: &State, from: Place, source: usize, to: Place, target: usize, width: usize) -> Result<(), Code> {
    match (from, to) {
        (Place::Device(_), Place::Device(_)) => {
            s.device.memory().copy(target as u64, source as u64, width as u64).map_err(bad)
        }
        (Place::Host(_), Place::Device(_)) => {
            s.device.write(target as u64, In::at(source).bytes(width)?).map_err(bad)
        }
        (Place::Device(_), Place::Host(_)) => {
            // The host's buffer may be uninitialised: it is written from a copy, never read.
            let mut copy = vec![0; width];
            s.device.read(source as u64, &mut copy).map_err(bad)?;
            Out::<u8>::at(target).put_bytes(&copy)
        }
        (Place::Host(_), Place::Host(_)) => {
            let copy = In::at(source).bytes(width)?.to_vec(); // the two may overlap
            Out::<u8>::at(target).put_bytes(&copy)
        }
    }
}

/// Whose an address is, for calls that take either kind. One that the device has taken back is still the device's.
pub fn place(s: &State, address: u64) -> Place {
    let memory = s.device.memory();
    match memory.is_of_device(address) || memory.find(address).is_some() {
        true => Place::Device(address),
        false => Place::Host(address as usize),
    }
}

// plain copies ----------------------------------------------------------------------------------------------------

fn to_device(to: u64, from: In<u8>, bytes: usize) -> Op {
    Op::Copy(Copy3::line(Place::Device(to), Place::Host(from.address()), bytes))
}

fn to_host(to: Out<u8>, from: u64, bytes: usize) -> Op {
    Op::Copy(Copy3::line(Place::Host(to.address()), Place::Device(from), bytes))
}

fn within_device(to: u64, from: u64, bytes: usize) -> Op {
    Op::Copy(Copy3::line(Place::Device(to), Place::Device(from), bytes))
}

fn anywhere(to: u64, from: u64, bytes: usize) -> Result<Op, Code> {
    let s = working()?;
    Ok(Op::Copy(Copy3::line(place(&s, to), place(&s, from), bytes)))
}

pub fn in_stream(stream: Handle, op: Op) -> Code {
    code(working().and_then(|s| submit(s, stream, op)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, from: In<u8>, bytes: usize) -> Code {
    code(run_and_wait(to_device(to, from, bytes)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(to: Out<u8>, from: u64, bytes: usize) -> Code {
    code(run_and_wait(to_host(to, from, bytes)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Code {
    code(run_and_wait(within_device(to, from, bytes)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> Code {
    code(anywhere(to, from, bytes).and_then(run_and_wait))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: In<u8>, bytes: usize, stream: Handle) -> Code {
    in_stream(stream, to_device(to, from, bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: Out<u8>, from: u64, bytes: usize, stream: Handle) -> Code {
    in_stream(stream, to_host(to, from, bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> Code {
    in_stream(stream, within_device(to, from, bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) -> Code {
    match anywhere(to, from, bytes) {
        Ok(op) => in_stream(stream, op),
        Err(code) => code,
    }
}

/// There is one device: a peer is the device itself.
fn peers(s: &State, a: Handle, b: Handle) -> Result<(), Code> {
    let known = |c: Handle| s.contexts.contains_key(&(c as usize));
    if known(a) && known(b) { Ok(()) } else { Err(ERROR_INVALID_CONTEXT) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeer(
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    n: usize,
) -> Code {
    let checked = working().and_then(|s| peers(&s, to_context, from_context));
    code(checked.and_then(|_| anywhere(to, from, n)).and_then(run_and_wait))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    bytes: usize,
    stream: Handle,
) -> Code {
    match working().and_then(|s| peers(&s, to_context, from_context)) {
        Ok(()) => cuMemcpyAsync(to, from, bytes, stream),
        Err(code) => code,
    }
}

// copies in two and three dimensions ------------------------------------------------------------------------------

/// CUmemorytype.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

/// One end of CUDA_MEMCPY2D.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Side2 {
    x: usize,
    y: usize,
    memory_type: u32,
    host: usize,
    device: u64,
    array: usize,
    pitch: usize,
}

/// CUDA_MEMCPY2D.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memcpy2 {
    from: Side2,
    to: Side2,
    width: usize,
    height: usize,
}

/// One end of CUDA_MEMCPY3D.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Side3 {
    x: usize,
    y: usize,
    z: usize,
    lod: usize,
    memory_type: u32,
    host: usize,
    device: u64,
    array: usize,
    reserved: usize,
    pitch: usize,
    height: usize,
}

/// CUDA_MEMCPY3D.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Memcpy3 {
    from: Side3,
    to: Side3,
    width: usize,
    height: usize,
    depth: usize,
}

impl Side3 {
    /// Bytes from row to row, from slice to slice, and to the first; 0 as pitch or height means tightly packed.
    fn layout(&self, copy: &Memcpy3) -> Option<(usize, usize, usize)> {
        let pitch = if self.pitch == 0 { copy.width.checked_add(self.x)? } else { self.pitch };
        let height = if self.height == 0 { copy.height.checked_add(self.y)? } else { self.height };
        let slice = pitch.checked_mul(height)?;
        let start =
            self.x.checked_add(self.y.checked_mul(pitch)?)?.checked_add(self.z.checked_mul(slice)?)?;
        Some((pitch, slice, start))
    }

    fn side(&self, s: &State, copy: &Memcpy3) -> Result<Side, Code> {
        let (pitch, slice, start) = self.layout(copy).ok_or(ERROR_INVALID_VALUE)?;
        let place = match self.memory_type {
            HOST => Place::Host(self.host.wrapping_add(start)),
            DEVICE => Place::Device(self.device.wrapping_add(start as u64)),
            UNIFIED => place(s, self.device.wrapping_add(start as u64)),
            ARRAY => {
                say_once("array", "copies of CUDA arrays are not supported");
                return Err(ERROR_NOT_SUPPORTED);
            }
            _ => return Err(ERROR_INVALID_VALUE),
        };
        Ok(Side { place, pitch, slice })
    }

    fn of(side: &Side, copy: &Copy3) -> Side3 {
        let height = side.slice.checked_div(side.pitch).unwrap_or(copy.height);
        let (memory_type, host, device) = match side.place {
            Place::Host(p) => (HOST, p, 0),
            Place::Device(p) => (DEVICE, 0, p),
        };
        Side3 { memory_type, host, device, pitch: side.pitch, height, ..Side3::default() }
    }
}

impl Memcpy3 {
    pub fn copy(&self, s: &State) -> Result<Copy3, Code> {
        Ok(Copy3 {
            from: self.from.side(s, self)?,
            to: self.to.side(s, self)?,
            width: self.width,
            height: self.height,
            depth: self.depth,
        })
    }

    pub fn of(copy: &Copy3) -> Memcpy3 {
        Memcpy3 {
            from: Side3::of(&copy.from, copy),
            to: Side3::of(&copy.to, copy),
            width: copy.width,
            height: copy.height,
            depth: copy.depth,
        }
    }
}

impl From<Memcpy2> for Memcpy3 {
    fn from(c: Memcpy2) -> Memcpy3 {
        let side = |s: Side2| Side3 {
            x: s.x,
            y: s.y,
            memory_type: s.memory_type,
            host: s.host,
            device: s.device,
            array: s.array,
            pitch: s.pitch,
            ..Side3::default()
        };
        Memcpy3 { from: side(c.from), to: side(c.to), width: c.width, height: c.height, depth: 1 }
    }
}

fn structured(copy: Memcpy3) -> Result<Op, Code> {
    Ok(Op::Copy(copy.copy(&*working()?)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2D_v2(copy: In<Memcpy2>) -> Code {
    code(copy.get().and_then(|c| structured(c.into())).and_then(run_and_wait))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2DUnaligned_v2(copy: In<Memcpy2>) -> Code {
    cuMemcpy2D_v2(copy)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2DAsync_v2(copy: In<Memcpy2>, stream: Handle) -> Code {
    code(copy.get().and_then(|c| structured(c.into())).and_then(|op| submit(working()?, stream, op)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy3D_v2(copy: In<Memcpy3>) -> Code {
    code(copy.get().and_then(structured).and_then(run_and_wait))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy3DAsync_v2(copy: In<Memcpy3>, stream: Handle) -> Code {
    code(copy.get().and_then(structured).and_then(|op| submit(working()?, stream, op)))
}
