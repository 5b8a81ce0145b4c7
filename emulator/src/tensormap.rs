//! Tensor maps: what `cuTensorMapEncodeTiled` makes and the tensor copies of sm_90 read (PTX ISA 5.5; CUDA driver API,
//! "Tensor Map Object Management").
//!
//! A real map is 128 opaque bytes. The emulator's are 128 bytes of its own: a tag, so that anything else is
//! recognised as no map, then the fields in the order of [`Tiled`].

/// Bytes of a map.
pub const BYTES: usize = 128;
/// What a map starts with.
const TAG: &[u8; 8] = b"HLtiled1";
/// Dimensions at most.
const MAX_RANK: usize = 5;

/// The arguments of `cuTensorMapEncodeTiled`; enumerations as the driver's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Tiled<'a> {
    /// `CUtensorMapDataType`: 0 for u8 to 12 for tf32 with subnormals flushed.
    pub data_type: u32,
    /// Global address of the element at the origin.
    pub address: u64,
    /// Elements along each dimension, the contiguous one first; its length is the rank.
    pub dims: &'a [u64],
    /// Bytes between neighbours along each dimension but the first.
    pub strides: &'a [u64],
    /// The box of one copy, in elements of the tensor.
    pub box_dims: &'a [u32],
    /// Every how many elements one is taken.
    pub element_strides: &'a [u32],
    /// `CUtensorMapInterleave`; only 0, none, can be executed.
    pub interleave: u32,
    /// `CUtensorMapSwizzle`: 0 none, 1, 2, 3 for 32, 64 and 128 bytes.
    pub swizzle: u32,
    /// `CUtensorMapL2promotion`; has no effect here.
    pub l2_promotion: u32,
    /// `CUtensorMapFloatOOBfill`: 0 zeros, 1 NaN.
    pub oob_fill: u32,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    Bf16,
    F32Ftz,
    Tf32,
    Tf32Ftz,
}

const ELEMENTS: [Element; 13] = [
    Element::U8,
    Element::U16,
    Element::U32,
    Element::S32,
    Element::U64,
    Element::S64,
    Element::F16,
    Element::F32,
    Element::F64,
    Element::Bf16,
    Element::F32Ftz,
    Element::Tf32,
    Element::Tf32Ftz,
];

impl Element {
    /// Size in bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Element::U8 => 1,
            Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::U64 | Element::S64 | Element::F64 => 8,
            _ => 4,
        }
    }

    pub fn is_float(self) -> bool {
        !matches!(
            self,
            Element::U8 | Element::U16 | Element::U32 | Element::S32 | Element::U64 | Element::S64
        )
    }
}

/// How a box lies in shared memory: 16-byte chunks exchanged within a span of this many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Swizzle {
    #[default]
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    /// The span in bytes; 16 without swizzle.
    pub fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Where the byte at shared-memory address `address` of the plain layout lies (PTX ISA 5.5.7): the number of the
    /// 16-byte chunk within the span is combined with that of the 128-byte row by exclusive or.
    pub fn apply(self, address: u32) -> u32 {
        let chunks = self.span() / 16 - 1;
        address ^ (address >> 7 & chunks) << 4
    }
}

impl std::fmt::Display for Swizzle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Swizzle::None => write!(f, "no swizzle"),
            other => write!(f, "{}-byte swizzle", other.span()),
        }
    }
}

/// A map that the emulator has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    pub element: Element,
    pub rank: usize,
    pub address: u64,
    /// Dimensions past the rank are 1.
    pub dims: [u64; MAX_RANK],
    /// Bytes along each dimension, the first included.
    pub strides: [u64; MAX_RANK],
    pub box_dims: [u32; MAX_RANK],
    pub element_strides: [u32; MAX_RANK],
    pub swizzle: Swizzle,
    /// Elements outside the tensor read as NaN instead of zero.
    pub fill_nan: bool,
}

impl TensorMap {
    /// Elements that one copy moves along each dimension.
    pub fn box_elements(&self) -> [u32; MAX_RANK] {
        std::array::from_fn(|i| self.box_dims[i].div_ceil(self.element_strides[i]))
    }

    /// Bytes that one copy moves, elements outside the tensor included.
    pub fn box_bytes(&self) -> u32 {
        self.box_elements().iter().product::<u32>() * self.element.bytes()
    }
}

