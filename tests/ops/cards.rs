//! Walks the cards on the CPU: card by case by dtype.

use handloom_engine::cards::ALL;
use handloom_engine::check;
use handloom_engine::device::Device;
use handloom_engine::dtype::DType;

/// All cards in one dtype; reports every failure.
fn check_all(dtype: DType) {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let outcome = check::all(dtype, Device::Cpu, &[pool(1), pool(2), pool(3)], |_| true);
    let check::Outcome { cases, skipped, failures } = outcome;
    println!("{dtype}: {cases} cases, {skipped} skipped (values outside the range of {dtype})");
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

#[test]
fn cards_are_complete() {
    for (i, card) in ALL.iter().enumerate() {
        assert!(
            !card.cases.is_empty() && !card.formula.is_empty() && !card.source.is_empty(),
            "{}",
            card.name
        );
        assert!(ALL[..i].iter().all(|other| other.name != card.name), "{} twice", card.name);
        for case in card.cases.iter().chain([&card.bench]) {
            assert!(!case.why.is_empty(), "{} {:?}", card.name, case.sizes);
            let [flops, bytes] = [(card.flops)(case.sizes), (card.bytes)(case.sizes, DType::F32)];
            assert!(flops >= 0.0 && flops.is_finite() && bytes >= 0.0 && bytes.is_finite(), "{}", card.name);
        }
        let halves = (card.bytes)(card.bench.sizes, DType::BF16);
        assert!(halves <= (card.bytes)(card.bench.sizes, DType::F32), "{}: halves are smaller", card.name);
    }
}
