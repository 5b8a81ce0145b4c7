//! One line of PTX, run for many inputs.

use super::{Random, Run};
use handloom_emulator::{LaunchConfig, Options};

const HEAD: &str = ".version 8.7\n.target sm_90a\n.address_size 64\n";

/// A kernel that reads up to four 64-bit words per thread into %a, %b, %c, %e (and their low halves into %ra, ...),
/// runs `body`, and stores %d.
pub fn one(body: &str, inputs: &[[u64; 4]]) -> Vec<u64> {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 out, .param .u64 inp) {{
    .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %t, %ra, %rb, %rc, %re, %rd, %r<8>; .reg .f32 %f<8>;
    .reg .b64 %a, %b, %c, %e, %d, %w<6>;
    ld.param.u64 %w0, [out];
    ld.param.u64 %w1, [inp];
    mov.u32 %t, %tid.x;
    mul.wide.u32 %w2, %t, 32;
    add.s64 %w3, %w1, %w2;
    ld.global.v2.u64 {{%a, %b}}, [%w3];
    ld.global.v2.u64 {{%c, %e}}, [%w3+16];
    cvt.u32.u64 %ra, %a;
    cvt.u32.u64 %rb, %b;
    cvt.u32.u64 %rc, %c;
    cvt.u32.u64 %re, %e;
    mov.u64 %d, 0;
    mov.u32 %rd, 0;
    {body}
    cvt.u64.u32 %w4, %rd;
    or.b64 %d, %d, %w4;
    mul.wide.u32 %w2, %t, 8;
    add.s64 %w3, %w0, %w2;
    st.global.u64 [%w3], %d;
    ret;
}}"
    );
    let mut run = Run::new(&ptx, Options::parse("arch=sm_90a").unwrap());
    let flat: Vec<u64> = inputs.iter().flatten().copied().collect();
    let (inp, out) = (run.put("inp", &flat), run.empty::<u64>("out", inputs.len()));
    run.clean("k", LaunchConfig::linear(1, inputs.len() as u32), &[out.into(), inp.into()]);
    run.get(out, inputs.len())
}

pub fn samples() -> Vec<[u64; 4]> {
    let corners =
        [0, 1, 7, 31, 32, 33, 64, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX];
    let mut random = Random(21);
    (0..512)
        .map(|i| {
            std::array::from_fn(|k| {
                let r = random.next();
                if (i + k) % 3 == 0 { corners[(r % 14) as usize] } else { r >> (r % 60) }
            })
        })
        .collect()
}

#[track_caller]
pub fn check(body: &str, f: impl Fn([u64; 4]) -> u64) {
    let inputs = samples();
    for (i, found) in inputs.iter().zip(one(body, &inputs)) {
        assert_eq!(found, f(*i), "{body} of {:x?}: found {found:x}, expected {:x}", i, f(*i));
    }
}
