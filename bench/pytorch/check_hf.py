"""Compares model directories with transformers, in both directions.

    check_hf.py --make OUT --seed S          writes random GPT-2 directories, each with ids and transformers' logits
    check_hf.py DIR IDS.json [--save FILE]   loads DIR with transformers and gives its logits for the ids
                [--against FILE] [--tolerance X]   and compares them with the logits another program saved

IDS.json is a list of rows of token ids, all of one length. FILE is safetensors with one tensor `logits` (B, T, V).
Each directory that --make writes holds config.json, model.safetensors, ids.json and logits.safetensors.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

# Odd sizes, and one case for each thing that a loader can forget.
CASES = {
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


def logits_of(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(ids)).logits.float()


def make(out, seed):
    torch.manual_seed(seed)
    rows = random.Random(seed)
    for name, sizes in CASES.items():
        last = sizes["vocab_size"] - 1
        config = GPT2Config(**sizes, bos_token_id=last, eos_token_id=last, attn_implementation="eager")
        model = GPT2LMHeadModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        length = sizes["n_positions"]
        ids = [[rows.randrange(sizes["vocab_size"]) for _ in range(length)] for _ in range(3)]
        folder = out / name
        model.save_pretrained(folder)
        (folder / "ids.json").write_text(json.dumps(ids) + "\n")
        save_file({"logits": logits_of(model, ids)}, folder / "logits.safetensors")
        print(f"{folder}: B=3, T={length}, V={sizes['vocab_size']}")


def check(folder, ids_file, save, against, tolerance):
    model, notes = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if notes.get(kind):
            raise SystemExit(f"check_hf: {folder}: transformers reports {kind}: {sorted(map(str, notes[kind]))}")
    logits = logits_of(model, json.loads(ids_file.read_text()))
    b, t, v = logits.shape
    result = {"dir": str(folder), "shape": [b, t, v], "sum": float(logits.double().sum()),
              "first": logits[0, 0, :4].tolist(), "last": logits[-1, -1, -4:].tolist()}
    if save:
        save_file({"logits": logits}, save)
    if against:
        theirs = load_file(against)["logits"].float()
        if theirs.shape != logits.shape:
            raise SystemExit(f"check_hf: {against} is {tuple(theirs.shape)}, transformers gives {(b, t, v)}")
        result["worst_abs"] = float((theirs - logits).abs().max())
    print(json.dumps(result))
    if against and not result["worst_abs"] <= tolerance:
        raise SystemExit(f"check_hf: logits differ by {result['worst_abs']}, allowed {tolerance}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, nargs="?")
    parser.add_argument("ids", type=Path, nargs="?")
    parser.add_argument("--save", type=Path, help="write transformers' logits here")
    parser.add_argument("--against", type=Path, help="logits to compare with")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--make", type=Path, metavar="OUT", help="write random model directories here")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.seed)
    elif args.dir and args.ids:
        check(args.dir, args.ids, args.save, args.against, args.tolerance)
    else:
        parser.error("give DIR and IDS.json, or --make OUT")


if __name__ == "__main__":
    main()
