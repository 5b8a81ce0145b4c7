//! What programs hand over as a module: PTX text, a fat binary that holds some, or a cubin that carries its own.
//!
//! A fat binary (`fatbinary_section.h` declares the wrapper that `nvcc` puts around it) is a header and a list of
//! entries, each PTX or machine code for one architecture, mostly compressed by LZ4 or Zstandard. Machine code cannot
//! be run here, but `ptxas -lineinfo` leaves the PTX it was made from in a section of the cubin.

use std::borrow::Cow;
use std::io::Read;

use handloom_emulator::arch::Arch;

use crate::errors::*;
use crate::ffi::In;

/// Why an image is no module: a code, and a sentence for the log.
pub type Failure = (Code, String);

/// First bytes of `__fatBinC_Wrapper_t`, and of what it points to.
const WRAPPER: u32 = 0x4662_43b1;
const FATBIN: u32 = 0xba55_ed50;
const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");

/// Kinds of entries.
const PTX: u16 = 1;
/// Flags of an entry: how its payload is compressed.
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;

/// The section in which `ptxas -lineinfo` keeps its input, a zero at the end of each line.
const PTX_SECTION: &str = ".nv_debug_ptx_txt";

/// No real module is larger; a length beyond it is damage.
const LONGEST: u64 = 1 << 31;

fn invalid(message: impl Into<String>) -> Failure {
    (ERROR_INVALID_IMAGE, message.into())
}

/// The PTX of an image in the caller's memory, which tells its own length.
pub fn image_text(image: In<u8>, arch: &Arch) -> Result<String, Failure> {
    let null = |code| (code, "the image is a null pointer".to_string());
    match start(image).map_err(null)? {
        Some(WRAPPER) => {
            let word = |i| In::<usize>::at(image.address()).get_at(i).map_err(null);
            image_text(In::at(word(1)?), arch)
        }
        Some(FATBIN) => {
            let header = image.bytes(16).map_err(null)?;
            let length = number(header, 6, 2)?.saturating_add(number(header, 8, 8)?);
            image_of_bytes(image.bytes(bounded(length)?).map_err(null)?, arch)
        }
        Some(ELF) => {
            let table = section_table(image.bytes(64).map_err(null)?)?;
            let sections = image.bytes(bounded(table.end)?).map_err(null)?;
            let length = bounded(elf_length(sections, &table)?)?;
            image_of_bytes(image.bytes(length).map_err(null)?, arch)
        }
        _ => {
            let mut bytes = Vec::new();
            for i in 0.. {
                match image.get_at(i).map_err(null)? {
                    0 => break,
                    b => bytes.push(b),
                }
            }
            image_of_bytes(&bytes, arch)
        }
    }
}

/// The first four bytes, if there are as many before a zero: what follows text is not ours to read.
fn start(image: In<u8>) -> Result<Option<u32>, Code> {
    let mut word = [0; 4];
    for (i, byte) in word.iter_mut().enumerate() {
        *byte = image.get_at(i)?;
        if *byte == 0 {
            return Ok(None);
        }
    }
    Ok(Some(u32::from_le_bytes(word)))
}

/// The PTX of an image with known length: of a file, or what the linker is given.
pub fn image_of_bytes(bytes: &[u8], arch: &Arch) -> Result<String, Failure> {
    let first = bytes.first_chunk().map(|w| u32::from_le_bytes(*w));
    match first {
        Some(FATBIN) => best(fatbin_texts(bytes)?, arch),
        Some(ELF) => cubin_text(bytes),
        _ => {
            let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
            let text = std::str::from_utf8(&bytes[..end]);
            text.map(str::to_string).map_err(|_| (ERROR_INVALID_PTX, "the PTX is not text".to_string()))
        }
    }
}

fn bounded(length: u64) -> Result<usize, Failure> {
    match length {
        0..=LONGEST => Ok(length as usize),
        _ => Err(invalid(format!("the image says that it has {length} B, more than {LONGEST} B"))),
    }
}

/// A number of `size` bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64, Failure> {
    let field = at.checked_add(size).and_then(|end| bytes.get(at..end));
    let field = field.ok_or_else(|| invalid("the image ends within a header"))?;
    Ok(field.iter().rev().fold(0, |n, &b| n << 8 | b as u64))
}

fn range(bytes: &[u8], at: u64, length: u64) -> Result<&[u8], Failure> {
    let end = at.checked_add(length).filter(|&end| end <= bytes.len() as u64);
    let end =
        end.ok_or_else(|| invalid(format!("the image has {} B and names B {at} + {length}", bytes.len())))?;
    Ok(&bytes[at as usize..end as usize])
}

