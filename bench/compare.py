"""The textbook case in Handloom and PyTorch, alternating in one run: medians and ratios.

    python bench/compare.py [--only train|bert|generate] [--rounds 3] [--out bench/results/NAME.json]

Needs a release build (cargo build --release) and, in the Python that runs this, bench/pytorch/requirements.txt.
Each round runs every program once, one after the other, so that a change in the machine's speed meets all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HANDLOOM = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "handloom"
TORCH = ROOT / "bench" / "pytorch"

TRAIN = {
    "handloom f32": [str(HANDLOOM), "bench", "train", "--json"],
    "pytorch f32 compile": [sys.executable, str(TORCH / "train.py"), "--mode", "compile"],
    "pytorch f32 eager": [sys.executable, str(TORCH / "train.py")],
}
MASKED = [str(HANDLOOM), "bench", "train", "--json", "--set", "model.kind=bert", "--set", "objective.kind=mlm"]
BERT = {
    "handloom f32": MASKED,
    "handloom f32, head on every row": MASKED + ["--set", "objective.mask_prob=1"],
    "pytorch f32 compile": [sys.executable, str(TORCH / "train.py"), "--model", "bert", "--mode", "compile"],
    "pytorch f32 eager": [sys.executable, str(TORCH / "train.py"), "--model", "bert"],
}
GENERATE = {
    "handloom f32": [str(HANDLOOM), "bench", "generate", "--json"],
    "transformers f32": [sys.executable, str(TORCH / "generate.py")],
}

PARTS = {
    "train": ("Training step, GPT-2, width 256, 4 layers, 50,257 tokens, 16 x 128, dropout 0.1", TRAIN),
    "bert": ("Training step, BERT, width 256, 4 layers, 30,522 tokens, 16 x 128, 15 % masked, dropout 0.1", BERT),
    "generate": ("Generation, GPT-2 of the same sizes, 120 tokens", GENERATE),
}


def run(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def number(value):
    """A figure that may be a number or {"median": number}."""
    return value["median"] if isinstance(value, dict) else value


def compare(programs, rounds, steps):
    runs = {name: [] for name in programs}
    for round_ in range(rounds):
        for name, command in programs.items():
            result = run(command + steps)
            runs[name].append({
                "tokens_per_s": number(result["tokens_per_s"]),
                "peak_rss_bytes": result["peak_rss_bytes"],
                "load": os.getloadavg()[0],
            })
            print(f"round {round_ + 1}: {name}: {runs[name][-1]['tokens_per_s']:.1f} tokens/s", file=sys.stderr)
    first = next(iter(programs))
    table = {}
    for name, results in runs.items():
        # Ratios are taken inside a round, then their median.
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(runs[first], results)]
        table[name] = {
            "tokens_per_s": statistics.median(r["tokens_per_s"] for r in results),
            "peak_rss_mb": statistics.median(r["peak_rss_bytes"] for r in results) / 1e6,
            "handloom_is_faster_by": statistics.median(ratios),
            "runs": results,
        }
    return table


def show(title, table):
    print(f"\n{title}\n")
    print("| program | tokens/s | peak resident MB | Handloom is faster by |")
    print("|---|---|---|---|")
    for name, row in table.items():
        print(f"| {name} | {row['tokens_per_s']:.0f} | {row['peak_rss_mb']:.0f} | {row['handloom_is_faster_by']:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(PARTS), help="one part instead of all")
    parser.add_argument("--steps", type=int, help="timed steps a round, of the training parts")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = {"cpus": os.cpu_count(), "rounds": args.rounds, "load_at_start": os.getloadavg()[0]}
    for part, (title, programs) in PARTS.items():
        if args.only in (None, part):
            steps = ["--steps", str(args.steps)] if args.steps and part != "generate" else []
            report[part] = compare(programs, args.rounds, steps)
            show(title, report[part])
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
