"""A training step in PyTorch on the GPU: torch.compile, bf16 autocast, flash attention, fused AdamW.

    python bench/gpu/torch_step.py --model gpt2 --batch 64

Prints one JSON object. The model is GPT-2's layers written out here. With --device cpu it runs on the CPU, by the clock and not
compiled: to see that it runs.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = {  # layers, width, heads, context, vocabulary
    "gpt2": (12, 768, 12, 1024, 50304),
    "textbook": (4, 256, 4, 128, 50257),
    "tiny": (2, 64, 2, 32, 97),
}


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.fc_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, time, width = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.fc_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, layers, width, heads, context, vocab):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))


class Watch:
    """Milliseconds of a stretch of work: by events on a GPU, else by the clock."""

    def __init__(self, device):
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else None

    def __enter__(self):
        if self.events:
            self.events[0].record()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.ms = (time.perf_counter() - self.start) * 1e3
        if self.events:
            self.events[1].record()
            self.events[1].synchronize()
            self.ms = self.events[0].elapsed_time(self.events[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SIZES), default="gpt2")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    layers, width, heads, context, vocab = SIZES[args.model]
    model = Gpt2(layers, width, heads, context, vocab).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    args.eager |= args.device == "cpu"
    run = model if args.eager else torch.compile(model, dynamic=False)
    ids = torch.randint(vocab, (args.batch, context + 1), device=args.device)
    times = []
    for step in range(args.warmup + args.steps):
        with Watch(args.device) as watch:
            with torch.autocast(args.device, dtype=torch.bfloat16):
                loss = run(ids[:, :-1], ids[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step >= args.warmup:
            times.append(watch.ms)
    ms = statistics.median(times)
    print(json.dumps({
        "bench": "train", "engine": "torch", "mode": "eager" if args.eager else "compile", "model": args.model,
        "batch": args.batch, "block": context, "ms_per_step": ms, "tokens_per_s": args.batch * context / ms * 1e3,
        "peak_bytes": torch.cuda.max_memory_allocated() if args.device == "cuda" else None, "loss": loss.item(), "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
    }))


if __name__ == "__main__":
    main()
