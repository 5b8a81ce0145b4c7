"""Writes the golden files beside this script: what PyTorch and transformers compute, for Rust tests to read.

What it is not: part of any test run. `cargo test` reads only the files. README.md says what each holds.
Versions: requirements.txt. Everything is computed in f64 from f32 inputs and rounded once to f32 when stored,
unless a name says otherwise. Two runs on one machine write the same bytes.

    python tests/goldens/make_goldens.py --out tests/goldens
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers import optimization as schedules

IGNORE = -100
TINY = dict(n_layer=2, n_embd=24, n_head=3, vocab_size=101, n_positions=19)
T = 17


def generator(seed):
    return torch.Generator().manual_seed(seed)


def save(path, tensors, meta):
    """One metadata key, so that the order of a hash map cannot change the bytes."""
    kept = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if tensor.dtype == torch.float64 and not name.endswith("_f64"):
            tensor = tensor.float()
        kept[name] = tensor.contiguous().clone()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SystemExit(f"{path.name}: {name} holds a value that is not finite")
    save_file(kept, path, metadata={"json": json.dumps(meta, sort_keys=True)})


# ---- the model and one step --------------------------------------------------------------------------------------


def tiny_model():
    """GPT-2 with every parameter random: no bias is 0 and no layernorm weight is 1, so none can be forgotten."""
    config = GPT2Config(
        **TINY, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=100, eos_token_id=100,
        attn_implementation="eager",
    )
    model = GPT2LMHeadModel(config).eval()
    g = generator(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if ".ln_" in name and name.endswith("weight"):
                p.copy_(1.0 + 0.3 * noise)
            elif name.endswith("bias"):
                p.copy_(0.2 * noise)
            else:
                p.copy_(noise * (0.35 if "wte" in name else 0.25))
    return model


def twin(model, dtype):
    """The same weights in a model of its own, so that runs do not touch each other."""
    other = GPT2LMHeadModel(model.config).eval()
    other.load_state_dict(model.state_dict())
    return other.to(dtype)


def random_batch(g, rows, ignored):
    """ids, labels as transformers takes them (unshifted), and targets: targets[:, t] = labels[:, t + 1]."""
    ids = torch.randint(0, TINY["vocab_size"], (rows, T), generator=g)
    labels = ids.clone()
    labels[torch.rand(rows, T, generator=g) < ignored] = IGNORE
    targets = torch.full_like(labels, IGNORE)
    targets[:, :-1] = labels[:, 1:]
    return ids, labels, targets


def mean_loss(logits, targets):
    """Mean over counted tokens in the logits' own precision; transformers' own loss casts logits to f32 first."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORE)


def backward(model, ids, targets):
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=ids).logits
    loss = mean_loss(logits, targets)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return logits, loss, grads


def global_norm(grads):
    return math.sqrt(sum(float(g.double().square().sum()) for g in grads.values()))


def write_step(model, out):
    ids, labels, targets = random_batch(generator(2), 3, 0.2)
    exact = twin(model, torch.float64)
    logits, loss, grads = backward(exact, ids, targets)
    theirs = model(input_ids=ids, labels=labels).loss.item()
    if not abs(theirs - loss.item()) < 1e-5:
        raise SystemExit(f"step: transformers' loss {theirs} is not ours {loss.item()}: the shift is wrong")
    _, loss32, grads32 = backward(twin(model, torch.float32), ids, targets)
    meta = {
        "loss_f64": loss.item(),
        "loss_f32": loss32.item(),
        "grad_norm_f64": global_norm(grads),
        "counted_tokens": int((targets != IGNORE).sum()),
        "f32_grad_worst_relative_to_tensor_max": max(
            float((grads32[n].double() - g).abs().max() / g.abs().max()) for n, g in grads.items()
        ),
    }
    tensors = {"input_ids": ids, "labels": labels, "targets": targets, "logits": logits, "loss": loss}
    tensors["grad_norm"] = torch.tensor(meta["grad_norm_f64"])
    save(out / "step.safetensors", tensors | {f"grad.{n}": g for n, g in grads.items()}, meta)


def write_accumulate(model, out):
    """Two micro-batches with different numbers of counted tokens; the gradients are those of all tokens at once."""
    g = generator(3)
    first, second = random_batch(g, 2, 0.05), random_batch(g, 2, 0.7)
    ids = torch.cat([first[0], second[0]])
    targets = torch.cat([first[2], second[2]])
    exact = twin(model, torch.float64)
    _, loss, grads = backward(exact, ids, targets)
    parts = [backward(exact, batch[0], batch[2]) for batch in (first, second)]
    counts = [int((batch[2] != IGNORE).sum()) for batch in (first, second)]
    for name, grad in grads.items():
        weighted = sum(c * part[2][name] for c, part in zip(counts, parts)) / sum(counts)
        if not (weighted - grad).abs().max() < 1e-12:
            raise SystemExit(f"accumulate: token-weighted gradients of {name} differ from the big batch")
    tensors = {
        "micro0.input_ids": first[0], "micro0.targets": first[2],
        "micro1.input_ids": second[0], "micro1.targets": second[2], "loss": loss,
    }
    meta = {
        "loss_f64": loss.item(),
        "micro_losses_f64": [part[1].item() for part in parts],
        "counted_tokens": counts,
        "grad_norm_f64": global_norm(grads),
    }
    save(out / "accumulate.safetensors", tensors | {f"grad.{n}": g for n, g in grads.items()}, meta)


