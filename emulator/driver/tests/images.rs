//! Modules from what compilers really make: fat binaries, plain and compressed, their wrapper, and cubins with PTX.

mod common;

use std::ffi::c_void;

use cudarc::driver::sys::{self, cudaError_enum as E};

const PTX: &str = ".version 7.0
.target sm_80
.address_size 64
.visible .entry nothing(.param .u32 n) { ret; }
";

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A fat binary with one entry: PTX for sm_80.
fn fatbin(flags: u64, payload: &[u8]) -> Vec<u8> {
    let padded = payload.len().next_multiple_of(8);
    let mut out = vec![0; 16 + 64 + padded];
    put(&mut out, 0, &0xba55_ed50u32.to_le_bytes());
    put(&mut out, 4, &[1, 0, 16, 0]);
    put(&mut out, 8, &(64 + padded as u64).to_le_bytes());
    put(&mut out, 16, &[1, 0, 1, 1, 64, 0, 0, 0]);
    put(&mut out, 24, &(padded as u64).to_le_bytes());
    put(&mut out, 32, &(payload.len() as u32).to_le_bytes());
    put(&mut out, 44, &80u32.to_le_bytes());
    put(&mut out, 56, &flags.to_le_bytes());
    put(&mut out, 72, &(PTX.len() as u64).to_le_bytes());
    put(&mut out, 80, payload);
    out
}

/// A Zstandard frame of one raw block (RFC 8878 3.1.1): single segment, one byte of content size.
fn zstd(text: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, u8::try_from(text.len()).unwrap()];
    out.extend(&((text.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    out.extend(text);
    out
}

/// An LZ4 block of literals only.
fn lz4(text: &[u8]) -> Vec<u8> {
    let mut out = vec![0xf0];
    let mut left = text.len() - 15;
    while left >= 255 {
        out.push(255);
        left -= 255;
    }
    out.push(left as u8);
    out.extend(text);
    out
}

/// An ELF file with a section of this name.
fn cubin(section: &str, content: &[u8]) -> Vec<u8> {
    let names = [b"\0.shstrtab\0".as_slice(), section.as_bytes(), b"\0"].concat();
    let mut out = vec![0; 64];
    put(&mut out, 0, b"\x7fELF\x02\x01\x01");
    let names_at = out.len();
    out.extend(&names);
    let content_at = out.len();
    out.extend(content);
    let table = out.len().next_multiple_of(8);
    out.resize(table + 3 * 64, 0);
    put(&mut out, 40, &(table as u64).to_le_bytes());
    put(&mut out, 58, &[64, 0, 3, 0, 1, 0]);
    for (i, (name, at, size)) in
        [(1u32, names_at, names.len()), (11, content_at, content.len())].iter().enumerate()
    {
        let header = table + 64 * (i + 1);
        put(&mut out, header, &name.to_le_bytes());
        put(&mut out, header + 24, &(*at as u64).to_le_bytes());
        put(&mut out, header + 32, &(*size as u64).to_le_bytes());
    }
    out
}

fn load(image: *const c_void) -> sys::CUresult {
    let mut module = std::ptr::null_mut();
    let mut function = std::ptr::null_mut();
    // SAFETY: an image that tells its length, and a name.
    unsafe {
        let code = sys::cuModuleLoadData(&mut module, image);
        if code == E::CUDA_SUCCESS {
            assert_eq!(sys::cuModuleGetFunction(&mut function, module, c"nothing".as_ptr()), code);
            assert_eq!(sys::cuModuleUnload(module), code);
        }
        code
    }
}

#[test]
fn fat_binaries_are_loaded_however_they_are_packed() {
    let _context = common::context();
    for (name, image) in [
        ("plain", fatbin(0x11, PTX.as_bytes())),
        ("zstd", fatbin(0x8011, &zstd(PTX.as_bytes()))),
        ("lz4", fatbin(0x2011, &lz4(PTX.as_bytes()))),
    ] {
        assert_eq!(load(image.as_ptr().cast()), E::CUDA_SUCCESS, "{name}");
        // As the compiler embeds it: magic, version, address, nothing.
        let wrapper = [0x1_4662_43b1usize, image.as_ptr() as usize, 0];
        assert_eq!(load(wrapper.as_ptr().cast()), E::CUDA_SUCCESS, "{name} in its wrapper");
    }
    let damaged = fatbin(0x8011, b"not Zstandard at all");
    assert_eq!(load(damaged.as_ptr().cast()), E::CUDA_ERROR_INVALID_IMAGE);
}

#[test]
fn a_cubin_is_loaded_when_it_carries_its_ptx() {
    let _context = common::context();
    let lines = PTX.replace('\n', "\0");
    let with = cubin(".nv_debug_ptx_txt", lines.as_bytes());
    assert_eq!(load(with.as_ptr().cast()), E::CUDA_SUCCESS);
    let without = cubin(".text.nothing", &[0; 64]);
    assert_eq!(load(without.as_ptr().cast()), E::CUDA_ERROR_NO_BINARY_FOR_GPU);
}

#[test]
fn a_library_needs_no_context_and_outlives_it() {
    common::driver();
    std::thread::spawn(|| {
        let mut library = std::ptr::null_mut();
        // SAFETY: PTX text with a zero at its end; this thread has no current context.
        unsafe {
            assert_eq!(sys::cuInit(0), E::CUDA_SUCCESS);
            let image = std::ffi::CString::new(PTX).unwrap();
            let (none, zero) = (std::ptr::null_mut(), std::ptr::null_mut());
            let code = sys::cuLibraryLoadData(
                &mut library,
                image.as_ptr().cast(),
                std::ptr::null_mut(),
                none,
                0,
                std::ptr::null_mut(),
                zero,
                0,
            );
            assert_eq!(code, E::CUDA_SUCCESS);
            let mut kernel = std::ptr::null_mut();
            assert_eq!(sys::cuLibraryGetKernel(&mut kernel, library, c"nothing".as_ptr()), E::CUDA_SUCCESS);
            assert_eq!(sys::cuLibraryUnload(library), E::CUDA_SUCCESS);
        }
    })
    .join()
    .unwrap();
}
