"""Times torch.matmul at 1024^3 and at the textbook step's shapes and prints one JSON object (GFLOP/s, median).

`gflops_per_cpu_second` counts the CPU time of all threads: with --threads 1 it is a core's speed on a busy machine too;
with more threads, waiting at the end of a parallel region counts as work.
"""

import argparse
import json
import time

import torch

from common import environment, median

# (name, M, K, N, form): nn is A (M, K) x B (K, N); nt takes B as (N, K); tn takes A as (K, M).
SHAPES = [
    ("square", 1024, 1024, 1024, "nn"),
    ("qkv", 2048, 256, 768, "nn"),
    ("attn_proj", 2048, 256, 256, "nn"),
    ("fc", 2048, 256, 1024, "nn"),
    ("fc_proj", 2048, 1024, 256, "nn"),
    ("fc_dweight", 256, 2048, 1024, "tn"),
    ("fc_dinp", 2048, 1024, 256, "nt"),
    ("lm_head", 2048, 256, 50257, "nt"),
    ("lm_head_dinp", 2048, 50257, 256, "nn"),
    ("lm_head_dweight", 50257, 2048, 256, "tn"),
    ("lm_head_token", 1, 256, 50257, "nt"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="at least so long for each shape")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    before = environment()
    dtype = torch.float32 if args.dtype == "f32" else torch.bfloat16
    rows = []
    for name, m, k, n, form in SHAPES:
        a = torch.randn((k, m) if form == "tn" else (m, k)).to(dtype)
        b = torch.randn((n, k) if form == "nt" else (k, n)).to(dtype)
        a = a.t() if form == "tn" else a
        b = b.t() if form == "nt" else b
        out = torch.empty(m, n, dtype=dtype)
        torch.matmul(a, b, out=out)
        times = []
        cpu_start = time.process_time()
        while sum(times) < args.seconds or len(times) < 5:
            start = time.perf_counter()
            torch.matmul(a, b, out=out)
            times.append(time.perf_counter() - start)
        cpu_seconds = (time.process_time() - cpu_start) / len(times)
        seconds = median(times)
        rows.append({
            "name": name, "M": m, "K": k, "N": n, "form": form, "runs": len(times),
            "us": round(1e6 * seconds, 1), "gflops": round(2 * m * k * n / seconds / 1e9, 1),
            "gflops_best": round(2 * m * k * n / min(times) / 1e9, 1),
            "gflops_per_cpu_second": round(2 * m * k * n / cpu_seconds / 1e9, 1),
        })
    result = {
        "bench": "matmul", "engine": "pytorch", "dtype": args.dtype, "threads": args.threads, "shapes": rows,
        "loadavg_after": environment()["loadavg"], "environment": before,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
