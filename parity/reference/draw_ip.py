"""diffusers' picture by any model and IP-Adapter, to compare with `samecast generate` of the same options.

`draw_ip.py MODEL ADAPTER ENCODER IMAGE OUT.png [--prompt P] [--negative N] [--steps 28] [--cfg 7] [--seed 0] [--size 512] [--scale 0.6]`:
MODEL and ENCODER are folders, ADAPTER is a file of the kinds that see pictures. In f32 on the CPU with DPM-Solver++, samecast's default.
`--compare OTHER.png` says how far another picture lies from it.
"""

import argparse
from pathlib import Path

import numpy
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from common import pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "adapter", "encoder", "image", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--prompt", default="a portrait of a woman")
    parser.add_argument("--negative", default="")
    parser.add_argument("--compare", type=Path)
    for name, kind, default in (("steps", int, 28), ("cfg", float, 7.0), ("seed", int, 0), ("size", int, 512), ("scale", float, 0.6)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    given = parser.parse_args()
    torch.set_num_threads(2)
    pipe = pipeline(given.model)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    encoder = CLIPVisionModelWithProjection.from_pretrained(given.encoder, dtype=torch.float32)
    side = encoder.config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    pipe.register_modules(image_encoder=encoder, feature_extractor=processor)
    pipe.load_ip_adapter(str(given.adapter.parent), subfolder="", weight_name=given.adapter.name, image_encoder_folder=None)
    pipe.set_ip_adapter_scale(given.scale)
    image = pipe(
        given.prompt,
        negative_prompt=given.negative,
        ip_adapter_image=Image.open(given.image),
        num_inference_steps=given.steps,
        guidance_scale=given.cfg,
        width=given.size,
        height=given.size,
        generator=torch.Generator("cpu").manual_seed(given.seed),
    ).images[0]
    image.save(given.out)
    if given.compare:
        ours, theirs = (numpy.asarray(one).astype(float) for one in (Image.open(given.compare), image))
        error = abs(ours - theirs)
        print(f"{given.compare}: mean |Δ| {error.mean():.4f} of 255, at most {error.max():.0f}; spread of the picture {theirs.std():.0f}")


if __name__ == "__main__":
    main()
