"""Compares model directories with transformers, in both directions.

    check_hf.py --make OUT [--model gpt2|bert] --seed S   writes random directories, each with inputs and transformers' logits
    check_hf.py DIR INPUTS [--save FILE]                  loads DIR with transformers and gives its logits for the inputs
                [--against FILE] [--tolerance X]            and compares them with the logits another program saved
    check_hf.py --both OUT --with PROGRAM [--model ...]   --make, then each directory through PROGRAM and back

GPT-2's INPUTS are ids.json, a list of rows of token ids, all of one length; BERT's are inputs.safetensors with `input_ids`,
`attention_mask` and `token_type_ids` (B, T). FILE is safetensors with `logits` (B, T, V) or, of a bare encoder, `hidden.<i>`.
PROGRAM is called as PROGRAM DIR INPUTS OUT COPY, like the examples dump_logits (GPT-2) and dump_bert of tests/: it writes what it
computes to OUT and the model, as it writes models, to COPY. Differences are bounded in absolute terms.
"""

import argparse
import json
import random
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

logging.disable_progress_bar()

# Odd sizes, and one case for each thing that a loader can forget.
GPT2 = {
    "tied": dict(n_layer=2, n_embd=24, n_head=3, vocab_size=101, n_positions=19),
    "untied": dict(n_layer=1, n_embd=20, n_head=5, vocab_size=67, n_positions=23, tie_word_embeddings=False),
    "one-head": dict(n_layer=3, n_embd=17, n_head=1, vocab_size=53, n_positions=11),
    "inner": dict(n_layer=2, n_embd=12, n_head=2, vocab_size=41, n_positions=13, n_inner=31),
    "gelu-erf": dict(n_layer=2, n_embd=12, n_head=4, vocab_size=43, n_positions=13, activation_function="gelu"),
    "epsilon": dict(n_layer=2, n_embd=16, n_head=2, vocab_size=47, n_positions=13, layer_norm_epsilon=0.05),
    "no-scale": dict(n_layer=2, n_embd=16, n_head=2, vocab_size=47, n_positions=13, scale_attn_weights=False),
    "layer-scale": dict(
        n_layer=3, n_embd=16, n_head=2, vocab_size=47, n_positions=13, scale_attn_by_inverse_layer_idx=True),
}


def bert(layers, width, heads, inner, vocab, positions, **more):
    return dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner,
                vocab_size=vocab, max_position_embeddings=positions, **more)


BERT = {
    "tied": bert(2, 24, 3, 31, 101, 19),
    "untied": bert(1, 20, 5, 40, 67, 23, tie_word_embeddings=False),
    "one-head": bert(3, 17, 1, 29, 53, 11),
    "gelu-tanh": bert(2, 12, 4, 48, 43, 13, hidden_act="gelu_new"),
    "epsilon": bert(2, 16, 2, 64, 47, 13, layer_norm_eps=0.05),
    "segments": bert(2, 16, 2, 19, 47, 17, type_vocab_size=5),
    "one-segment": bert(1, 16, 4, 32, 59, 9, type_vocab_size=1),
    "untied-segments": bert(2, 28, 7, 13, 31, 29, type_vocab_size=3, tie_word_embeddings=False),
    "encoder": bert(2, 16, 2, 64, 47, 13),  # a bare BertModel with its pooler
}


def outputs_of(model, inputs):
    """What is compared: the logits, or a bare encoder's hidden states."""
    with torch.no_grad():
        out = model.eval()(**inputs, output_hidden_states=True)
    if hasattr(out, "logits"):
        return {"logits": out.logits.float().contiguous()}
    return {f"hidden.{i}": state.float().contiguous() for i, state in enumerate(out.hidden_states)}


def read_inputs(path):
    if path.suffix == ".json":
        return {"input_ids": torch.tensor(json.loads(path.read_text()))}
    return load_file(path)


def random_bert(name, sizes):
    kind = BertModel if name == "encoder" else BertForMaskedLM
    return kind(BertConfig(**sizes, attn_implementation="eager"))


def random_gpt2(_, sizes):
    last = sizes["vocab_size"] - 1
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=last, eos_token_id=last, attn_implementation="eager"))


