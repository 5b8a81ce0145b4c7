//! Walks [`ALL`]: card by case by dtype.

use std::panic::{AssertUnwindSafe, catch_unwind};

use handloom_engine::cards::{ALL, Array, Card, Case, Input, Role, Values};
use handloom_engine::dtype::DType;
use handloom_engine::error::Result;
use handloom_engine::philox::{Reader, Stream};
use handloom_engine::tape::Tape;
use handloom_engine::tensor::Tensor;
use handloom_tests::close::{Tolerance, compare, rms};
use handloom_tests::oracle::{finite_differences, input_dtype, rounded, sample, smallest, tensor, values};

/// Coordinates per input whose gradient is compared.
const SAMPLE: usize = 32;

/// One run of a case: its output, and the gradient of each input that has one.
struct Run {
    out: Tensor,
    grads: Vec<Option<Tensor>>,
}

fn grad_dtype(input: &Input, dtype: DType) -> DType {
    if input.role == Role::Parameter { DType::F32 } else { dtype }
}

/// Forward and, from `dout` (drawn by the caller for the output), backward into gradients that start at `initial`.
fn run(
    card: &Card,
    case: &Case,
    inputs: &[Input],
    dtype: DType,
    dout: &dyn Fn(&Tensor) -> Tensor,
    initial: &[Option<Tensor>],
) -> Result<Run> {
    let tape = Tape::new();
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|input| {
            let value = tensor(&input.array, input_dtype(input, dtype));
            if input.role == Role::Ids { value } else { tape.leaf(&value, grad_dtype(input, dtype)) }
        })
        .collect();
    let out = (card.forward)(case, &leaves)?;
    let mut grads = tape.gradients();
    for (leaf, initial) in leaves.iter().zip(initial) {
        if let Some(initial) = initial {
            grads.set(leaf.grad_id(), initial.clone());
        }
    }
    tape.backward(&out, dout(&out), &mut grads)?;
    let grads = leaves.iter().map(|leaf| grads.take(leaf.grad_id())).collect();
    Ok(Run { out: out.detach(), grads })
}

fn reader(card: &Card, index: usize, purpose: u32) -> Reader {
    let seed = card.name.bytes().fold(14_695_981_039_346_656_037u64, |hash, byte| {
        (hash ^ byte as u64).wrapping_mul(1_099_511_628_211)
    });
    Stream { seed, stream: index as u32, step: purpose }.reader()
}

/// Relative part of the tolerance: f32 rounding, which grows with the root of the number of terms, and half an epsilon for
/// each rounding to half precision; an f32 result is spared the last one.
fn relative(card: &Card, case: &Case, dtype: DType, result: DType) -> f64 {
    let f32_part = DType::F32.epsilon() * case.condition * (8.0 + 4.0 * (card.terms)(case.sizes).sqrt());
    let roundings = if result == DType::F32 { card.roundings - 1.0 } else { card.roundings };
    if dtype == DType::F32 {
        f32_part
    } else {
        f32_part + 0.55 * dtype.epsilon() * case.half_condition * roundings
    }
}

fn bits(run: &Run) -> Vec<Vec<u32>> {
    std::iter::once(&run.out)
        .chain(run.grads.iter().flatten())
        .map(|x| x.to_vec_f32().iter().map(|x| x.to_bits()).collect())
        .collect()
}

/// Whether the case's values leave the range of `dtype`; only huge values in f16 may.
fn out_of_range(case: &Case, dtype: DType) -> bool {
    dtype == DType::F16 && matches!(case.values, Values::Scaled(std) if std > 1e4)
}

