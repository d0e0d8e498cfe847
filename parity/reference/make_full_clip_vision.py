"""Writes an image encoder of published size with random weights, and what transformers computes with it: `make_full_clip_vision.py OUTDIR
[--size vit-h-14|vit-l-14|vit-bigg-14]`.

OUTDIR gets `config.json`, `model.safetensors` in f16 (1.3 GB for ViT-H/14) and `expected.safetensors` with `pixels`, `image_embeds`,
`penultimate` and `last` in f32. `cargo run --release -p sd-pipeline --example check_image_encoder -- OUTDIR` compares.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from common import draw, initialise
from make_clip_vision import FULL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--size", choices=FULL, default="vit-h-14")
    given = parser.parse_args()
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**FULL[given.size])).eval()
    initialise(model, 30, lambda key: 1.3 if "q_proj" in key or "k_proj" in key else 1.0)
    model.half().save_pretrained(given.outdir)
    pixels = draw("full.pixels", (1, 3, 224, 224))
    model.float()
    start = time.time()
    with torch.no_grad():
        out = model(pixel_values=pixels, output_hidden_states=True)
    print(f"{given.size}: {sum(p.numel() for p in model.parameters())} parameters, forward {time.time() - start:.1f} s on one thread")
    expected = {
        "pixels": pixels,
        "image_embeds": out.image_embeds,
        "penultimate": out.hidden_states[-2],
        "last": out.hidden_states[-1],
    }
    save_file({name: value.contiguous() for name, value in expected.items()}, given.outdir / "expected.safetensors")


if __name__ == "__main__":
    main()
