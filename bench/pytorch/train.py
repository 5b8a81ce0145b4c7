"""Times the textbook training step on the CPU and prints one JSON object.

The step: GPT-2 of width 256, 4 layers, 4 heads, vocabulary 50,257, batch 16 of 128 tokens, dropout 0.1 everywhere,
loss as transformers computes it, backward, global-norm clip 1.0, AdamW lr 5e-5, linear schedule with 100 warm-up steps.
With --model bert a BertForMaskedLM of these sizes, vocabulary 30,522, 15 % of the labels counting: transformers computes the
logits of every position. The tokens are random: no operation's time depends on them.
"""

import argparse
import json
import time
from contextlib import nullcontext

import torch
from transformers import get_linear_schedule_with_warmup

from common import BERT_VOCAB, CONTEXT, VOCAB, environment, median, peak_rss_bytes, textbook_bert, textbook_model

ADAMW = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "bert"], default="gpt2")
    parser.add_argument("--mode", choices=["eager", "compile", "max-autotune"], default="eager")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16 is CPU autocast")
    parser.add_argument("--adamw", choices=list(ADAMW), default="fused", help="the fastest here is fused")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before timing; compilation falls here")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    before = environment()
    bert = args.model == "bert"
    model = (textbook_bert if bert else textbook_model)(args.dropout).train()
    vocab = BERT_VOCAB if bert else VOCAB
    more = {} if bert else {"use_cache": False}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, **ADAMW[args.adamw])
    schedule = get_linear_schedule_with_warmup(optimizer, 100, 1000)
    run = model
    if args.mode != "eager":
        run = torch.compile(model, mode=None if args.mode == "compile" else args.mode, dynamic=False)
    tokens = torch.Generator().manual_seed(2)

    def step():
        ids = torch.randint(0, vocab, (args.batch, CONTEXT), generator=tokens)
        labels = ids
        if bert:
            labels = ids.masked_fill(torch.rand(ids.shape, generator=tokens) >= 0.15, -100)
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16) if args.dtype == "bf16" else nullcontext():
            loss = run(input_ids=ids, labels=labels, **more).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        return time.perf_counter() - start, value

    begin = time.perf_counter()
    for _ in range(args.warmup):
        step()
    warmup_s = time.perf_counter() - begin
    cpu_start = time.process_time()
    timed = [step() for _ in range(args.steps)]
    cpu_seconds = (time.process_time() - cpu_start) / args.steps
    seconds = median([t for t, _ in timed])
    result = {
        "bench": "train", "engine": "pytorch", "model": args.model, "mode": args.mode, "dtype": args.dtype, "adamw": args.adamw,
        "threads": args.threads, "batch": args.batch, "block": CONTEXT, "dropout": args.dropout,
        "parameters": sum(p.numel() for p in model.parameters()),
        "warmup_steps": args.warmup, "warmup_s": round(warmup_s, 1), "steps": args.steps,
        "ms_per_step": round(1e3 * seconds, 1),
        "ms_min": round(1e3 * min(t for t, _ in timed), 1), "ms_max": round(1e3 * max(t for t, _ in timed), 1),
        "cpu_ms_per_step": round(1e3 * cpu_seconds, 1),
        "tokens_per_s": round(args.batch * CONTEXT / seconds, 1),
        "peak_rss_bytes": peak_rss_bytes(), "last_loss": timed[-1][1],
        "loadavg_after": environment()["loadavg"], "environment": before,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
