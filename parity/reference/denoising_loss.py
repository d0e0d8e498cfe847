"""How well a model predicts noise on a folder of pictures, as diffusers computes it: `denoising_loss.py MODEL IMAGES [--lora FILE]
[--scale 1] [--resolution 64]`.

The mean square error over fixed timesteps and fixed noise: ten timesteps (50, 150, … 950) by four draws for every picture, the same in
every run. Captions are the files beside the pictures. Prints one JSON object.
"""

import argparse
import json
from pathlib import Path

import torch

from common import pipeline
from training import errors, examples

DRAWS = 4


def loss(pipe, latents: torch.Tensor, ids: torch.Tensor) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for at, (latent, words) in enumerate(zip(latents, ids)):
            for draw in range(DRAWS):
                noise = torch.randn(latent.shape, generator=torch.Generator("cpu").manual_seed(1000 * at + draw))
                times = torch.arange(50, 1000, 100)
                batch = [value.expand(len(times), *value.shape) for value in (latent, noise, words)]
                total += errors(pipe, batch[0], batch[1], times, batch[2])[0].sum().item()
                count += len(times)
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--resolution", type=int, default=64)
    options = parser.parse_args()
    pipe = pipeline(options.model)
    latents, ids, _ = examples(pipe, options.images, options.resolution)
    result = {"pictures": len(latents), "base": loss(pipe, latents, ids)}
    if options.lora:
        lora = options.lora.resolve()
        pipe.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="lora")
        pipe.set_adapters(["lora"], [options.scale])
        result |= {"lora": loss(pipe, latents, ids)}
        result["lowered_by"] = result["base"] - result["lora"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