/// What the PTX of a fat binary is for, and it.
struct Entry {
    /// 80 of `sm_80`.
    number: u64,
    text: String,
}

/// All PTX in a fat binary. Entry: kind, version (2 B each), header size (4), payload size (8), its compressed size (4),
/// ..., architecture at 28, flags at 40, the size before compression at 56.
fn fatbin_texts(bytes: &[u8]) -> Result<Vec<Entry>, Failure> {
    let (header, content) = (number(bytes, 6, 2)?, number(bytes, 8, 8)?);
    let mut rest = range(bytes, header, content)?;
    let mut found = Vec::new();
    while rest.len() >= 64 {
        let (kind, header, payload) = (number(rest, 0, 2)? as u16, number(rest, 4, 4)?, number(rest, 8, 8)?);
        if header < 64 {
            return Err(invalid(format!("the fat binary has an entry with a header of {header} B")));
        }
        let data = range(rest, header, payload)?;
        if kind == PTX {
            let text = decompress(rest, data)?;
            let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
            let text = String::from_utf8(text[..end].to_vec());
            let text =
                text.map_err(|_| (ERROR_INVALID_PTX, "the PTX of a fat binary is not text".to_string()))?;
            found.push(Entry { number: number(rest, 28, 4)?, text });
        }
        rest = &rest[(header + payload) as usize..];
    }
    Ok(found)
}

fn decompress<'a>(header: &[u8], data: &'a [u8]) -> Result<Cow<'a, [u8]>, Failure> {
    let (flags, packed, size) = (number(header, 40, 8)?, number(header, 16, 4)?, number(header, 56, 8)?);
    if flags & (LZ4 | ZSTD) == 0 {
        return Ok(Cow::Borrowed(data));
    }
    let packed = range(data, 0, packed)?;
    bounded(size)?;
    let damaged =
        |e: &dyn std::fmt::Display| invalid(format!("an entry of the fat binary does not decompress: {e}"));
    let out = if flags & ZSTD != 0 {
        let decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|e| damaged(&e))?;
        let mut out = Vec::new();
        decoder.take(size).read_to_end(&mut out).map_err(|e| damaged(&e))?;
        out
    } else {
        // LZ4 makes a byte of at most 255; a greater size is damage.
        let room = size.min(256 * packed.len() as u64) as usize;
        lz4_flex::block::decompress(packed, room).map_err(|e| damaged(&e))?
    };
    Ok(Cow::Owned(out))
}

/// `sm_90a` of `.target sm_90a, debug`.
fn target(text: &str) -> &str {
    let line = text.lines().find_map(|l| l.trim_start().strip_prefix(".target")).unwrap_or_default();
    line.trim().split([',', ' ', '\t']).next().unwrap_or_default()
}

/// The PTX for the newest architecture that the device can run. A letter at the end (`sm_90a`) binds it to its own.
fn best(entries: Vec<Entry>, arch: &Arch) -> Result<String, Failure> {
    let runs = |e: &Entry| match target(&e.text) {
        own if own == arch.name => true,
        other => other.ends_with(|c: char| c.is_ascii_digit()) && e.number <= arch.number() as u64,
    };
    let targets: Vec<String> = entries.iter().map(|e| target(&e.text).to_string()).collect();
    let chosen = entries.into_iter().filter(runs).max_by_key(|e| (e.number, target(&e.text) == arch.name));
    chosen.map(|e| e.text).ok_or_else(|| {
        let has = match targets.is_empty() {
            true => "no PTX, only machine code".to_string(),
            false => format!("PTX for {}", targets.join(", ")),
        };
        let hint =
            "compile with -gencode arch=compute_80,code=compute_80, or choose arch= in HANDLOOM_EMULATOR";
        (
            ERROR_NO_BINARY_FOR_GPU,
            format!("the fat binary has {has}, the emulated GPU is {}; {hint}", arch.name),
        )
    })
}

/// Where an ELF file has its section headers.
struct Table {
    at: u64,
    size: u64,
    count: u64,
    end: u64,
}

fn section_table(bytes: &[u8]) -> Result<Table, Failure> {
    let (at, size, count) = (number(bytes, 40, 8)?, number(bytes, 58, 2)?, number(bytes, 60, 2)?);
    if size < 64 {
        return Err(invalid(format!(
            "the ELF file has section headers of {size} B, not 64; it is no 64-bit cubin"
        )));
    }
    Ok(Table { at, size, count, end: at.saturating_add(size * count).max(64) })
}

