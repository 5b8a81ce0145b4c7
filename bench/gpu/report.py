"""Makes bench/results/<device>-<date>.json and .md of what qualify.sh wrote into a folder.

    python3 bench/gpu/report.py FOLDER
"""

import datetime
import json
import re
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"


def lines(path):
    """The JSON objects of a file that has one on each of some lines."""
    found = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    pass
    return found


def one(path):
    """A file's JSON object: a single one a line, or the whole file."""
    found = lines(path)
    if found:
        return found[-1]
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def losses(run):
    return [step["loss"] for step in lines(run / "metrics.jsonl") if step.get("loss") is not None]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    steps = lines(folder / "steps.jsonl")
    doctor = one(folder / "doctor.out") or {}
    selftest = lines(folder / "selftest.out")
    kernels, whole = {}, {}
    for path in sorted(folder.glob("bench_*.out")):
        name = path.stem.removeprefix("bench_")
        kernels[name] = {"handloom": one(path), "torch": one(folder / f"torch_{name}.out")}
    for path in sorted(folder.glob("step_*.out")):
        name = path.stem.removeprefix("step_")
        whole[name] = {"handloom": one(path), "torch": one(folder / f"torch_{name}.out")}
    parity = {path.name: losses(path) for path in sorted((folder / "runs").glob("train_*"))}
    emulated = any(step.get("device") == "emulator" for step in selftest)
    devices = (doctor.get("emulator" if emulated else "cuda") or {}).get("devices") or [{"name": "unknown"}]
    device = devices[0]["name"]
    date = datetime.date.today().isoformat()
    report = {
        "device": device, "date": date, "doctor": doctor, "steps": steps,
        "nvidia_smi": (folder / "nvidia_smi.out").read_text() if (folder / "nvidia_smi.out").exists() else None,
        "selftest": {
            "cases": sum(card["cases"] for card in selftest), "failed": sum(card["failed"] for card in selftest),
            "failures": [line for card in selftest for line in card["failures"]],
        },
        "losses": parity, "torch_parity": one(folder / "torch_parity.out"), "kernels": kernels, "training": whole,
    }
    stem = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + "-" + date
    RESULTS.mkdir(exist_ok=True)
    target = folder if emulated else RESULTS  # times of an emulated device are no results
    (target / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    (target / f"{stem}.md").write_text(markdown(report))
    print(f"report: {target / stem}.json and .md")


def cell(value, digits=3):
    return "-" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def ratio(a, b):
    return None if not a or not b else a / b


def markdown(report):
    out = [f"# {report['device']}, {report['date']}", ""]
    test = report["selftest"]
    out += [f"Self test: {test['cases']} cases, {test['failed']} failed.", ""]
    out += ["| step | status | seconds | |", "|---|---|---|---|"]
    out += [f"| {s['step']} | {s['status']} | {s['seconds']} | {s['detail']} |" for s in report["steps"]]
    out += ["", "## Losses of the first steps", "", "| run | losses | largest difference to the CPU |", "|---|---|---|"]
    cpu = report["losses"].get("train_cpu_fp32", [])
    for name, values in report["losses"].items():
        worst = max((abs(a - b) for a, b in zip(values, cpu)), default=None)
        out.append(f"| {name} | {', '.join(f'{x:.6f}' for x in values)} | {cell(worst)} |")
    if report["torch_parity"]:
        out += ["", f"Beside PyTorch, f32, largest difference of {len(report['torch_parity']['torch'])} losses: "
                f"{report['torch_parity']['worst']:.2g}."]
    out += ["", "## Kernels", "",
            "| kernel | sizes | forward ms | torch | torch / ours | backward ms | torch | torch / ours | GB/s | TFLOP/s |",
            "|---|---|---|---|---|---|---|---|---|---|"]
    for name, pair in report["kernels"].items():
        ours, torch = pair["handloom"] or {}, pair["torch"] or {}
        flops = ours.get("forward_gflops")
        out.append("| " + " | ".join([
            name, "x".join(map(str, ours.get("sizes", []))),
            cell(ours.get("forward_ms")), cell(torch.get("forward_ms")),
            cell(ratio(torch.get("forward_ms"), ours.get("forward_ms"))),
            cell(ours.get("backward_ms")), cell(torch.get("backward_ms")),
            cell(ratio(torch.get("backward_ms"), ours.get("backward_ms"))),
            cell(ours.get("forward_gb_per_s"), 4), cell(flops and flops / 1e3, 4)]) + " |")
    out += ["", "## Training steps", "", "| model | ms | tokens/s | torch tokens/s | ours / torch |", "|---|---|---|---|---|"]
    for name, pair in report["training"].items():
        ours, torch = pair["handloom"] or {}, pair["torch"] or {}

        def number(key):
            value = ours.get(key)
            return value["median"] if isinstance(value, dict) else value

        out.append("| " + " | ".join([
            name, cell(number("ms_per_step"), 4), cell(number("tokens_per_s"), 6), cell(torch.get("tokens_per_s"), 6),
            cell(ratio(number("tokens_per_s"), torch.get("tokens_per_s")))]) + " |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
