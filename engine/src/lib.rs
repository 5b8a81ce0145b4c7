//! The tensor engine: dtypes, tensors, the autograd tape and the ops a Transformer needs.
