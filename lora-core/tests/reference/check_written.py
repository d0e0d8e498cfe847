"""Loads what the test `what_is_written_reads_back_as_the_peers_weights` wrote into diffusers and peft, and compares what each file adds to
the weights with what the file adds from which it was made.

    check_written.py FOLDER        (FOLDER is `tmp/lora-core-written` in Cargo's target folder)
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

torch.set_num_threads(1)
REFERENCE = Path(__file__).parents[3] / "parity" / "reference"
PARTS = ("unet", "text_encoder")


def weights(pipe):
    return {f"{part}.{key}": value.clone() for part in PARTS for key, value in getattr(pipe, part).state_dict().items()}


def added(folder, name):
    # In f32 throughout: transformers would take the text encoder's type from its file.
    options = dict(torch_dtype=torch.float32, safety_checker=None, local_files_only=True)
    pipe = StableDiffusionPipeline.from_pretrained(REFERENCE / "tiny-sd", **options)
    before = weights(pipe)
    pipe.load_lora_weights(folder, weight_name=name)
    pipe.fuse_lora(components=list(PARTS))
    pipe.unload_lora_weights()
    after = weights(pipe)
    return {key: after[key] - before[key] for key in before if not torch.equal(after[key], before[key])}


def main():
    folder = Path(sys.argv[1])
    for name in ("kohya", "locon", "peft"):
        theirs = added(REFERENCE / "lora", f"{name}.safetensors")
        for tag in ("kohya", "peft"):
            ours = added(folder, f"{name}.{tag}.safetensors")
            assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())[:5]
            worst = max(((ours[key] - theirs[key]).norm() / theirs[key].norm()).item() for key in theirs)
            largest = max((ours[key] - theirs[key]).abs().max().item() for key in theirs)
            tensors = len(load_file(folder / f"{name}.{tag}.safetensors"))
            print(f"{name} as {tag}: {tensors} tensors, {len(ours)} weights, ΔW differs by {worst:.1e} relative, {largest:.1e} absolute")
            assert worst < 1e-6


if __name__ == "__main__":
    main()