# ---- training runs -----------------------------------------------------------------------------------------------

OPTIMIZER = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


def train(model, batches, warmup, steps, clip, autocast=False):
    """Losses, gradient norms before clipping, and the learning rate each step used."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    exempt = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed}, {"params": exempt, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, foreach=False, **OPTIMIZER)
    schedule = schedules.get_linear_schedule_with_warmup(optimizer, warmup, steps)
    losses, norms, rates = [], [], []
    for ids, _, targets in batches:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids).logits
        loss = mean_loss(logits.float() if autocast else logits, targets)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return losses, norms, rates


def write_adamw(model, out):
    steps, warmup, clip = 20, 4, 1.0
    g = generator(4)
    batches = [random_batch(g, 4, 0.1 if step % 2 else 0.5) for step in range(steps)]
    exact, single = twin(model, torch.float64), twin(model, torch.float32)
    losses, norms, rates = train(exact, batches, warmup, steps, clip)
    losses32, norms32, _ = train(single, batches, warmup, steps, clip)
    final, final32 = exact.state_dict(), single.state_dict()
    meta = {
        "optimizer": {k: list(v) if isinstance(v, tuple) else v for k, v in OPTIMIZER.items()},
        "schedule": {"kind": "linear", "warmup_steps": warmup, "steps": steps},
        "clip_norm": clip,
        "lr": rates,
        "loss_f64": losses,
        "loss_f32": losses32,
        "grad_norm_f64": norms,
        "grad_norm_f32": norms32,
        "f32_param_worst_abs": {
            n: float((final32[n].double() - p.detach()).abs().max()) for n, p in exact.named_parameters()
        },
    }
    tensors = {
        "input_ids": torch.stack([b[0] for b in batches]),
        "labels": torch.stack([b[1] for b in batches]),
        "targets": torch.stack([b[2] for b in batches]),
    }
    tensors |= {f"final.{n}": final[n] for n, _ in exact.named_parameters()}
    save(out / "adamw.safetensors", tensors, meta)


def write_bf16(model, out):
    """Loss curves of 50 steps under CPU autocast to bf16 and in f32, on a text that can be learnt."""
    steps, warmup, clip = 50, 5, 2.0  # this clip acts on the early steps and leaves the late ones alone
    g = generator(5)
    batches = []
    for _ in range(steps):
        start = torch.randint(0, TINY["vocab_size"], (4, 1), generator=g)
        stride = torch.randint(1, 4, (4, 1), generator=g)
        ids = (start + stride * torch.arange(T)) % TINY["vocab_size"]
        targets = torch.full_like(ids, IGNORE)
        targets[:, :-1] = ids[:, 1:]
        batches.append((ids, ids, targets))
    half, norms_half, rates = train(twin(model, torch.float32), batches, warmup, steps, clip, autocast=True)
    single, norms, _ = train(twin(model, torch.float32), batches, warmup, steps, clip)
    meta = {
        "optimizer": {k: list(v) if isinstance(v, tuple) else v for k, v in OPTIMIZER.items()},
        "schedule": {"kind": "linear", "warmup_steps": warmup, "steps": steps},
        "clip_norm": clip, "lr": rates,
        "loss_bf16_autocast": half, "loss_f32": single,
        "grad_norm_bf16_autocast": norms_half, "grad_norm_f32": norms,
    }
    tensors = {
        "input_ids": torch.stack([b[0] for b in batches]).to(torch.int32),
        "targets": torch.stack([b[2] for b in batches]).to(torch.int32),
    }
    save(out / "bf16.safetensors", tensors, meta)


# ---- single ops --------------------------------------------------------------------------------------------------


def run(function, inputs, dtype, dout):
    leaves = {n: x.clone().to(dtype).requires_grad_() for n, x in inputs.items()}
    out = function(**leaves)
    out.backward(dout.to(dtype))
    return leaves, out


def case(tensors, meta, prefix, inputs, function, g):
    """Stores inputs, outputs, a random upstream gradient and the gradients, all from f64 arithmetic.

    The metadata says how far PyTorch's own f32 kernels are from them: what a tolerance can ask for.
    """
    dout = torch.randn(function(**inputs).shape, generator=g)
    leaves, out = run(function, inputs, torch.float64, dout)
    leaves32, out32 = run(function, inputs, torch.float32, dout)
    worst = {f"d{n}": float((leaves32[n].grad - leaf.grad).abs().max()) for n, leaf in leaves.items()}
    worst["out"] = float((out32 - out).detach().abs().max())
    meta.setdefault(prefix, {})["torch_f32_worst_abs"] = worst
    for name, leaf in leaves.items():
        tensors[f"{prefix}.{name}"] = inputs[name]
        tensors[f"{prefix}.d{name}"] = leaf.grad
    tensors[f"{prefix}.out"], tensors[f"{prefix}.dout"] = out, dout
    return {name: leaf.detach() for name, leaf in leaves.items()}


def attention(qkv, heads, allowed):
    """qkv (B, T, 3 * NH * HS) as GPT-2 packs it; allowed broadcasts to (B, NH, T, T). Returns (B, T, NH * HS)."""
    b, t, width = qkv.shape
    q, k, v = (x.view(b, t, heads, width // 3 // heads).transpose(1, 2) for x in qkv.split(width // 3, dim=2))
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~allowed, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, width // 3), scores.logsumexp(-1)


def write_ops(out):
    g = generator(6)
    normal = lambda *shape: torch.randn(shape, generator=g)
    tensors, meta = {}, {}

    special = [0.0, 1e-30, 1e-8, 1e-4, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.5, 8.0, 10.0, 14.0, 20.0]
    inp = torch.cat([torch.tensor([s * v for v in special for s in (1.0, -1.0)]), 3.0 * normal(71)])
    case(tensors, meta, "gelu_tanh", {"inp": inp}, lambda inp: F.gelu(inp, approximate="tanh"), g)
    case(tensors, meta, "gelu_erf", {"inp": inp}, lambda inp: F.gelu(inp), g)

    # Rows: plain, plain, mean >> std, mean >> std negative, variance far below eps, constant, large.
    shift = torch.tensor([0.0, 0.5, 1000.0, -1000.0, 0.3, 2.0, 0.0])[:, None]
    scale = torch.tensor([1.0, 2.0, 1.0, 1.0, 1e-4, 0.0, 1e4])[:, None]
    rows = shift + scale * normal(7, 33)
    norm = lambda inp, weight, bias: F.layer_norm(inp, (33,), weight, bias, 1e-5)
    parts = {"inp": rows, "weight": 1 + 0.3 * normal(33), "bias": 0.3 * normal(33)}
    x = case(tensors, meta, "layernorm", parts, norm, g)
    tensors["layernorm.mean"] = x["inp"].mean(1)
    tensors["layernorm.rstd"] = (x["inp"].var(1, unbiased=False) + 1e-5).rsqrt()
    meta["layernorm"]["eps"] = 1e-5

    rows = normal(6, 37) * torch.tensor([1.0, 5.0, 1e-3, 30.0, 1.0, 1.0])[:, None]
    rows = rows + torch.tensor([0.0, 0.0, 0.0, 0.0, 1e4, -1e4])[:, None]
    case(tensors, meta, "softmax", {"inp": rows}, lambda inp: inp.softmax(-1), g)

    targets = torch.randint(0, 53, (9,), generator=g)
    targets[[0, 4, 7]] = IGNORE
    targets[1], targets[8] = 0, 52
    logits = 4 * normal(9, 53)
    logits[2] += 500.0
    loss = lambda logits: F.cross_entropy(logits, targets, ignore_index=IGNORE)
    x = case(tensors, meta, "cross_entropy", {"logits": logits}, loss, g)
    tensors["cross_entropy.targets"] = targets
    tensors["cross_entropy.row_losses"] = F.cross_entropy(x["logits"], targets, ignore_index=IGNORE, reduction="none")

    ids = torch.tensor([[3, 0, 3, 10, 7], [7, 3, 1, 1, 3], [10, 10, 2, 0, 5]])
    case(tensors, meta, "embedding", {"weight": normal(11, 6)}, lambda weight: F.embedding(ids, weight), g)
    tensors["embedding.ids"] = ids

    parts = {"inp": normal(2, 3, 5), "weight": normal(5, 7), "bias": normal(7)}
    case(tensors, meta, "linear", parts, lambda inp, weight, bias: inp @ weight + bias, g)

    b, t, heads, size = 2, 7, 3, 5
    meta["attention"] = {"B": b, "T": t, "NH": heads, "HS": size, "scale": 1 / math.sqrt(size)}
    causal = torch.ones(t, t, dtype=torch.bool).tril()
    x = case(tensors, meta, "attention_causal", {"qkv": 1.5 * normal(b, t, 3 * heads * size)},
             lambda qkv: attention(qkv, heads, causal)[0], g)
    tensors["attention_causal.lse"] = attention(x["qkv"], heads, causal)[1]
    keys = torch.ones(b, t, dtype=torch.bool)
    keys[1, 4:] = False
    keys[0, 2] = False
    allowed = keys[:, None, None, :]
    x = case(tensors, meta, "attention_padded", {"qkv": 1.5 * normal(b, t, 3 * heads * size)},
             lambda qkv: attention(qkv, heads, allowed)[0], g)
    tensors["attention_padded.lse"] = attention(x["qkv"], heads, allowed)[1]
    tensors["attention_padded.key_mask"] = keys.to(torch.uint8)
    save(out / "ops.safetensors", tensors, meta)


# ---- schedules and generation ------------------------------------------------------------------------------------


def write_schedules(out):
    steps, warmup, decay = 50, 7, 13
    wsd = lambda **more: lambda o: schedules.get_wsd_schedule(o, warmup, decay, num_training_steps=steps, **more)
    kinds = {
        "constant": lambda o: schedules.get_constant_schedule_with_warmup(o, warmup),
        "linear": lambda o: schedules.get_linear_schedule_with_warmup(o, warmup, steps),
        "cosine": lambda o: schedules.get_cosine_schedule_with_warmup(o, warmup, steps),
        "cosine_final_0.1": lambda o: schedules.get_cosine_with_min_lr_schedule_with_warmup(
            o, warmup, steps, min_lr_rate=0.1),
        "wsd_cosine": wsd(),
        "wsd_cosine_final_0.1": wsd(min_lr_ratio=0.1),
        "wsd_linear": wsd(decay_type="linear"),
        "wsd_1-sqrt": wsd(decay_type="1-sqrt"),
    }
    result = {"steps": steps, "warmup_steps": warmup, "wsd_decay_steps": decay, "multipliers": {}}
    for name, make in kinds.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(optimizer)
        values = []
        for _ in range(steps):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        result["multipliers"][name] = values
    (out / "schedules.json").write_text(json.dumps(result, indent=0) + "\n")


def greedy(model, prompt, new_tokens):
    ids = torch.tensor([prompt])
    result = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
        pad_token_id=100, use_cache=True,
    )[0].tolist()
    with torch.no_grad():
        logits = model.double()(torch.tensor([result])).logits[0]
    top = logits[len(prompt) - 1 : -1].topk(2).values
    margin = float((top[:, 0] - top[:, 1]).min())
    if len(result) != len(prompt) + new_tokens or margin < 1e-2:
        raise SystemExit(f"generate: {len(result)} ids, narrowest choice {margin}; pick another prompt")
    return {"prompt": prompt, "new_tokens": result[len(prompt) :], "narrowest_margin": margin}


def filtered(logits, temperature, top_k, top_p):
    """transformers' order: temperature, then top-k, then top-p. top_k 0 and top_p 1 mean off."""
    scores = torch.tensor([logits], dtype=torch.float64)
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        below = scores.softmax(-1).sort().values.cumsum(-1)
        if not ((below - (1 - top_p)).abs() > 1e-3).all():
            raise SystemExit(f"generate: top_p {top_p} falls on a cumulative probability; pick other logits")
        scores = TopPLogitsWarper(top_p)(None, scores)
    return {
        "logits": logits, "temperature": temperature, "top_k": top_k, "top_p": top_p,
        "probs": scores.softmax(-1)[0].tolist(),
    }


