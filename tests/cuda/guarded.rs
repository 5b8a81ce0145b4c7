//! Device arrays between guard bytes, for calling launchers directly.

use handloom_engine::check::oracle::round;
use handloom_engine::device::{Device, Gpu};
use handloom_engine::dtype::DType;
use handloom_engine::philox::{Reader, Stream};
use handloom_kernels::arena::Buffer;
use handloom_kernels::check::reference::{bytes, values};
use handloom_kernels::slice::{Slice, SliceMut};

/// Elements before and after an array.
const GUARD: usize = 64;
/// What guards and outputs hold before a launch: NaN in every float dtype.
const POISON: u8 = 0xff;

pub const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

pub fn gpu() -> &'static Gpu {
    match Device::emulator().expect("the emulated driver is built with the tests") {
        Device::Cuda(cuda) => cuda.gpu(),
        Device::Cpu => unreachable!("the emulator is a GPU"),
    }
}

pub fn reader(seed: u64) -> Reader {
    Stream { seed, stream: 0, step: 0 }.reader()
}

/// Normal values that `dtype` holds exactly.
pub fn normal(count: usize, mean: f64, dtype: DType, reader: &mut Reader) -> Vec<f64> {
    (0..count).map(|_| round(mean + reader.normal(), dtype)).collect()
}

/// An array that starts `shift` elements past a multiple of 16 bytes, between guards.
pub struct Guarded {
    buffer: Buffer,
    dtype: DType,
    first: usize,
    len: usize,
}

impl Guarded {
    /// Poisoned.
    pub fn output(len: usize, dtype: DType, shift: usize) -> Self {
        let first = GUARD + shift;
        let mut buffer = gpu().buffer(dtype.elem(), first + len + GUARD).expect("room");
        gpu().fill_bytes(buffer.slice_mut(), POISON).expect("fill");
        Guarded { buffer, dtype, first, len }
    }

    /// Holding these values, which `dtype` must hold exactly.
    pub fn input(values: &[f64], dtype: DType, shift: usize) -> Self {
        let mut array = Guarded::output(values.len(), dtype, shift);
        gpu().upload(array.slice_mut(), &bytes(values, dtype.elem())).expect("upload");
        array
    }

    pub fn slice(&self) -> Slice<'_> {
        self.buffer.slice().range(self.first..self.first + self.len)
    }

    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        self.buffer.slice_mut().range(self.first..self.first + self.len)
    }

    /// The values, after a check of the guards.
    #[track_caller]
    pub fn read(&self, what: &str) -> Vec<f64> {
        let size = self.dtype.size();
        let mut bytes = vec![0; (self.first + self.len + GUARD) * size];
        gpu().download(&mut bytes, self.buffer.slice()).expect("download");
        let (start, end) = (self.first * size, (self.first + self.len) * size);
        let broken = |bytes: &[u8]| bytes.iter().position(|byte| *byte != POISON);
        assert_eq!(broken(&bytes[..start]), None, "{what}: written before its start");
        assert_eq!(broken(&bytes[end..]), None, "{what}: written past its end");
        values(&bytes[start..end], self.dtype.elem())
    }
}
