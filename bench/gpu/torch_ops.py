"""One op in PyTorch on the GPU, forward and backward, timed like `handloom bench op`: a CUDA graph over rotating inputs.

    python bench/gpu/torch_ops.py --op linear_in_out_bias --shape 16384x2304x768 --dtype bf16

With --device cpu it runs on the CPU, by the clock and without a graph: to see that it runs.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ROTATE_BYTES = 128e6  # more than twice the second-level cache of an H100


def tensors(op, sizes, dtype, device):
    """The inputs of one run: those that need gradients first in the tuple of leaves, ids apart."""
    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype, requires_grad=True)

    if op.startswith("linear_in_out"):
        rows, outputs, k = sizes
        leaves = (randn(rows, k), randn(outputs, k), randn(outputs))
        if op == "linear_in_out_gelu":
            return leaves, lambda x, w, b: F.gelu(F.linear(x, w, b), approximate="tanh")
        if op == "linear_in_out_residual":
            return leaves + (randn(rows, outputs),), lambda x, w, b, r: r + F.linear(x, w, b)
        return leaves, F.linear
    if op == "matmul_nn":
        m, n, k = sizes
        return (randn(m, k), randn(k, n)), torch.matmul
    if op == "attention_packed":
        batch, time, _, heads, size = sizes

        def attention(qkv):
            q, k, v = qkv.view(batch, time, 3, heads, size).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        return (randn(batch, time, 3 * heads * size),), attention
    if op == "layernorm":
        rows, cols = sizes
        return (randn(rows, cols), randn(cols), randn(cols)), lambda x, w, b: F.layer_norm(x, (cols,), w, b)
    if op == "residual_layernorm":
        rows, cols = sizes
        return (randn(rows, cols), randn(rows, cols), randn(cols), randn(cols)), (
            lambda r, x, w, b: F.layer_norm(r + x, (cols,), w, b))
    if op == "gelu_tanh":
        return (randn(*sizes),), lambda x: F.gelu(x, approximate="tanh")
    if op == "softmax":
        return (randn(*sizes),), lambda x: F.softmax(x, -1)
    if op == "cross_entropy":
        rows, vocab = sizes
        targets = torch.randint(vocab, (rows,), device=device)
        return (randn(rows, vocab),), lambda x: F.cross_entropy(x, targets)
    if op == "linear_cross_entropy":
        rows, vocab, cols = sizes
        targets = torch.randint(vocab, (rows,), device=device)
        return (randn(rows, cols), randn(vocab, cols)), lambda x, w: F.cross_entropy(F.linear(x, w), targets)
    if op == "embedding":
        rows, vocab, cols = sizes
        ids = torch.randint(vocab, (rows,), device=device)
        return (randn(vocab, cols),), lambda w: F.embedding(ids, w)
    raise SystemExit(f"torch_ops: no counterpart of {op}")


def clock_seconds(runs, sets, f):
    """Median seconds of f over one set, by the host's clock."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        for one in sets:
            f(one)
        times.append((time.perf_counter() - start) / len(sets))
    return statistics.median(times[1:])


def graph_seconds(runs, sets, f):
    """Median device seconds of f over one set."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            f(sets[0])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for one in sets:
            f(one)
    times = []
    for run in range(runs + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if run >= 2:
            times.append(start.elapsed_time(end) * 1e-3 / len(sets))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", required=True)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    sizes = [int(n) for n in args.shape.split("x")]
    dtype = DTYPES[args.dtype]
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    leaves, f = tensors(args.op, sizes, dtype, args.device)
    each = sum(x.numel() * x.element_size() for x in leaves)
    count = max(2, min(16, int(ROTATE_BYTES / each) + 1)) if args.device == "cuda" else 2
    sets = [leaves] + [tensors(args.op, sizes, dtype, args.device)[0] for _ in range(count - 1)]

    def forward(x):
        return f(*x)

    def both(x):
        out = f(*x)
        torch.autograd.grad(out, x, torch.ones_like(out))

    seconds = graph_seconds if args.device == "cuda" else clock_seconds
    forward_s, both_s = seconds(args.runs, sets, forward), seconds(args.runs, sets, both)
    print(json.dumps({
        "bench": "op", "engine": "torch", "op": args.op, "sizes": sizes, "dtype": args.dtype,
        "forward_ms": forward_s * 1e3, "backward_ms": (both_s - forward_s) * 1e3,
        "torch": torch.__version__, "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
    }))


if __name__ == "__main__":
    main()
