# Shortcuts; each is one command you can also type.

# Everything continuous integration runs
check:
    bash .ci/run

# The tests of one crate or one name: just test layernorm
test NAME="":
    cargo test --workspace {{NAME}}

# Where the time of a training step goes
profile *ARGS:
    cargo run --release -- bench train {{ARGS}}

# Side by side with PyTorch (its Python must be active)
compare *ARGS:
    cargo build --release
    python bench/compare.py {{ARGS}}

# Compile the CUDA kernels (CUDA=ROOT of the toolkit, see kernels/toolkit.txt)
kernels:
    cargo run -p handloom-kernels --bin build-kernels

# Everything about the GPU at hand, or the emulated one: just qualify --device emulator
qualify *ARGS:
    cargo build --release --workspace
    bench/gpu/qualify.sh {{ARGS}}