/// Encodes a tiled map, with the checks of the real function.
///
/// # Errors
/// A sentence naming the argument that is not valid; the driver's code for it is `CUDA_ERROR_INVALID_VALUE`.
///
/// # Example
/// ```
/// use handloom_emulator::tensormap::{Tiled, decode, encode_tiled};
/// let tensor = Tiled {
///     data_type: 9, // bf16
///     address: 0x7f00_0000_0000,
///     dims: &[256, 100],
///     strides: &[512],
///     box_dims: &[64, 32],
///     element_strides: &[1, 1],
///     interleave: 0,
///     swizzle: 3,
///     l2_promotion: 0,
///     oob_fill: 0,
/// };
/// let map = decode(&encode_tiled(&tensor)?).ok_or("a map")?;
/// assert_eq!(map.box_bytes(), 64 * 32 * 2);
/// assert!(encode_tiled(&Tiled { box_dims: &[128, 32], ..tensor }).unwrap_err().contains("swizzle"));
/// # Ok::<(), String>(())
/// ```
pub fn encode_tiled(t: &Tiled) -> Result<[u8; BYTES], String> {
    let element = check(t)?;
    let rank = t.dims.len();
    let mut out = Vec::with_capacity(BYTES);
    out.extend(TAG);
    out.extend([t.data_type as u8, rank as u8, t.swizzle as u8, t.oob_fill as u8]);
    out.extend([t.interleave as u8, t.l2_promotion as u8, 0, 0]);
    out.extend(t.address.to_le_bytes());
    for i in 0..MAX_RANK {
        // 2^32 does not fit 32 bits: dimensions are kept less one.
        out.extend((t.dims.get(i).map_or(0, |&d| d - 1) as u32).to_le_bytes());
    }
    for i in 1..MAX_RANK {
        out.extend(t.strides.get(i - 1).unwrap_or(&0).to_le_bytes());
    }
    for i in 0..MAX_RANK {
        out.extend((*t.box_dims.get(i).unwrap_or(&1) as u16).to_le_bytes());
    }
    for i in 0..MAX_RANK {
        // Without interleave the stride of the first dimension is ignored.
        let stride = if i == 0 && t.interleave == 0 { 1 } else { *t.element_strides.get(i).unwrap_or(&1) };
        out.push(stride as u8);
    }
    out.push(element.bytes() as u8);
    out.resize(BYTES, 0);
    out.try_into()
        .map_err(|_| "bug in handloom-emulator: the fields of a tensor map exceed 128 B".to_string())
}

fn check(t: &Tiled) -> Result<Element, String> {
    let Some(&element) = ELEMENTS.get(t.data_type as usize) else {
        return Err(format!("tensorDataType is {}, known are 0 to {}", t.data_type, ELEMENTS.len() - 1));
    };
    let rank = t.dims.len();
    if rank == 0 || rank > MAX_RANK {
        return Err(format!("tensorRank is {rank}, it must be 1 to {MAX_RANK}"));
    }
    let lengths = (t.strides.len(), t.box_dims.len(), t.element_strides.len());
    if lengths != (rank - 1, rank, rank) {
        return Err(format!(
            "rank {rank} needs {} strides, {rank} box sizes and {rank} element strides, given are {lengths:?}",
            rank - 1
        ));
    }
    if t.interleave > 2 {
        return Err(format!("interleave is {}, known are 0 to 2", t.interleave));
    }
    if t.swizzle > 3 {
        return Err(format!("swizzle is {}, known are 0 to 3", t.swizzle));
    }
    if t.l2_promotion > 3 {
        return Err(format!("l2Promotion is {}, known are 0 to 3", t.l2_promotion));
    }
    if t.oob_fill > 1 {
        return Err(format!("oobFill is {}, known are 0 and 1", t.oob_fill));
    }
    if t.oob_fill == 1 && !element.is_float() {
        return Err(format!("oobFill asks for NaN, the elements are {element:?}"));
    }
    if t.interleave != 0 && rank < 3 {
        return Err(format!("interleave needs a rank of 3 at least, it is {rank}"));
    }
    let align = if t.interleave == 2 { 32 } else { 16 };
    if !t.address.is_multiple_of(align) {
        return Err(format!("globalAddress {:#x} is not a multiple of {align}", t.address));
    }
    for (i, &dim) in t.dims.iter().enumerate() {
        if dim == 0 || dim > 1 << 32 {
            return Err(format!("globalDim[{i}] is {dim}, it must be 1 to 2^32"));
        }
    }
    for (i, &stride) in t.strides.iter().enumerate() {
        if !stride.is_multiple_of(align) || stride >= 1 << 40 {
            return Err(format!(
                "globalStrides[{i}] is {stride}, it must be a multiple of {align} below 2^40"
            ));
        }
    }
    for (i, &size) in t.box_dims.iter().enumerate() {
        if size == 0 || size > 256 {
            return Err(format!("boxDim[{i}] is {size}, it must be 1 to 256"));
        }
    }
    for (i, &stride) in t.element_strides.iter().enumerate() {
        if stride == 0 || stride > 8 {
            return Err(format!("elementStrides[{i}] is {stride}, it must be 1 to 8"));
        }
    }
    let inner = t.box_dims[0] * element.bytes();
    if t.interleave == 0 && !inner.is_multiple_of(16) {
        return Err(format!("boxDim[0] of {inner} B is not a multiple of 16 B"));
    }
    let span = [u32::MAX, 32, 64, 128][t.swizzle as usize];
    if t.interleave == 0 && inner > span {
        return Err(format!("boxDim[0] of {inner} B exceeds the {span} B of the swizzle"));
    }
    if t.interleave == 2 && t.swizzle != 1 {
        return Err("interleave of 32 B needs a swizzle of 32 B".to_string());
    }
    Ok(element)
}

