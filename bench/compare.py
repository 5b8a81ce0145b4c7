"""The textbook case in Handloom and PyTorch, alternating in one run: medians and ratios.

    python bench/compare.py [--rounds 3] [--out bench/results/NAME.json]

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
HANDLOOM = ROOT / "target" / "release" / "handloom"
TORCH = ROOT / "bench" / "pytorch"

TRAIN = {
    "handloom f32": [str(HANDLOOM), "bench", "train", "--json"],
    "pytorch f32 compile": [sys.executable, str(TORCH / "train.py"), "--mode", "compile"],
    "pytorch f32 eager": [sys.executable, str(TORCH / "train.py")],
}
GENERATE = {
    "handloom f32": [str(HANDLOOM), "bench", "generate", "--json"],
    "transformers f32": [sys.executable, str(TORCH / "generate.py")],
}


def run(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def number(value):
    """A figure that may be a number or {"median": number}."""
    return value["median"] if isinstance(value, dict) else value


def compare(programs, rounds):
    runs = {name: [] for name in programs}
    for round_ in range(rounds):
        for name, command in programs.items():
            result = run(command)
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
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = {"cpus": os.cpu_count(), "rounds": args.rounds}
    report["train"] = compare(TRAIN, args.rounds)
    report["generate"] = compare(GENERATE, args.rounds)
    show("Training step, width 256, 4 layers, 50,257 tokens, 16 x 128, dropout 0.1", report["train"])
    show("Generation, same model, 120 tokens", report["generate"])
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
