"""Makes bench/results/<device>-<date>.json and .md of what qualify.sh wrote into a folder.

    python3 bench/gpu/report.py FOLDER
"""

import csv
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


def clocks(path):
    """nvidia-smi's one device: what it said, by the names in its header."""
    rows = list(csv.reader(path.read_text().splitlines(), skipinitialspace=True)) if path.exists() else []
    return dict(zip(rows[0], rows[1])) if len(rows) > 1 else None


def sanitizer(folder):
    """Errors that each tool of compute-sanitizer counted."""
    counted = {}
    for path in sorted(folder.glob("sanitizer_*.out")):
        text = path.read_text(errors="replace") + path.with_suffix(".err").read_text(errors="replace")
        found = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", text)
        counted[path.stem.removeprefix("sanitizer_")] = sum(int(a or b) for a, b in found) if found else None
    return counted


def slowest(path, count=3):
    """Of ncu's raw page, a header, a row of units, a row for each launch: the kernels that took longest together, with their counters."""
    text = path.read_text(errors="replace").splitlines() if path.exists() else []
    start = next((i for i, line in enumerate(text) if line.startswith('"ID"')), None)
    if start is None:
        return []
    header, units, *rows = csv.reader(text[start:])
    unit = dict(zip(header, units)).get("gpu__time_duration.sum", "ns")
    to_us = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}.get(unit, 1.0)
    kernels = {}
    for row in rows:
        row = dict(zip(header, row))
        if "Kernel Name" not in row or not row.get("gpu__time_duration.sum"):
            continue
        number = {key: float(value.replace(",", "")) for key, value in row.items() if "__" in key and value}
        kernel = kernels.setdefault(row["Kernel Name"], {"launches": 0, "time_us": 0.0})
        time = number.pop("gpu__time_duration.sum") * to_us
        kernel["launches"] += 1
        kernel["time_us"] += time
        for key, value in number.items():  # weighted by time
            kernel[key] = kernel.get(key, 0.0) + value * time
    for kernel in kernels.values():
        for key in kernel.keys() - {"launches", "time_us"}:
            kernel[key] /= kernel["time_us"]
    longest = sorted(kernels.items(), key=lambda item: -item[1]["time_us"])
    return [{"kernel": name, **counters} for name, counters in longest[:count]]


def torch(folder, name):
    """What torch did with the same work: of a run without Hopper's kernels, the run with them."""
    return one(folder / f"torch_{name.removesuffix('_sm_80')}.out")


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
        kernels[name] = {"handloom": one(path), "torch": torch(folder, name)}
    for path in sorted(folder.glob("step_*.out")):
        name = path.stem.removeprefix("step_")
        whole[name] = {"handloom": one(path), "torch": torch(folder, name)}
    parity = {path.name: losses(path) for path in sorted((folder / "runs").glob("train_*"))}
    emulated = any(step.get("device") == "emulator" for step in selftest) or not (doctor.get("cuda") or {}).get("available")
    devices = (doctor.get("emulator" if emulated else "cuda") or {}).get("devices") or [{"name": "unknown"}]
    device = devices[0]["name"]
    date = datetime.date.today().isoformat()
    report = {
        "device": device, "date": date, "doctor": doctor, "steps": steps,
        "nvidia_smi": clocks(folder / "nvidia_smi.out"), "sanitizer": sanitizer(folder), "ncu": slowest(folder / "ncu.out"),
        "generate": one(folder / "generate_textbook.out"),
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
    if report["nvidia_smi"]:
        out += [", ".join(f"{name} {value}" for name, value in report["nvidia_smi"].items()), ""]
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
    if report["sanitizer"]:
        counted = ", ".join(f"{tool} {'did not finish' if n is None else n}" for tool, n in report["sanitizer"].items())
        out += ["", f"compute-sanitizer, errors of a run of two steps: {counted}."]
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
    if report["generate"]:
        rate = report["generate"].get("tokens_per_s", {}).get("median")
        out += ["", f"Generation, textbook model, one sequence: {cell(rate, 5)} tokens/s."]
    if report["ncu"]:
        names = ["dram__throughput.avg.pct_of_peak_sustained_elapsed", "sm__throughput.avg.pct_of_peak_sustained_elapsed",
                 "sm__warps_active.avg.pct_of_peak_sustained_active", "launch__registers_per_thread"]
        out += ["", "## The slowest kernels of a step of GPT-2, B=4 (ncu)", "",
                "| kernel | launches | us together | memory % of peak | compute % of peak | active warps % | registers |",
                "|---|---|---|---|---|---|---|"]
        for kernel in report["ncu"]:
            out.append("| " + " | ".join([kernel["kernel"], cell(kernel["launches"]), cell(kernel["time_us"], 4),
                                          *(cell(kernel.get(name)) for name in names)]) + " |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
