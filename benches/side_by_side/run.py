#!/usr/bin/env python3
"""Times samecast and PyTorch side by side, on the same numbers, in turns, and writes a table of ratios.

    python benches/side_by_side/run.py --out side-by-side --model full/diffusers
    python benches/side_by_side/run.py --only "conv 3x3" --only attention --rounds 9
    python benches/side_by_side/run.py --device cuda --dtype bf16 --out side-by-side --model full/diffusers

Wants the packages of parity/reference/requirements.txt. Kernels need nothing else. Whole models (text encoder, UNet step, VAE decode, LoRA step) want
--model, a diffusers folder of Stable Diffusion 1.5's size: `parity/reference/make_full.py OUTDIR` writes one with random weights.

OUT.md gets the table, OUT.json all figures. Only one side computes at a time: A B A B …, each as often as --rounds says or the budget of the
case allows, and medians are compared. "Off by" is how far the two results differ, over 64 places of them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Seconds of a turn that do not count.
WAKING = 0.15
MODELS = ("text_encoder", "unet", "vae_decode", "lora_step")
# Square products; the peak is the best of them by either side.
PEAK = [{"name": f"peak {n}", "op": "product", "rows": n, "inner": n, "columns": n} for n in (1024, 2048, 3072)]


class Side:
    """A process that answers one line at a time, and sleeps meanwhile."""

    def __init__(self, name, command, environment):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        # Threads that spin for more work are asleep again by then.
        time.sleep(0.03)
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build(profile, device):
    """The command that answers for samecast."""
    command = ["cargo", "build", "--locked", "-p", "samecast-benches", "--bin", "side", "--message-format=json"]
    if device != "cpu":
        command += ["--no-default-features", "--features", device]
    if profile != "dev":
        command += ["--profile", profile]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise SystemExit("cargo could not build samecast's side")
    made = [json.loads(line).get("executable") for line in built.stdout.splitlines() if line.startswith("{")]
    return [next(path for path in reversed(made) if path)]


def measure(sides, case, backward, options, model=None):
    """Medians and ratio of one case, in turns."""
    result = {"case": case["name"], "way": "forward+backward" if backward or case["op"] == "lora_step" else "forward"}
    first = {}
    for side in sides:
        count = side.name == "torch"
        first[side.name] = side.ask(prepare=case, backward=backward, model=model, count=count)
        if "error" in first[side.name]:
            return result | {"error": f"{side.name}: {first[side.name]['error']}"}
    ours, theirs = (first[side.name]["sample"] for side in sides)
    size = sum(x * x for x in theirs) ** 0.5
    result["off_by"] = sum((x - y) ** 2 for x, y in zip(ours, theirs)) ** 0.5 / max(size, 1e-30)
    # The first calls were the warm-up; short cases run several times a turn.
    slowest = max(answer["seconds"] for answer in first.values())
    each = max(1, min(20, int(0.05 / slowest)))
    rounds = max(2, min(options.rounds, int(options.budget / (2 * slowest * each)))) if slowest * 4 < options.budget else 1
    times = {side.name: [] for side in sides}
    # What is short has a turn more, which tells how many of its calls fill that time.
    short = slowest < WAKING
    for turn in range(rounds + short):
        for side in sides:
            # After a pause a system may let both threads share a core for a while, so the first calls of a turn do not count.
            idle = int(WAKING / times[side.name][-1]) if turn else 0
            found = statistics.median(side.ask(run=idle + each)["seconds"][idle:])
            times[side.name].append(found)
    times = {name: found[short:] for name, found in times.items()}
    result["turns"] = rounds
    result["seconds"] = {name: statistics.median(found) for name, found in times.items()}
    result["spread"] = {name: [min(found), max(found)] for name, found in times.items()}
    ratios = [a / b for a, b in zip(times["samecast"], times["torch"])]
    result["ratio"] = statistics.median(ratios)
    result["flops"] = first["torch"].get("flops", 0)
    return result


def shown(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def table(report):
    peak = report["peak_flops"]
    lines = [
        f"samecast and PyTorch {report['torch']} on {report['machine']}, {report['threads']} threads each, {report['dtype']} on {report['device']}, in turns; "
        f"medians. The machine's matrix products reach {peak / 1e9:.0f} GFLOP/s at best.",
        "",
        "| case | | samecast | PyTorch | ratio | share of peak: samecast | PyTorch | off by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["cases"]:
        if "error" in row:
            lines.append(f"| {row['case']} | {row['way']} | {row['error']} | | | | | |")
            continue
        share = lambda name: f"{row['flops'] / row['seconds'][name] / peak:.0%}" if row["flops"] else ""
        ours, theirs = row["seconds"]["samecast"], row["seconds"]["torch"]
        lines.append(
            f"| {row['case']} | {row['way']} | {shown(ours)} | {shown(theirs)} | {row['ratio']:.2f} "
            f"| {share('samecast')} | {share('torch')} | {row['off_by']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def machine():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("side-by-side"), help="OUT.md and OUT.json are written")
    parser.add_argument("--model", type=Path, help="a diffusers folder; without it, whole models are left out")
    parser.add_argument("--only", action="append", metavar="WORDS", help="cases whose name has these words; may be given several times")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side at most")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds that a case may take, about; a slower one has one turn")
    parser.add_argument("--profile", default="release", help="cargo's profile; debug assertions, as dev has them, make matrix products five times slower")
    parser.add_argument("--binary", type=Path, help="samecast's side as built before (the program `side`), in place of building it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what both sides compute on")
    parser.add_argument("--dtype", choices=("f32", "f16", "bf16"), default="f32", help="weights and activations, on a GPU but for the VAE and training steps, which are f32; on the processor bf16 is what samecast's products are rounded to, and PyTorch's own")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.device == "cpu" and options.dtype == "f16":
        parser.error("--dtype f16: on the processor samecast computes in f32, or its products in bf16; --device cuda has f16")
    if options.binary and not options.binary.is_file():
        parser.error(f"--binary {options.binary}: no such file")
    if options.model and not (options.model / "unet" / "config.json").is_file():
        parser.error(f"--model {options.model}: no diffusers folder; unet/config.json is not there")
    cases = json.loads((HERE / "cases.json").read_text())
    cases = [case for case in cases if not options.only or any(words in case["name"] for words in options.only)]
    if not cases:
        parser.error(f"--only: no case is called so; there are {', '.join(case['name'] for case in json.loads((HERE / 'cases.json').read_text()))}")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this PyTorch finds no CUDA device")
    threads = str(options.threads)
    environment = os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    ours = [str(options.binary.resolve())] if options.binary else build(options.profile, options.device)
    sides = [
        Side("samecast", ours + [options.dtype], environment | {"BURN_DEVICE": "flex" if options.device == "cpu" else options.device}),
        Side("torch", [sys.executable, str(HERE / "torch_side.py"), "--threads", threads, "--device", options.device, "--dtype", options.dtype], environment),
    ]
    name = torch.cuda.get_device_name() if options.device == "cuda" else machine()
    report = {"machine": name, "device": options.device, "dtype": options.dtype, "threads": options.threads, "torch": torch.__version__, "profile": str(options.binary or options.profile), "cases": []}
    peaks = [measure(sides, case, False, options) for case in PEAK]
    if any("error" in row for row in peaks):
        raise SystemExit(next(row["error"] for row in peaks if "error" in row))
    report["peaks"] = peaks
    report["peak_flops"] = max(row["flops"] / row["spread"][side.name][0] for row in peaks for side in sides)
    for case in cases:
        if case["op"] in MODELS and not options.model:
            print(f"{case['name']}: left out; it wants --model", file=sys.stderr)
            continue
        for backward in (False,) if case.get("forward_only") else (False, True):
            model = str(options.model.resolve()) if options.model else None
            row = measure(sides, case, backward, options, model)
            report["cases"].append(row)
            told = row.get("error") or f"{row['ratio']:.2f}"
            print(f"{case['name']}, {row['way']}: {told}", file=sys.stderr)
            # What is known is kept, should the run be cut short.
            options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
            options.out.with_suffix(".md").write_text(table(report))
    for side in sides:
        side.close()
    print(table(report), end="")
    sys.exit(1 if any("error" in row for row in report["cases"]) else 0)


if __name__ == "__main__":
    main()
