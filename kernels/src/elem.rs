//! What device memory holds.

/// Element type of a buffer. `F16` and `BF16` are storage only: kernels compute in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    F32,
    F16,
    BF16,
    I32,
}

impl Elem {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Elem::F32 | Elem::I32 => 4,
            Elem::F16 | Elem::BF16 => 2,
        }
    }

    /// The end of an entry's name.
    pub const fn suffix(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::F16 => "f16",
            Elem::BF16 => "bf16",
            Elem::I32 => "i32",
        }
    }

    /// Picks from a list written in the order f32, f16, bf16.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::error::Error::Argument) for i32.
    pub fn pick<T: Copy>(self, op: &'static str, list: [T; 3]) -> crate::error::Result<T> {
        match self {
            Elem::F32 => Ok(list[0]),
            Elem::F16 => Ok(list[1]),
            Elem::BF16 => Ok(list[2]),
            Elem::I32 => Err(crate::error::Error::argument(op, "takes f32, f16 or bf16, got i32".into())),
        }
    }
}