def write_generate(model, out):
    g = generator(7)
    cases = []
    settings = [(50, 0.95), (5, 0.8), (0, 0.5), (7, 1.0), (3, 0.1), (0, 1.0), (1, 0.95)]
    for width, (top_k, top_p) in [(w, s) for w in (23, 64) for s in settings]:
        logits = (3 * torch.randn(width, generator=g)).tolist()
        cases.append(filtered(logits, 0.9, top_k, top_p))
    # A tie at the k-th place: transformers keeps every token that ties with it.
    cases.append(filtered([1.0, 3.0, 2.0, 2.0, 0.0, 2.0, -1.0], 0.9, 2, 1.0))
    result = {
        "greedy": [greedy(twin(model, torch.float32), p, 12) for p in ([5, 77, 31], [95, 76, 63, 74, 68, 48, 24])],
        "filtered": cases,
    }
    (out / "generate.json").write_text(json.dumps(result, indent=0) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Writes the golden files that Rust tests read.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tiny = out / "gpt2-tiny"
    tiny.mkdir(parents=True, exist_ok=True)
    model = tiny_model()
    model.save_pretrained(tiny)
    (tiny / "generation_config.json").unlink(missing_ok=True)
    write_step(model, tiny)
    write_accumulate(model, tiny)
    write_adamw(model, tiny)
    write_bf16(model, tiny)
    write_ops(out)
    write_schedules(out)
    write_generate(model, out)


if __name__ == "__main__":
    main()
