//! Every card on the emulated GPU: the kernels' PTX through the CUDA driver API, every check of the emulator on.
//!
//! `CARDS=layernorm,gelu` in the environment runs the cards whose op or name starts with one of these.

use handloom_engine::check;
use handloom_engine::device::Device;
use handloom_engine::dtype::DType;

fn check_all(dtype: DType) {
    let device = Device::emulator().expect("the emulated driver is built with the tests");
    let chosen = std::env::var("CARDS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|name| !name.is_empty()).collect();
    let outcome = check::all(dtype, device, &[], |card| {
        chosen.is_empty()
            || chosen.iter().any(|name| card.name.starts_with(name) || card.op.starts_with(name))
    });
    let check::Outcome { cases, skipped, failures } = outcome;
    println!("{dtype}: {cases} cases, {skipped} skipped (values outside the range of {dtype})");
    assert!(cases > 0, "no card is called {chosen:?}");
    assert!(failures.is_empty(), "{} of {cases} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_card_in_f32() {
    check_all(DType::F32);
}

#[test]
fn every_card_in_f16() {
    check_all(DType::F16);
}

#[test]
fn every_card_in_bf16() {
    check_all(DType::BF16);
}
