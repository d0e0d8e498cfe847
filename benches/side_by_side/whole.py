#!/usr/bin/env python3
"""Times whole processes side by side: `samecast generate` and diffusers draw the same picture from the same checkpoint, in turns, from the
start of the process to the picture on the disk; and a table of seconds, peak memory and how far the pictures differ is written.

    python benches/side_by_side/whole.py --model full/diffusers --out whole
    python benches/side_by_side/whole.py --model full/diffusers --samecast target/release/samecast --steps 4 --rounds 1

Wants the packages of parity/reference/requirements.txt, and a diffusers folder of Stable Diffusion 1.5's size, as
`parity/reference/make_full.py OUTDIR` writes it. With the package stable-diffusion-cpp-python installed and --single FILE (the same weights as
one .safetensors file), stable-diffusion.cpp takes part too. Peak memory is the process's largest resident set, as the system counts it.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROMPT = "a portrait of a woman reading under a tree, smiling, soft light"

DIFFUSERS = """
import sys, torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
model, prompt, size, steps, seed, out, threads, dtype = sys.argv[1:]
torch.set_num_threads(int(threads))
pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=getattr(torch, dtype), safety_checker=None)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.set_progress_bar_config(disable=True)
drawn = pipe(prompt, width=int(size), height=int(size), num_inference_steps=int(steps), generator=torch.Generator().manual_seed(int(seed)))
drawn.images[0].save(out)
"""

SDCPP = """
import sys
from stable_diffusion_cpp import StableDiffusion
model, prompt, size, steps, seed, out, threads = sys.argv[1:]
drawn = StableDiffusion(model_path=model, n_threads=int(threads), verbose=False).generate_image(
    prompt=prompt, width=int(size), height=int(size), sample_steps=int(steps), seed=int(seed), cfg_scale=7.5, sample_method="euler")
drawn[0].save(out)
"""


def run(command, environment):
    """Seconds and bytes of a process from its start to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        raise SystemExit(f"{command[0]} failed:\n{told.decode(errors='replace')[-2000:]}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def difference(one, other):
    """Mean absolute difference of two pictures, of 255."""
    import numpy
    from PIL import Image

    one, other = (numpy.asarray(Image.open(path).convert("RGB"), dtype=numpy.float32) for path in (one, other))
    return float(abs(one - other).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--single", type=Path, help="the same weights in one file, for stable-diffusion.cpp")
    parser.add_argument("--samecast", type=Path, default=ROOT / "target/release/samecast", help="the program, built with --release")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    parser.add_argument("--leave-out", action="append", default=[], metavar="SIDE", help="such as 'samecast --precision f32'; may be given several times")
    parser.add_argument("--out", type=Path, default=Path("whole"), help="OUT.md and OUT.json are written")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for path in (options.samecast, options.model / "unet" / "config.json"):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    threads = str(options.threads)
    environment = os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    size, steps, seed = str(options.size), str(options.steps), "7"
    with tempfile.TemporaryDirectory() as folder:
        picture = lambda name: str(Path(folder) / f"{name}.png")

        def samecast(name, *more):
            line = [str(options.samecast), "generate", "--device", "cpu", "--model", str(options.model), "--prompt", PROMPT, "--sampler", "ddim", "--cfg", "7.5"]
            return line + ["--width", size, "--height", size, "--steps", steps, "--seed", seed, "--out", picture(name), "--quiet", *more]

        def diffusers(name, dtype):
            return [sys.executable, "-c", DIFFUSERS, str(options.model), PROMPT, size, steps, seed, picture(name), threads, dtype]

        sides = {
            "samecast": samecast("samecast"),
            "samecast --precision f32": samecast("samecast --precision f32", "--precision", "f32"),
            "samecast --precision bf16": samecast("samecast --precision bf16", "--precision", "bf16"),
            "diffusers, f32": diffusers("diffusers, f32", "float32"),
            "diffusers, bf16": diffusers("diffusers, bf16", "bfloat16"),
        }
        if options.single and importlib.util.find_spec("stable_diffusion_cpp"):
            name = "stable-diffusion.cpp"
            sides[name] = [sys.executable, "-c", SDCPP, str(options.single), PROMPT, size, steps, seed, picture(name), threads]
        reference = "diffusers, f32"
        sides = {name: command for name, command in sides.items() if name == reference or name not in options.leave_out}
        found = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, command in sides.items():
                Path(picture(name)).unlink(missing_ok=True)
                found[name].append(run(command, environment))
                print(f"{name}: {found[name][-1][0]:.1f} s, {found[name][-1][1] / 1e9:.2f} GB", file=sys.stderr)
        rows = []
        for name, runs in found.items():
            same = name != "stable-diffusion.cpp"
            rows.append(
                {
                    "side": name,
                    "seconds": statistics.median(seconds for seconds, _ in runs),
                    "ratio": statistics.median(ours[0] / theirs[0] for ours, theirs in zip(runs, found[reference])),
                    "peak": max(peak for _, peak in runs),
                    "off_by": difference(picture(name), picture(reference)) if same else None,
                    "runs": runs,
                }
            )
    report = {"threads": options.threads, "steps": options.steps, "size": options.size, "rounds": options.rounds, "rows": rows}
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [
        f"{options.size}×{options.size}, {options.steps} steps of ddim, the whole process, {options.threads} threads, medians of {options.rounds} turns.",
        "",
        "| | seconds | ratio to diffusers | peak memory | mean difference of 255 |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        off = "" if row["off_by"] is None else f"{row['off_by']:.3f}"
        lines.append(f"| {row['side']} | {row['seconds']:.1f} | {row['ratio']:.2f} | {row['peak'] / 1e9:.2f} GB | {off} |")
    table = "\n".join(lines) + "\n"
    options.out.with_suffix(".md").write_text(table)
    print(table, end="")


if __name__ == "__main__":
    main()
