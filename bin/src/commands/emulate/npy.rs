//! Arrays in NumPy's .npy files (format 1.0 and 2.0), as raw little-endian bytes with a type and a shape.

use std::path::Path;

use super::values::Type;

pub struct Array {
    pub ty: Type,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy's name of a type. It has none for bf16: two raw bytes, as ml_dtypes writes.
fn descr(ty: Type) -> &'static str {
    match ty {
        Type::F64 => "<f8",
        Type::F32 => "<f4",
        Type::F16 => "<f2",
        Type::Bf16 => "<V2",
        Type::I64 => "<i8",
        Type::I32 => "<i4",
        Type::I16 => "<i2",
        Type::I8 => "|i1",
        Type::U64 => "<u8",
        Type::U32 => "<u4",
        Type::U16 => "<u2",
        Type::U8 => "|u1",
    }
}

/// The value of a key of the header, a Python dictionary.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let at = header.find(&format!("'{key}'"))?;
    let rest = header[at..].split_once(':')?.1.trim_start();
    Some(match rest.chars().next()? {
        '(' => &rest[1..rest.find(')')?],
        '\'' => rest[1..].split('\'').next()?,
        _ => rest.split([',', '}']).next()?.trim(),
    })
}

/// Reads a file.
///
/// # Errors
/// A sentence that names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Array, String> {
    let fail = |what: String| format!("{}: {what}", path.display());
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let short = || fail("the file ends within its header".to_string());
    if !bytes.starts_with(MAGIC) {
        return Err(fail("not a .npy file".to_string()));
    }
    let wide = *bytes.get(6).ok_or_else(short)? >= 2;
    let length = bytes.get(8..if wide { 12 } else { 10 }).ok_or_else(short)?;
    let length = length.iter().rev().fold(0usize, |n, &b| n << 8 | b as usize);
    let start = if wide { 12 } else { 10 };
    let header = bytes.get(start..start + length).ok_or_else(short)?;
    let header = String::from_utf8_lossy(header);
    let missing = |key: &str| fail(format!("the header has no `{key}`"));
    let name = value(&header, "descr").ok_or_else(|| missing("descr"))?;
    let ty = Type::ALL.into_iter().find(|&t| descr(t) == name || descr(t).replace('<', "|") == name);
    let ty = ty.ok_or_else(|| fail(format!("elements of type {name} are not supported")))?;
    if value(&header, "fortran_order").ok_or_else(|| missing("fortran_order"))? != "False" {
        return Err(fail("the array is in column order; save it with np.ascontiguousarray".to_string()));
    }
    let shape = value(&header, "shape").ok_or_else(|| missing("shape"))?;
    let dims = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
    let shape: Vec<usize> = dims
        .map(|d| d.parse().map_err(|_| fail(format!("{d} is no dimension"))))
        .collect::<Result<_, _>>()?;
    let data = &bytes[start + length..];
    let expected = shape.iter().try_fold(ty.bytes(), |n, &d| n.checked_mul(d));
    if expected != Some(data.len()) {
        return Err(fail(format!("shape {shape:?} of {} does not fit {} B of data", ty.name(), data.len())));
    }
    Ok(Array { ty, shape, bytes: data.to_vec() })
}

/// Writes a file.
///
/// # Errors
/// A sentence that names the file.
pub fn write(path: &Path, array: &Array) -> Result<(), String> {
    let comma = if array.shape.len() == 1 { "," } else { "" };
    let dims: Vec<String> = array.shape.iter().map(usize::to_string).collect();
    let mut header = format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        descr(array.ty),
        dims.join(", ")
    );
    // The data start at a multiple of 64, after a line's end.
    let padding = (64 - (10 + header.len() + 1) % 64) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(&array.bytes);
    std::fs::write(path, out).map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        for (ty, shape) in
            [(Type::F32, vec![3, 2]), (Type::Bf16, vec![5]), (Type::U8, vec![]), (Type::I64, vec![0, 4])]
        {
            let count: usize = shape.iter().product();
            let bytes: Vec<u8> = (0..count * ty.bytes()).map(|i| i as u8).collect();
            write(&path, &Array { ty, shape: shape.clone(), bytes: bytes.clone() }).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len() as usize % 64, bytes.len() % 64);
            let back = read(&path).unwrap();
            assert_eq!((back.ty, back.shape, back.bytes), (ty, shape, bytes));
        }
    }

    #[test]
    fn what_is_no_array_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let mut good = Vec::new();
        write(&path, &Array { ty: Type::F32, shape: vec![2], bytes: vec![0; 8] }).unwrap();
        good.extend(std::fs::read(&path).unwrap());
        let header = String::from_utf8_lossy(&good).into_owned();
        for (bytes, expected) in [
            (b"hello".to_vec(), "not a .npy file"),
            (good[..30].to_vec(), "ends within its header"),
            (good[..good.len() - 1].to_vec(), "does not fit 7 B"),
            (
                [&good[..10], header.replace("<f4", "<c8").split_at(header.find('{').unwrap()).1.as_bytes()]
                    .concat(),
                "<c8",
            ),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