/// A field that `tensormap.replace` changes (PTX ISA 9.7.9.28); numbers are dimensions, of strides less one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Address,
    Rank,
    BoxDim(u8),
    Dim(u8),
    Stride(u8),
    ElementStride(u8),
    ElementType,
    Interleave,
    Swizzle,
    Fill,
}

/// Changes a field of a map. Bytes that are no map become one with every other field zero, to be replaced in turn.
pub fn replace(map: &mut [u8; BYTES], field: Field, value: u64) {
    // The types' numbers here, as those of the driver.
    const TYPES: [u8; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 10, 8, 9, 11, 12];
    if !map.starts_with(TAG) {
        map.fill(0);
        map[..TAG.len()].copy_from_slice(TAG);
        map[86..91].fill(1);
    }
    let dimension = |d: u8| (d as usize).min(MAX_RANK - 1);
    let (at, bytes, value) = match field {
        Field::ElementType => (8, 1, TYPES.get(value as usize).map_or(u64::MAX, |&t| t as u64)),
        Field::Rank => (9, 1, value + 1),
        Field::Swizzle => (10, 1, value),
        Field::Fill => (11, 1, value),
        Field::Interleave => (12, 1, value),
        Field::Address => (16, 8, value),
        Field::Dim(d) => (24 + 4 * dimension(d), 4, value.wrapping_sub(1)),
        Field::Stride(d) => (44 + 8 * dimension(d).min(MAX_RANK - 2), 8, value),
        Field::BoxDim(d) => (76 + 2 * dimension(d), 2, value),
        Field::ElementStride(d) => (86 + dimension(d), 1, value),
    };
    map[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
}

/// Reads a map; none when the bytes are not one that [`encode_tiled`] has made, or [`replace`] from valid fields.
pub fn decode(bytes: &[u8]) -> Option<TensorMap> {
    let body = bytes.get(..BYTES)?.strip_prefix(TAG)?;
    let element = *ELEMENTS.get(body[0] as usize)?;
    let rank = body[1] as usize;
    let swizzle = *[Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128].get(body[2] as usize)?;
    let number =
        |at: usize, bytes: usize| body[at..at + bytes].iter().rev().fold(0u64, |v, &b| v << 8 | b as u64);
    let (dims, strides, boxes, steps) = (16, 36, 68, 78);
    if !(1..=MAX_RANK).contains(&rank) || body[4] != 0 {
        return None;
    }
    let map = TensorMap {
        element,
        rank,
        address: number(8, 8),
        dims: std::array::from_fn(|i| number(dims + 4 * i, 4) + 1),
        strides: std::array::from_fn(|i| match i {
            0 => element.bytes() as u64,
            i => number(strides + 8 * (i - 1), 8),
        }),
        box_dims: std::array::from_fn(|i| if i < rank { number(boxes + 2 * i, 2) as u32 } else { 1 }),
        element_strides: std::array::from_fn(|i| (number(steps + i, 1) as u32).max(1)),
        swizzle,
        fill_nan: body[3] == 1,
    };
    let inner = map.box_dims[0] * element.bytes();
    let valid = (0..rank).all(|d| (1..=256).contains(&map.box_dims[d]) && map.element_strides[d] <= 8)
        && map.strides[1..rank].iter().all(|s| s.is_multiple_of(16))
        && map.address.is_multiple_of(16)
        && inner.is_multiple_of(16)
        && (swizzle == Swizzle::None || inner <= swizzle.span());
    valid.then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Tiled = Tiled {
        data_type: 7,
        address: 0x1000,
        dims: &[1 << 32, 7, 5],
        strides: &[256, 1 << 39],
        box_dims: &[8, 3, 256],
        element_strides: &[5, 2, 1],
        interleave: 0,
        swizzle: 1,
        l2_promotion: 2,
        oob_fill: 1,
    };

    #[test]
    fn what_is_encoded_is_read_back() {
        let map = decode(&encode_tiled(&GOOD).unwrap()).unwrap();
        assert_eq!((map.element, map.rank, map.address), (Element::F32, 3, 0x1000));
        assert_eq!(map.dims, [1 << 32, 7, 5, 1, 1]);
        assert_eq!(map.strides, [4, 256, 1 << 39, 0, 0]);
        assert_eq!(map.box_dims, [8, 3, 256, 1, 1]);
        assert_eq!(map.element_strides, [1, 2, 1, 1, 1], "the first is ignored without interleave");
        assert_eq!(map.box_bytes(), 8 * 2 * 256 * 4);
        assert_eq!((map.swizzle, map.fill_nan), (Swizzle::B32, true));
        assert_eq!(decode(&[0; 128]), None);
    }

    #[test]
    fn each_argument_is_checked() {
        let bad: [(Tiled, &str); 14] = [
            (Tiled { data_type: 13, ..GOOD }, "tensorDataType"),
            (Tiled { dims: &[], strides: &[], box_dims: &[], element_strides: &[], ..GOOD }, "tensorRank"),
            (Tiled { dims: &[1; 6], ..GOOD }, "tensorRank"),
            (Tiled { address: 0x1008, ..GOOD }, "globalAddress"),
            (Tiled { dims: &[8, 0, 5], ..GOOD }, "globalDim[1]"),
            (Tiled { dims: &[8, 1 << 33, 5], ..GOOD }, "globalDim[1]"),
            (Tiled { strides: &[24, 256], ..GOOD }, "globalStrides[0]"),
            (Tiled { strides: &[16, 1 << 40], ..GOOD }, "globalStrides[1]"),
            (Tiled { box_dims: &[8, 257, 1], ..GOOD }, "boxDim[1]"),
            (Tiled { box_dims: &[3, 1, 1], ..GOOD }, "multiple of 16 B"),
            (Tiled { box_dims: &[16, 1, 1], ..GOOD }, "exceeds the 32 B of the swizzle"),
            (Tiled { element_strides: &[1, 9, 1], ..GOOD }, "elementStrides[1]"),
            (Tiled { data_type: 2, ..GOOD }, "asks for NaN"),
            (Tiled { interleave: 2, swizzle: 3, address: 0, strides: &[32, 64], ..GOOD }, "32 B needs"),
        ];
        for (tiled, part) in bad {
            let message = encode_tiled(&tiled).unwrap_err();
            assert!(message.contains(part), "{message} lacks {part}");
        }
    }

    /// The tables of PTX ISA 5.5.7: row r of 128 bytes holds chunk c at c ^ f(r).
    #[test]
    fn swizzles_follow_the_tables() {
        let row =
            |s: Swizzle, r: u32| -> Vec<u32> { (0..8).map(|c| s.apply(128 * r + 16 * c) / 16 % 8).collect() };
        assert_eq!(row(Swizzle::B128, 3), [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(row(Swizzle::B128, 7), [7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(row(Swizzle::B64, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(row(Swizzle::B64, 5), row(Swizzle::B64, 1));
        assert_eq!(row(Swizzle::B32, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(row(Swizzle::B32, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(row(Swizzle::None, 5), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