impl Table {
    fn section<'a>(&self, bytes: &'a [u8], i: u64) -> Result<&'a [u8], Failure> {
        range(bytes, self.at.saturating_add(i * self.size), 64)
    }
}

/// The end of the last section, or of the table.
fn elf_length(bytes: &[u8], table: &Table) -> Result<u64, Failure> {
    const NO_BITS: u64 = 8; // a section that takes no room in the file
    let mut end = table.end;
    for i in 0..table.count {
        let header = table.section(bytes, i)?;
        if number(header, 4, 4)? != NO_BITS {
            end = end.max(number(header, 24, 8)?.saturating_add(number(header, 32, 8)?));
        }
    }
    Ok(end)
}

/// The PTX that a cubin was made from, where it carries it.
fn cubin_text(bytes: &[u8]) -> Result<String, Failure> {
    let table = section_table(bytes)?;
    let content = |header: &[u8]| range(bytes, number(header, 24, 8)?, number(header, 32, 8)?);
    let names = content(table.section(bytes, number(bytes, 62, 2)?)?)?;
    for i in 0..table.count {
        let header = table.section(bytes, i)?;
        let name = names.get(number(header, 0, 4)? as usize..).unwrap_or_default();
        if name.strip_prefix(PTX_SECTION.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)) {
            return Ok(String::from_utf8_lossy(content(header)?).replace('\0', "\n"));
        }
    }
    let message = "the image is a cubin without PTX, and the emulator runs PTX; give PTX text, a fat binary with PTX, \
                   or a cubin that ptxas made with -lineinfo";
    Err((ERROR_NO_BINARY_FOR_GPU, message.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arch(name: &str) -> Arch {
        handloom_emulator::Options::parse(&format!("arch={name}")).unwrap().arch.clone()
    }

    /// An entry with `text`, packed as `flags` say.
    fn entry(number: u32, flags: u64, text: &str) -> Vec<u8> {
        let packed = match flags {
            LZ4 => lz4_flex::block::compress(text.as_bytes()),
            _ => text.as_bytes().to_vec(),
        };
        let padded = packed.len().next_multiple_of(8);
        let mut e = vec![0; 64];
        e[..2].copy_from_slice(&PTX.to_le_bytes());
        e[4..8].copy_from_slice(&64u32.to_le_bytes());
        e[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
        e[16..20].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        e[28..32].copy_from_slice(&number.to_le_bytes());
        e[40..48].copy_from_slice(&flags.to_le_bytes());
        e[56..64].copy_from_slice(&(text.len() as u64).to_le_bytes());
        e.extend(packed);
        e.resize(64 + padded, 0);
        e
    }

    fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
        let content = entries.concat();
        let mut out = FATBIN.to_le_bytes().to_vec();
        out.extend([1, 0, 16, 0]);
        out.extend((content.len() as u64).to_le_bytes());
        out.extend(content);
        out
    }

    #[test]
    fn the_newest_ptx_that_the_device_runs_is_chosen() {
        let text = |target: &str| format!(".version 8.0\n.target {target}\n.address_size 64\n// {target}\n");
        let names = [("sm_70", 70), ("sm_80", 80), ("sm_90a", 90), ("sm_90", 90), ("sm_100", 100)];
        let all: Vec<_> = names.iter().map(|(t, n)| entry(*n, LZ4, &text(t))).collect();
        let of = |name, list: &[Vec<u8>]| image_of_bytes(&fatbin(list), &arch(name));
        assert_eq!(of("sm_80", &all).unwrap(), text("sm_80"));
        assert_eq!(of("sm_90a", &all).unwrap(), text("sm_90a"));
        assert_eq!(of("sm_90a", &all[3..]).unwrap(), text("sm_90"));
        let (code, message) = of("sm_80", &all[2..]).unwrap_err();
        assert_eq!(code, ERROR_NO_BINARY_FOR_GPU);
        assert!(message.contains("PTX for sm_90a, sm_90, sm_100"), "{message}");
        assert!(of("sm_80", &[]).unwrap_err().1.contains("only machine code"));
    }

    #[test]
    fn damage_is_an_error_wherever_it_is() {
        let whole = fatbin(&[entry(80, LZ4, ".version 8.0\n.target sm_80\n.address_size 64\n")]);
        let arch = arch("sm_80");
        assert!(image_of_bytes(&whole, &arch).is_ok());
        for length in 4..whole.len() {
            assert!(image_of_bytes(&whole[..length], &arch).is_err(), "cut to {length} B");
        }
        for at in 4..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                let _ = image_of_bytes(&damaged, &arch); // any result, but no panic
            }
        }
    }
}
