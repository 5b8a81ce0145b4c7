//! Two linear layers with GELU between them, as one op: backward multiplies with GELU's derivative where the product is stored.

use super::linear::{Layer, WeightLayout};
use crate::error::Result;
use crate::ops::gelu::Gelu;
use crate::ops::view;
use crate::tape::{is_recording, record};
use crate::tensor::Tensor;

/// A linear layer's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// (in, out) or (out, in), as the layout says.
    pub weight: &'a Tensor,
    /// (out)
    pub bias: Option<&'a Tensor>,
    pub layout: WeightLayout,
}

impl<'a> Weights<'a> {
    fn tensors(&self) -> impl Iterator<Item = &'a Tensor> {
        [self.weight].into_iter().chain(self.bias)
    }
}

/// out = residual + gelu(inp W1 + b1) W2 + b2, W1 and b1 those of `first`. Saves inp, what GELU gets and what it gives.
///
/// # Shapes
/// inp (..., K), first K to H, second H to N, residual and out (..., N).
///
/// # Errors
/// As [`linear`](super::linear) of either layer.
pub fn mlp(
    inp: &Tensor,
    first: Weights,
    form: Gelu,
    second: Weights,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let _time = crate::profile::scope("mlp", crate::profile::Pass::Forward);
    const OP: &str = "mlp";
    let inputs = [inp].into_iter().chain(first.tensors()).chain(second.tensors()).chain(residual);
    let parents: Vec<&Tensor> = inputs.collect();
    let layer = Layer::new(OP, inp, first.weight, first.bias, first.layout, None)?;
    let (activated, pre) = layer.forward(Some(form), is_recording(&parents))?;
    let first = layer.saved()?;
    let layer = Layer::new(OP, &activated, second.weight, second.bias, second.layout, residual)?;
    let (out, _) = layer.forward(None, false)?;
    let Some(pre) = pre else { return Ok(out) };
    let (second, inp_id, residual_id) = (layer.saved()?, inp.grad_id(), residual.and_then(Tensor::grad_id));
    Ok(record(OP, &parents, out, move |dout, grads| {
        grads.add(residual_id, dout.clone())?;
        let dout = view::reshape(&dout, &second.out_shape())?;
        second.parameter_gradients(&dout, grads)?;
        if inp_id.is_none() && !first.has_parameter_gradients() {
            return Ok(());
        }
        let dpre = second.pre_activation_gradient(&dout, &pre, form)?;
        drop((second, pre, dout));
        first.parameter_gradients(&dpre, grads)?;
        grads.write(inp_id, |dinp, accumulate| first.input_gradient(dinp, &dpre, accumulate))
    }))
}
