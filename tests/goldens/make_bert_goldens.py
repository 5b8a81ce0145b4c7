"""Writes bert-tiny/: what PyTorch and transformers compute for a small BertForMaskedLM, for Rust tests to read.

As make_goldens.py: f64 arithmetic on f32 inputs, rounded once to f32 when stored; two runs write the same bytes.

    python tests/goldens/make_bert_goldens.py --out tests/goldens
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

from make_goldens import IGNORE, OPTIMIZER, generator, global_norm, mean_loss, save
from transformers import optimization as schedules

VOCAB, T, PAD, MASK = 97, 17, 0, 4


def tiny_model():
    """BERT with every parameter random: no bias is 0 and no layernorm weight is 1, so none can be forgotten."""
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=19, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    model = BertForMaskedLM(config).eval()
    g = generator(11)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if "LayerNorm" in name and name.endswith("weight"):
                p.copy_(1.0 + 0.3 * noise)
            elif name.endswith("bias"):
                p.copy_(0.2 * noise)
            else:
                p.copy_(0.25 * noise)
    return model


def twin(model, dtype):
    other = BertForMaskedLM(model.config).eval()
    other.load_state_dict(model.state_dict())
    other.tie_weights()
    return other.to(dtype)


def random_batch(g, lengths, chosen):
    """Rows of these lengths, padded to T; a share of the real positions is predicted, most of them masked. The second
    part of each row is segment 1."""
    rows = len(lengths)
    ids = torch.randint(5, VOCAB, (rows, T), generator=g)
    targets = torch.full_like(ids, IGNORE)
    mask = torch.ones_like(ids)
    segments = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, length:] = PAD
        mask[row, length:] = 0
        segments[row, int(torch.randint(1, length, (1,), generator=g)) : length] = 1
        picked = torch.rand(T, generator=g) < chosen
        picked[length:] = False
        targets[row, picked] = ids[row, picked]
        ids[row, picked & (torch.rand(T, generator=g) < 0.8)] = MASK
    return ids, targets, mask, segments


def forward(model, batch, **more):
    ids, _, mask, segments = batch
    return model(input_ids=ids, attention_mask=mask, token_type_ids=segments, **more)


def backward(model, batch):
    model.zero_grad(set_to_none=True)
    result = forward(model, batch, output_hidden_states=True)
    loss = mean_loss(result.logits, batch[1])
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return result, loss, grads


def named(batch):
    return dict(zip(("input_ids", "targets", "key_mask", "segment_ids"), batch))


def write_step(model, out):
    """A batch with padding and segments, and one without either."""
    for file, lengths in [("step", [17, 9, 4]), ("plain", [17, 17])]:
        batch = random_batch(generator(12), lengths, 0.5)
        if file == "plain":
            batch = (batch[0], batch[1], batch[2], torch.zeros_like(batch[3]))
        exact = twin(model, torch.float64)
        # A random model is hardly ever right: every third target becomes what it says.
        hits = (batch[1] != IGNORE).nonzero()[::3].T
        batch[1][tuple(hits)] = forward(exact, batch).logits[tuple(hits)].argmax(-1)
        result, loss, grads = backward(exact, batch)
        theirs = forward(model, batch, labels=batch[1]).loss.item()
        if not abs(theirs - loss.item()) < 1e-5:
            raise SystemExit(f"{file}: transformers' loss {theirs} is not ours {loss.item()}")
        _, loss32, grads32 = backward(twin(model, torch.float32), batch)
        meta = {
            "loss_f64": loss.item(),
            "loss_f32": loss32.item(),
            "grad_norm_f64": global_norm(grads),
            "counted_tokens": int((batch[1] != IGNORE).sum()),
            "hits": int((result.logits.argmax(-1) == batch[1]).sum()),
            "f32_grad_worst_relative_to_tensor_max": {
                n: float((grads32[n].double() - g).abs().max() / g.abs().max()) for n, g in grads.items()
            },
        }
        tensors = named(batch) | {"logits": result.logits, "loss": loss}
        tensors |= {f"hidden.{i}": h for i, h in enumerate(result.hidden_states)}
        save(out / f"{file}.safetensors", tensors | {f"grad.{n}": g for n, g in grads.items()}, meta)


def train(model, batches, warmup, clip):
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    exempt = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed}, {"params": exempt, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, foreach=False, **OPTIMIZER)
    schedule = schedules.get_linear_schedule_with_warmup(optimizer, warmup, len(batches))
    losses, norms, rates = [], [], []
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = mean_loss(forward(model, batch).logits, batch[1])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses, norms, rates


def write_adamw(model, out):
    steps, warmup, clip = 20, 4, 1.0
    g = generator(13)
    batches = [random_batch(g, [17, 17, 11, 6], 0.2 if step % 2 else 0.4) for step in range(steps)]
    losses, norms, rates = train(twin(model, torch.float64), batches, warmup, clip)
    losses32, _, _ = train(twin(model, torch.float32), batches, warmup, clip)
    meta = {
        "optimizer": {k: list(v) if isinstance(v, tuple) else v for k, v in OPTIMIZER.items()},
        "schedule": {"kind": "linear", "warmup_steps": warmup, "steps": steps},
        "clip_norm": clip, "lr": rates, "loss_f64": losses, "loss_f32": losses32, "grad_norm_f64": norms,
    }
    stacked = [torch.stack(parts) for parts in zip(*batches)]
    save(out / "adamw.safetensors", named(stacked), meta)


def main():
    parser = argparse.ArgumentParser(description="Writes the golden files of BERT that Rust tests read.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write bert-tiny/ into")
    out = parser.parse_args().out / "bert-tiny"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)
    model = tiny_model()
    model.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    write_step(model, out)
    write_adamw(model, out)
    summary = {f.name: f.stat().st_size for f in sorted(out.iterdir())}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
