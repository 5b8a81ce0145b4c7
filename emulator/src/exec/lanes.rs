//! Register banks and the machinery of instructions that work lane by lane.
//!
//! A register is a row of 32 values, one per lane. A [`LaneFn`] reads whole rows and writes the lanes of its mask. It
//! is compiled three times (baseline x86-64, AVX2 with FMA, AVX-512) and the fastest that the processor has is chosen
//! when a kernel is lowered; the loops are plain Rust that the compiler vectorises.

use std::sync::OnceLock;

/// A 32-bit register: bits of u32, s32, f32, packed halves, or (zero-extended) any 16-bit or 8-bit type.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Row32(pub [u32; 32]);

/// A 64-bit register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Row64(pub [u64; 32]);

/// The registers of one warp, or of the frame of a function it is in. Slots index the rows.
#[derive(Clone, Copy)]
pub struct Banks {
    pub r32: *mut Row32,
    pub r64: *mut Row64,
    /// One bit per lane.
    pub preds: *mut u32,
}

/// Slots of a lane operation: destination, then up to four sources.
pub type Slots = [u16; 5];

/// A lane operation.
///
/// # Safety
/// Every slot that the operation uses must lie within the banks, which nothing else accesses during the call; the
/// processor must have the features of the level the function was made for.
pub type LaneFn = unsafe fn(&Banks, &Slots, u32);

/// Vector instructions of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Baseline,
    Avx2,
    Avx512,
}

/// The level of this processor.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            let v4 = v3
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if v4 {
                return Level::Avx512;
            }
            if v3 {
                return Level::Avx2;
            }
        }
        Level::Baseline
    })
}

/// A type that registers hold, seen by lane.
pub trait Cell: Copy + Default {
    type Source: Copy;

    /// # Safety
    /// `slot` lies within the bank.
    unsafe fn source(banks: &Banks, slot: u16) -> Self::Source;

    /// # Safety
    /// `source` comes from [`Cell::source`] of live banks, and `lane` is below 32.
    unsafe fn at(source: Self::Source, lane: usize) -> Self;

    /// # Safety
    /// `slot` lies within the bank, and nothing else accesses it during the call.
    unsafe fn store(banks: &Banks, slot: u16, values: &[Self; 32], mask: u32);
}

macro_rules! cell {
    ($bank:ident, $row:ident, $($ty:ty, $get:expr, $put:expr;)*) => { $(
        impl Cell for $ty {
            type Source = *const $row;

            #[inline(always)]
            unsafe fn source(banks: &Banks, slot: u16) -> Self::Source {
                // SAFETY: the caller promises that the slot lies within the bank.
                unsafe { banks.$bank.add(slot as usize) }
            }

            #[inline(always)]
            unsafe fn at(source: Self::Source, lane: usize) -> Self {
                // SAFETY: the caller promises a live row and a lane below 32.
                let raw = unsafe { (*source).0[lane] };
                $get(raw)
            }

            #[inline(always)]
            unsafe fn store(banks: &Banks, slot: u16, values: &[Self; 32], mask: u32) {
                // SAFETY: the caller promises that the slot lies within the bank and is not shared now.
                let row = unsafe { &mut *banks.$bank.add(slot as usize) };
                if mask == u32::MAX {
                    for i in 0..32 {
                        row.0[i] = $put(values[i]);
                    }
                } else {
                    for i in 0..32 {
                        row.0[i] = if mask >> i & 1 != 0 { $put(values[i]) } else { row.0[i] };
                    }
                }
            }
        }
    )* };
}

cell!(r32, Row32,
    u32, |r| r, |v| v;
    i32, |r| r as i32, |v: i32| v as u32;
    f32, f32::from_bits, f32::to_bits;
    u16, |r| r as u16, |v: u16| v as u32;
    i16, |r| r as i16, |v: i16| v as u16 as u32;
);
cell!(r64, Row64,
    u64, |r| r, |v| v;
    i64, |r| r as i64, |v: i64| v as u64;
    f64, f64::from_bits, f64::to_bits;
);

