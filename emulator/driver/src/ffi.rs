//! Arguments as C passes them. A pointer of the API becomes an [`Out`], an [`In`] or a [`Text`], which check for null and
//! hold the only `unsafe` that most functions of this crate need: the API's contract says that a pointer which is not
//! null is valid for what the function reads or writes through it.

use std::ffi::{CStr, c_char};

use crate::errors::{Code, ERROR_INVALID_VALUE};

/// A pointer to one result, or to an array of them.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    pub const NULL: Out<T> = Out(std::ptr::null_mut());

    #[cfg(test)]
    pub fn new(to: &mut T) -> Out<T> {
        Out(to)
    }

    pub fn at(address: usize) -> Out<T> {
        Out(address as *mut T)
    }

    pub fn address(self) -> usize {
        self.0 as usize
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn required(self) -> Result<(), Code> {
        if self.0.is_null() { Err(ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    pub fn put(self, value: T) -> Result<(), Code> {
        self.put_at(0, value)
    }

    /// Writes element `i` of an array.
    pub fn put_at(self, i: usize, value: T) -> Result<(), Code> {
        self.required()?;
        // SAFETY: not null, hence valid by the API's contract. Callers of C may not align: write without assuming it.
        unsafe { self.0.add(i).write_unaligned(value) };
        Ok(())
    }

    /// Writes where the caller wants the result, and nothing where it does not.
    pub fn put_if_wanted(self, value: T) {
        let _ = self.put(value); // the only failure is a null pointer: not wanted
    }

    /// Reads what is there, for arguments that are read and then written.
    pub fn get(self) -> Result<T, Code>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// Copies bytes there.
    pub fn put_bytes(self, bytes: &[u8]) -> Result<(), Code> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.required()?;
        // SAFETY: valid for what the API says is written; a slice of ours cannot overlap the caller's buffer.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.cast(), bytes.len()) };
        Ok(())
    }

    /// Writes text into a buffer of `size` bytes, cut to fit, with its end marked.
    pub fn put_text(self, text: &str, size: usize) -> Result<(), Code> {
        if size == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let mut bytes = text.as_bytes()[..text.len().min(size - 1)].to_vec();
        bytes.push(0);
        self.put_bytes(&bytes)
    }
}

/// A pointer to one value that is read, or to an array of them.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> In<T> {
    pub const NULL: In<T> = In(std::ptr::null());

    pub fn at(address: usize) -> In<T> {
        In(address as *const T)
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn address(self) -> usize {
        self.0 as usize
    }
}

impl<T: Copy> In<T> {
    pub fn get(self) -> Result<T, Code> {
        self.get_at(0)
    }

    /// Reads element `i` of an array.
    pub fn get_at(self, i: usize) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: not null, hence valid by the API's contract; no alignment is assumed.
        Ok(unsafe { self.0.add(i).read_unaligned() })
    }

    /// The first `count` elements.
    pub fn list(self, count: usize) -> Result<Vec<T>, Code> {
        (0..count).map(|i| self.get_at(i)).collect()
    }
}

impl In<u8> {
    /// `count` bytes, borrowed for the length of a call.
    pub fn bytes<'a>(self, count: usize) -> Result<&'a [u8], Code> {
        if count == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: valid for `count` bytes by the API's contract, while the call lasts.
        Ok(unsafe { std::slice::from_raw_parts(self.0, count) })
    }
}

/// A C string.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    /// # Errors
    /// `ERROR_INVALID_VALUE` for a null pointer.
    pub fn get(self) -> Result<String, Code> {
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: a C string by the API's contract.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_an_error_and_text_is_cut_to_its_buffer() {
        assert_eq!(In::<u32>::NULL.get(), Err(ERROR_INVALID_VALUE));
        assert!(In::at(0).bytes(0).is_ok());
        let mut buffer = [b'x'; 4];
        Out::new(&mut buffer).put_text("emulated", 4).unwrap();
        assert_eq!(&buffer, b"emu\0");
        assert!(Out::new(&mut buffer).put_text("a", 0).is_err());
    }
}
