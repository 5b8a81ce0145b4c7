//! Borrowed device memory: what launchers take.
//!
//! A slice borrows the buffer it points into, so that the memory outlives the launch's enqueueing; the arena returns memory in
//! stream order, so that it outlives the kernel too.

use std::marker::PhantomData;

use crate::elem::Elem;
use crate::error::{Error, Result};

/// Device memory that a kernel reads.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    address: u64,
    len: usize,
    elem: Elem,
    owner: PhantomData<&'a ()>,
}

/// Device memory that a kernel writes.
#[derive(Debug)]
pub struct SliceMut<'a> {
    slice: Slice<'a>,
    owner: PhantomData<&'a mut ()>,
}

impl<'a> Slice<'a> {
    /// # Safety
    /// `len` elements from `address` on must be device memory that stays allocated for `'a`.
    pub(crate) unsafe fn new(address: u64, len: usize, elem: Elem) -> Self {
        Slice { address, len, elem, owner: PhantomData }
    }

    /// Device address of the first element.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Elements from the first one to the end.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn elem(&self) -> Elem {
        self.elem
    }

    /// The elements from `start` on.
    ///
    /// # Panics
    /// When `start` is past the end: a bug of the caller, who knows the length.
    pub fn offset(self, start: usize) -> Self {
        assert!(start <= self.len, "bug in the caller of Slice::offset: {start} of {}", self.len);
        Slice { address: self.address + (start * self.elem.size()) as u64, len: self.len - start, ..self }
    }

    /// Elements `range.start..range.end`.
    ///
    /// # Panics
    /// As [`Slice::offset`].
    pub fn range(self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "bug in the caller of Slice::range");
        Slice { len: range.end - range.start, ..self.offset(range.start) }
    }

    /// Checks dtype and that at least `len` elements are there.
    ///
    /// # Errors
    /// [`Error::Argument`] naming op, argument, expected and got.
    pub fn expect(&self, op: &'static str, what: &str, elem: Elem, len: usize) -> Result<()> {
        if self.elem != elem {
            let (want, got) = (elem.suffix(), self.elem.suffix());
            return Err(Error::argument(op, format!("{what} is {got}, expected {want}")));
        }
        if self.len < len {
            return Err(Error::argument(op, format!("{what} holds {} elements, expected {len}", self.len)));
        }
        Ok(())
    }

    /// Whether the address is a multiple of `bytes`.
    pub fn is_aligned(&self, bytes: u64) -> bool {
        self.address.is_multiple_of(bytes)
    }
}

impl<'a> SliceMut<'a> {
    /// # Safety
    /// As [`Slice::new`], and nothing else may use the memory during `'a`.
    pub(crate) unsafe fn new(address: u64, len: usize, elem: Elem) -> Self {
        // SAFETY: the caller's promise covers it.
        SliceMut { slice: unsafe { Slice::new(address, len, elem) }, owner: PhantomData }
    }

    /// The same memory for reading.
    pub fn as_slice(&self) -> Slice<'_> {
        Slice { owner: PhantomData, ..self.slice }
    }

    /// The same memory for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_> {
        SliceMut { slice: Slice { owner: PhantomData, ..self.slice }, owner: PhantomData }
    }

    /// As [`Slice::offset`].
    pub fn offset(self, start: usize) -> Self {
        SliceMut { slice: self.slice.offset(start), owner: PhantomData }
    }

    /// As [`Slice::range`].
    pub fn range(self, range: std::ops::Range<usize>) -> Self {
        SliceMut { slice: self.slice.range(range), owner: PhantomData }
    }

    pub fn address(&self) -> u64 {
        self.slice.address
    }

    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.slice.len
    }

    pub fn elem(&self) -> Elem {
        self.slice.elem
    }

    /// As [`Slice::expect`].
    ///
    /// # Errors
    /// As [`Slice::expect`].
    pub fn expect(&self, op: &'static str, what: &str, elem: Elem, len: usize) -> Result<()> {
        self.slice.expect(op, what, elem, len)
    }

    /// As [`Slice::is_aligned`].
    pub fn is_aligned(&self, bytes: u64) -> bool {
        self.slice.is_aligned(bytes)
    }
}

/// What a tensor copy of sm_90 (TMA) reads: address, sizes and strides of a tensor, box and swizzle of a copy, as the driver encodes
/// them. See [`Gpu::tensor_map`](crate::device::Gpu::tensor_map).
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct TensorMap(pub(crate) [u64; 16]);

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    TensorMap(TensorMap),
    Pointer(u64),
    U64(u64),
    U32(u32),
    I32(i32),
    F32(f32),
}

impl Arg {
    /// A null pointer, for an optional array that is absent.
    pub const NULL: Arg = Arg::Pointer(0);

    /// The pointer of an optional array.
    pub fn optional(slice: Option<Slice>) -> Arg {
        slice.map_or(Arg::NULL, Arg::from)
    }
}

impl From<Slice<'_>> for Arg {
    fn from(slice: Slice) -> Arg {
        Arg::Pointer(slice.address)
    }
}

impl From<&SliceMut<'_>> for Arg {
    fn from(slice: &SliceMut) -> Arg {
        Arg::Pointer(slice.slice.address)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Arg {
        Arg::U32(value)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Arg {
        Arg::I32(value)
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Arg {
        Arg::U64(value)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Arg {
        Arg::F32(value)
    }
}