impl Cell for bool {
    type Source = u32;

    #[inline(always)]
    unsafe fn source(banks: &Banks, slot: u16) -> u32 {
        // SAFETY: the caller promises that the slot lies within the bank.
        unsafe { *banks.preds.add(slot as usize) }
    }

    #[inline(always)]
    unsafe fn at(source: u32, lane: usize) -> bool {
        source >> lane & 1 != 0
    }

    #[inline(always)]
    unsafe fn store(banks: &Banks, slot: u16, values: &[bool; 32], mask: u32) {
        let mut bits = 0;
        for (i, &v) in values.iter().enumerate() {
            bits |= (v as u32) << i;
        }
        // SAFETY: the caller promises that the slot lies within the bank and is not shared now.
        let row = unsafe { &mut *banks.preds.add(slot as usize) };
        *row = (*row & !mask) | (bits & mask);
    }
}

/// Defines a function that is compiled for each [`Level`] and chooses at each call: for loops over rows.
macro_rules! by_level {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($a:ident: $t:ty),* $(,)?) $(-> $r:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($a: $t),*) $(-> $r)? {
            #[inline(always)]
            #[allow(clippy::needless_range_loop)] // loops over lanes index several rows
            fn body($($a: $t),*) $(-> $r)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
            fn avx2($($a: $t),*) $(-> $r)? {
                body($($a),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
            fn avx512($($a: $t),*) $(-> $r)? {
                body($($a),*)
            }
            match $crate::exec::lanes::level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `level` says that the processor has these instructions.
                $crate::exec::lanes::Level::Avx512 => unsafe { avx512($($a),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `level` says that the processor has these instructions.
                $crate::exec::lanes::Level::Avx2 => unsafe { avx2($($a),*) },
                _ => body($($a),*),
            }
        }
    };
}
pub(crate) use by_level;

/// Defines lane operations: `name(a: type, ...) -> type = expression;`. Each becomes a function from the processor's
/// level to the [`LaneFn`] compiled for it.
macro_rules! lanes {
    ($($name:ident ( $($a:ident : $t:ty),* ) -> $d:ty = $e:expr;)*) => { $(
        pub fn $name(level: $crate::exec::lanes::Level) -> $crate::exec::lanes::LaneFn {
            use $crate::exec::lanes::{Banks, Cell, Level, Slots};
            #[inline(always)]
            #[allow(unused_assignments)]
            unsafe fn body(banks: &Banks, slots: &Slots, mask: u32) {
                let mut at = 0;
                $(
                    at += 1;
                    // SAFETY: the caller of a LaneFn promises slots within the banks.
                    let $a = unsafe { <$t as Cell>::source(banks, slots[at]) };
                )*
                let mut out = [<$d as Default>::default(); 32];
                for (i, out) in out.iter_mut().enumerate() {
                    // SAFETY: the sources were taken just above, and i is below 32.
                    $( let $a: $t = unsafe { <$t as Cell>::at($a, i) }; )*
                    *out = $e;
                }
                // SAFETY: the caller of a LaneFn promises slots within the banks, which it alone accesses.
                unsafe { <$d as Cell>::store(banks, slots[0], &out, mask) };
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
            unsafe fn avx2(banks: &Banks, slots: &Slots, mask: u32) {
                // SAFETY: the caller's promise, passed on.
                unsafe { body(banks, slots, mask) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
            unsafe fn avx512(banks: &Banks, slots: &Slots, mask: u32) {
                // SAFETY: the caller's promise, passed on.
                unsafe { body(banks, slots, mask) }
            }
            match level {
                Level::Baseline => body,
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2,
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => avx512,
                #[cfg(not(target_arch = "x86_64"))]
                _ => body,
            }
        }
    )* };
}
pub(crate) use lanes;