def bert_inputs(sizes, rows):
    """Three rows: full, padded to two thirds, and one real token; segments of any number where there are several."""
    time = sizes["max_position_embeddings"]
    lengths = [time, max(1, 2 * time // 3), 1]
    draw = lambda below: [[rows.randrange(below) for _ in range(time)] for _ in lengths]
    return {
        "input_ids": torch.tensor(draw(sizes["vocab_size"])),
        "attention_mask": torch.tensor([[int(t < length) for t in range(time)] for length in lengths]),
        "token_type_ids": torch.tensor(draw(sizes.get("type_vocab_size", 2))),
    }


def make(out, kind, seed):
    """Writes the random directories; yields each with the path of its inputs."""
    torch.manual_seed(seed)
    rows = random.Random(seed)
    for name, sizes in (BERT if kind == "bert" else GPT2).items():
        model = (random_bert if kind == "bert" else random_gpt2)(name, sizes)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        folder = out / name
        model.save_pretrained(folder)
        if kind == "bert":
            inputs = folder / "inputs.safetensors"
            save_file(bert_inputs(sizes, rows), inputs)
        else:
            inputs = folder / "ids.json"
            time = sizes["n_positions"]
            ids = [[rows.randrange(sizes["vocab_size"]) for _ in range(time)] for _ in range(3)]
            inputs.write_text(json.dumps(ids) + "\n")
        save_file(outputs_of(model, read_inputs(inputs)), folder / "logits.safetensors")
        yield folder, inputs


def load(folder):
    """The directory's model, nothing missing in it and nothing left over but a pooler, which BertForMaskedLM has no use for."""
    config = json.loads((folder / "config.json").read_text())
    encoder = "BertModel" in config.get("architectures", [])
    kinds = {"gpt2": GPT2LMHeadModel, "bert": BertModel if encoder else BertForMaskedLM}
    model, notes = kinds[config["model_type"]].from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        keys = [str(key) for key in notes.get(kind) or [] if ".pooler." not in str(key)]
        if keys:
            raise SystemExit(f"check_hf: {folder}: transformers reports {kind}: {sorted(keys)}")
    return model


def worst(ours, theirs, what):
    """Largest absolute difference; NaN where one side has NaN."""
    differences = []
    for name, want in ours.items():
        if name not in theirs or theirs[name].shape != want.shape:
            raise SystemExit(f"check_hf: {what}: {name} should be {tuple(want.shape)}")
        differences.append((theirs[name].float() - want).abs().max())
    return float(torch.stack(differences).max())


def demand(what, difference, tolerance):
    if not difference <= tolerance:
        raise SystemExit(f"check_hf: {what}: differs by {difference}, allowed {tolerance}")


def check(folder, inputs, save, against, tolerance):
    outputs = outputs_of(load(folder), read_inputs(inputs))
    last = list(outputs.values())[-1]
    result = {"dir": str(folder), "shape": list(last.shape), "sum": float(last.double().sum()),
              "first": last[0, 0, :4].tolist(), "last": last[-1, -1, -4:].tolist()}
    if save:
        save_file(outputs, save)
    if against:
        result["worst_abs"] = worst(outputs, load_file(against), against)
    print(json.dumps(result))
    if against:
        demand(against, result["worst_abs"], tolerance)


def both(out, kind, seed, program, tolerance):
    for folder, inputs in make(out, kind, seed):
        theirs, copy = folder / "theirs.safetensors", folder / "copy"
        subprocess.run([program, folder, inputs, theirs, copy], check=True, stdout=subprocess.DEVNULL)
        reads = worst(load_file(folder / "logits.safetensors"), load_file(theirs), folder)
        writes = worst(outputs_of(load(copy), read_inputs(inputs)), load_file(theirs), copy)
        print(json.dumps({"dir": str(folder), "reads_worst_abs": reads, "writes_worst_abs": writes}))
        demand(f"{folder}, read", reads, tolerance)
        demand(f"{copy}, written", writes, tolerance)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, nargs="?")
    parser.add_argument("inputs", type=Path, nargs="?")
    parser.add_argument("--save", type=Path, help="write transformers' logits here")
    parser.add_argument("--against", type=Path, help="logits to compare with")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--make", type=Path, metavar="OUT", help="write random model directories here")
    parser.add_argument("--both", type=Path, metavar="OUT", help="the same, and check PROGRAM on each, both ways")
    parser.add_argument("--with", dest="program", type=Path, metavar="PROGRAM")
    parser.add_argument("--model", choices=["gpt2", "bert"], default="gpt2")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.both and args.program:
        both(args.both, args.model, args.seed, args.program.resolve(), args.tolerance)
    elif args.make:
        for folder, inputs in make(args.make, args.model, args.seed):
            print(f"{folder}: {inputs.name}")
    elif args.dir and args.inputs:
        check(args.dir, args.inputs, args.save, args.against, args.tolerance)
    else:
        parser.error("give DIR and INPUTS, --make OUT, or --both OUT --with PROGRAM")


if __name__ == "__main__":
    main()
