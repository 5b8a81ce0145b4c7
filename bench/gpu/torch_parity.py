"""A tiny GPT-2 trained by PyTorch in f32 and by `handloom train --device ...` from the same weights on the same tokens: losses compared.

    python bench/gpu/torch_parity.py --binary target/release/handloom --device cuda

Exits with 1 when a loss differs by more than 1e-4. PyTorch computes on the CPU, so that only one side is under test. The tokenizer
is the embedded GPT-2 one, because a run needs one; the tokens are random.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

LAYERS, WIDTH, HEADS, CONTEXT, VOCAB = 2, 64, 2, 32, 50257
BATCH, STEPS, LR, BETAS, EPS, DECAY, CLIP = 4, 5, 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
TOLERANCE = 1e-4


def initial():
    """Every parameter under its name in the Hugging Face layout; weights of projections are (in, out)."""
    def normal(*shape):
        return torch.randn(*shape) * 0.05

    params = {"transformer.wte.weight": normal(VOCAB, WIDTH), "transformer.wpe.weight": normal(CONTEXT, WIDTH)}
    for i in range(LAYERS):
        block = f"transformer.h.{i}."
        sizes = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH),
                 "mlp.c_fc": (WIDTH, 4 * WIDTH), "mlp.c_proj": (4 * WIDTH, WIDTH)}
        for name, (fan_in, fan_out) in sizes.items():
            params[f"{block}{name}.weight"] = normal(fan_in, fan_out)
            params[f"{block}{name}.bias"] = normal(fan_out)
        for name in ["ln_1", "ln_2"]:
            params[f"{block}{name}.weight"], params[f"{block}{name}.bias"] = 1 + normal(WIDTH), normal(WIDTH)
    params["transformer.ln_f.weight"], params["transformer.ln_f.bias"] = 1 + normal(WIDTH), normal(WIDTH)
    return {name: value.requires_grad_() for name, value in params.items()}


def loss(p, ids, targets):
    x = p["transformer.wte.weight"][ids] + p["transformer.wpe.weight"][: ids.shape[1]]
    for i in range(LAYERS):
        def w(name):
            return p[f"transformer.h.{i}.{name}.weight"], p[f"transformer.h.{i}.{name}.bias"]

        def linear(x, name):
            weight, bias = w(name)
            return x @ weight + bias

        qkv = linear(F.layer_norm(x, (WIDTH,), *w("ln_1")), "attn.c_attn")
        q, k, v = qkv.view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + linear(y, "attn.c_proj")
        y = F.gelu(linear(F.layer_norm(x, (WIDTH,), *w("ln_2")), "mlp.c_fc"), approximate="tanh")
        x = x + linear(y, "mlp.c_proj")
    x = F.layer_norm(x, (WIDTH,), p["transformer.ln_f.weight"], p["transformer.ln_f.bias"])
    return F.cross_entropy((x @ p["transformer.wte.weight"].T).flatten(0, 1), targets.flatten())


def write_model(folder, params):
    """config.json and model.safetensors: an 8-byte length, a JSON header, the data."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
        "n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS, "n_positions": CONTEXT, "vocab_size": VOCAB,
        "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "tie_word_embeddings": True,
    }))
    header, data = {}, b""
    for name, value in params.items():
        raw = value.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.manual_seed(7)
    params = initial()
    tokens = torch.randint(VOCAB, (STEPS * BATCH * CONTEXT,))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        write_model(scratch / "start", params)
        shard = struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253)
        (scratch / "tokens.bin").write_bytes(shard + tokens.to(torch.uint16).numpy().tobytes())
        settings = {
            "model.layers": LAYERS, "model.width": WIDTH, "model.heads": HEADS, "model.context": CONTEXT,
            "model.dropout": 0.0, "tokenizer.name": "gpt2", "data.train": str(scratch / "tokens.bin"), "data.valid": "[]",
            "data.block": CONTEXT, "data.shuffle": "false", "optimizer.lr": LR, "optimizer.betas": list(BETAS),
            "optimizer.eps": EPS, "optimizer.weight_decay": DECAY, "optimizer.clip_norm": CLIP, "schedule.kind": "constant",
            "schedule.warmup_steps": 0, "train.batch": BATCH, "train.steps": STEPS, "train.save_every": 0,
            "train.sample_prompt": "", "train.init_from": str(scratch / "start"),
        }
        command = [args.binary, "train", "--device", args.device, "--out", str(scratch / "run")]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        metrics = [json.loads(line) for line in (scratch / "run" / "metrics.jsonl").read_text().splitlines()]
    ours = [step["loss"] for step in metrics if step.get("loss") is not None]

    decayed = [value for value in params.values() if value.dim() >= 2]
    others = [value for value in params.values() if value.dim() < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    theirs = []
    for rows in tokens.view(STEPS, BATCH, CONTEXT):
        optimizer.zero_grad()
        value = loss(params, rows[:, :-1], rows[:, 1:])
        value.backward()
        torch.nn.utils.clip_grad_norm_(params.values(), CLIP)
        optimizer.step()
        theirs.append(value.item())
    worst = max(abs(a - b) for a, b in zip(ours, theirs)) if len(ours) == len(theirs) else float("inf")
    ok = worst <= TOLERANCE
    print(json.dumps({"bench": "torch_parity", "device": args.device, "handloom": ours, "torch": theirs,
                      "worst": worst, "tolerance": TOLERANCE, "ok": ok}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
