//! The tensor engine: dtypes, tensors, the autograd tape, and the ops a Transformer needs.
//!
//! An op is a function in [`ops`]: it checks shapes, calls its device's kernel, and records its backward on the
//! [`tape::Tape`] that follows its inputs. The CPU kernels are in [`cpu`]. Each op has a card in [`cards`] with its formula,
//! an f64 reference and test cases; tests, gradient checks, benchmarks and the docs table are driven by the list.
//!
//! ```
//! use handloom_engine::{dtype::DType, ops, tape::Tape, tensor::Tensor};
//!
//! let tape = Tape::new();
//! let x = tape.leaf(&Tensor::from_slice(&[1.0f32, 2.0, 3.0], &[3])?, DType::F32);
//! let y = ops::reduce::sum(&ops::elementwise::mul(&x, &x)?)?; // y = sum of x^2
//! let mut grads = tape.gradients();
//! tape.backward(&y, Tensor::scalar(1.0), &mut grads)?;
//! assert_eq!(grads.take(x.grad_id()).unwrap().to_vec_f32(), [2.0, 4.0, 6.0]); // dy/dx = 2x
//! # Ok::<(), handloom_engine::error::Error>(())
//! ```

pub mod cards;
pub mod check;
pub mod cpu;
pub mod device;
pub mod dtype;
pub mod error;
mod memory;
pub mod ops;
pub mod optimizer;
pub mod philox;
pub mod profile;
pub mod storage;
pub mod tape;
pub mod tensor;
