//! One case of one card on one device: forward and gradients against the f64 reference, accumulation, and the same bits again.

use super::close::{Tolerance, compare, rms};
use super::oracle::{finite_differences, input_dtype, rounded, sample, smallest, tensor, values};
use super::plain::{self, Rounding};
use crate::cards::{Array, Card, Case, Input, Role, Values};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::philox::{Reader, Stream};
use crate::tape::Tape;
use crate::tensor::Tensor;

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
    device: Device,
    dout: &dyn Fn(&Tensor) -> Tensor,
    initial: &[Option<Tensor>],
) -> Result<Run> {
    let tape = Tape::new();
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|input| {
            let value = tensor(&input.array, input_dtype(input, dtype)).to_device(device)?;
            Ok(if input.role == Role::Ids { value } else { tape.leaf(&value, grad_dtype(input, dtype)) })
        })
        .collect::<Result<_>>()?;
    let out = (card.forward)(case, &leaves)?;
    let mut grads = tape.gradients();
    for (leaf, initial) in leaves.iter().zip(initial) {
        if let Some(initial) = initial {
            grads.set(leaf.grad_id(), initial.to_device(device)?);
        }
    }
    tape.backward(&out, dout(&out).to_device(device)?, &mut grads)?;
    let host = |grad: Option<Tensor>| grad.map(|grad| grad.to_device(Device::Cpu)).transpose();
    let grads = leaves.iter().map(|leaf| host(grads.take(leaf.grad_id()))).collect::<Result<_>>()?;
    Ok(Run { out: out.to_device(Device::Cpu)?, grads })
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
pub fn out_of_range(case: &Case, dtype: DType) -> bool {
    dtype == DType::F16 && matches!(case.values, Values::Scaled(std) if std > 1e4)
}

/// Runs case `index` of a card; `again` gives places (thread pools) in which the same bits must come out once more.
///
/// # Errors
/// What differs, with coordinates, values and tolerance.
pub fn check(
    card: &Card,
    index: usize,
    dtype: DType,
    device: Device,
    again: &[rayon::ThreadPool],
) -> Result<(), String> {
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
    let first = run(card, case, &inputs, dtype, device, &dout, &none).map_err(|error| error.to_string())?;

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
    let plain = match dtype {
        DType::F32 => None,
        _ if device == Device::Cpu => None,
        _ => {
            let gradients = |rounding| plain::gradients(card, case, &arrays, &dout_values, rounding);
            gradients(Rounding::NONE).zip(gradients(Rounding::plain(dtype)))
        }
    };
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
        let picked: Vec<f64> = at.iter().map(|i| got[*i]).collect();
        if let Some((exact, plainly)) = &plain {
            // All of them, against formulas that the differences vouch for.
            let formula: Vec<f64> = at.iter().map(|i| exact[which][*i]).collect();
            let tolerance = Tolerance { absolute: 1e-6 * scale + noise, relative: 1e-6 };
            compare(&format!("formula of the {what}"), &[at.len()], &formula, &want, tolerance)?;
            plain::judge(&what, &got, &exact[which], &plainly[which], grad.dtype(), 0.0)?;
            continue;
        }
        let relative = relative(card, case, dtype, grad.dtype());
        let absolute =
            relative * scale + noise + card.roundings * smallest(grad.dtype()).max(smallest(dtype));
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
    let second =
        run(card, case, &inputs, dtype, device, &dout, &initial).map_err(|error| error.to_string())?;
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
    let runs = || run(card, case, &inputs, dtype, device, &dout, &none).map_err(|error| error.to_string());
    if bits(&runs()?) != bits(&first) {
        return Err("other bits in a second run".into());
    }
    for pool in again {
        if bits(&pool.install(runs)?) != bits(&first) {
            return Err(format!("other bits on {} threads", pool.current_num_threads()));
        }
    }
    Ok(())
}