fn check(card: &Card, index: usize, dtype: DType, pools: &[rayon::ThreadPool]) -> Result<(), String> {
    let case = &card.cases[index];
    let mut inputs = (card.inputs)(case, &mut reader(card, index, 0));
    for input in &mut inputs {
        input.array = rounded(&input.array, input_dtype(input, dtype));
    }
    let arrays: Vec<Array> = inputs.iter().map(|input| input.array.clone()).collect();
    let none: Vec<Option<Tensor>> = vec![None; inputs.len()];
    let dout = |out: &Tensor| {
        let mut reader = reader(card, index, 1);
        tensor(&rounded(&Array::from_fn(out.shape(), |_| reader.normal()), out.dtype()), out.dtype())
    };
    let first = run(card, case, &inputs, dtype, &dout, &none).map_err(|error| error.to_string())?;

    // Forward.
    let want = (card.reference)(case, &arrays);
    let result = first.out.dtype();
    if first.out.shape() != want.shape {
        return Err(format!("out has shape {:?}, the reference {:?}", first.out.shape(), want.shape));
    }
    let relative_out = relative(card, case, dtype, result);
    let absolute = relative_out * rms(&want.data) + card.roundings * smallest(result);
    let tolerance = Tolerance { absolute, relative: relative_out };
    compare("out", &want.shape, &values(&first.out), &want.data, tolerance)?;

    // Backward.
    let dout_values = values(&dout(&first.out));
    let mut positions = reader(card, index, 2);
    for (which, input) in inputs.iter().enumerate().filter(|(_, input)| input.role != Role::Ids) {
        let what = format!("gradient of input {which}");
        let Some(grad) = &first.grads[which] else { return Err(format!("{what} is missing")) };
        if grad.shape() != input.array.shape || grad.dtype() != grad_dtype(input, dtype) {
            return Err(format!("{what} is {grad:?}, the input {:?}", input.array.shape));
        }
        let got = values(grad);
        if let Some(bad) = got.iter().find(|x| !x.is_finite()) {
            return Err(format!("{what} holds {bad}"));
        }
        let at = sample(got.len(), SAMPLE, &mut positions);
        let (want, noise) =
            finite_differences(|x| (card.reference)(case, x), &arrays, which, &dout_values, &at);
        // What cancels to nothing is judged against what went into it.
        let scale = match rms(&want).max(rms(&got)) {
            _ if rms(&want) == 0.0 => {
                rms(&dout_values) * rms(&values(&first.out)) / rms(&input.array.data).max(1e-5)
            }
            scale => scale,
        };
        let relative = relative(card, case, dtype, grad.dtype());
        let absolute =
            relative * scale + noise + card.roundings * smallest(grad.dtype()).max(smallest(dtype));
        let picked: Vec<f64> = at.iter().map(|i| got[*i]).collect();
        compare(&what, &[at.len()], &picked, &want, Tolerance { absolute, relative })
            .map_err(|message| format!("{message}; positions {at:?}"))?;
    }

    // Into gradients that already hold something.
    let mut draw = reader(card, index, 3);
    let initial: Vec<Option<Tensor>> = first
        .grads
        .iter()
        .map(|grad| {
            let grad = grad.as_ref()?;
            let scale = rms(&values(grad));
            let scale = if scale == 0.0 { 1.0 } else { scale };
            let array = Array::from_fn(grad.shape(), |_| scale * draw.normal());
            Some(tensor(&rounded(&array, grad.dtype()), grad.dtype()))
        })
        .collect();
    let second = run(card, case, &inputs, dtype, &dout, &initial).map_err(|error| error.to_string())?;
    for (which, (before, after)) in initial.iter().zip(&second.grads).enumerate() {
        let (Some(before), Some(after), Some(added)) = (before, after, &first.grads[which]) else { continue };
        let (before, added) = (values(before), values(added));
        let want: Vec<f64> = before.iter().zip(&added).map(|(a, b)| a + b).collect();
        // One more rounding of the sum, and one of the gradient alone that the sum may have been spared.
        let relative = 2.0 * after.dtype().epsilon() + relative(card, case, DType::F32, DType::F32);
        let absolute = relative * (rms(&before) + rms(&added)) + 2.0 * smallest(after.dtype());
        compare(
            &format!("accumulated gradient of input {which}"),
            after.shape(),
            &values(after),
            &want,
            Tolerance { absolute, relative },
        )?;
    }

    // The same bits every time, on any number of threads.
    for pool in pools {
        let again =
            pool.install(|| run(card, case, &inputs, dtype, &dout, &none)).map_err(|e| e.to_string())?;
        if bits(&again) != bits(&first) {
            return Err(format!("other bits on {} threads", pool.current_num_threads()));
        }
    }
    Ok(())
}

/// All cards in one dtype; reports every failure.
fn check_all(dtype: DType) {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let pools = [pool(1), pool(2), pool(3)];
    let (mut failures, mut cases, mut skipped) = (Vec::new(), 0, 0);
    for card in ALL {
        for (index, case) in card.cases.iter().enumerate() {
            if out_of_range(case, dtype) {
                skipped += 1;
                continue;
            }
            cases += 1;
            let outcome = catch_unwind(AssertUnwindSafe(|| check(card, index, dtype, &pools)));
            let outcome = outcome.unwrap_or_else(|_| Err("panicked".into()));
            if let Err(message) = outcome {
                failures.push(format!("{} {:?} ({}), {dtype}: {message}", card.name, case.sizes, case.why));
            }
        }
    }
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
