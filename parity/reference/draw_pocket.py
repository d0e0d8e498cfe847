"""What diffusers draws with the pocket model, `pocket/model`: writes `pocket.json` and `pocket/`.

| file | holds |
|---|---|
| `pocket.json` | `weights`: the SHA-256 of `pocket/model/SHA256SUMS`, by which the test knows that the pictures are of these weights; `cases`: prompt, seed, sampler, steps and guidance of each picture |
| `pocket/NAME.png` | 96 x 96 pixels |

To be run again whenever the model is trained on.
"""

import hashlib
import json

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

from common import HERE

MODEL = HERE.parent.parent / "pocket" / "model"
CASES = [
    {
        "name": "park",
        "prompt": "a portrait of a woman, front view, smiling, natural light, in a park, wearing a hoodie",
        "seed": 7,
        "sampler": "ddim",
        "steps": 20,
        "cfg": 4.0,
    },
    {
        "name": "street",
        "prompt": "a portrait of a man, three-quarter view facing left, angry, at night, on a street, wearing a suit",
        "seed": 11,
        "sampler": "dpmpp-2m",
        "steps": 12,
        "cfg": 3.0,
    },
]
SCHEDULERS = {"ddim": DDIMScheduler, "dpmpp-2m": DPMSolverMultistepScheduler}


def main() -> None:
    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    (HERE / "pocket").mkdir(exist_ok=True)
    for case in CASES:
        pipe.scheduler = SCHEDULERS[case["sampler"]].from_config(pipe.scheduler.config)
        drawn = pipe(
            case["prompt"],
            width=96,
            height=96,
            num_inference_steps=case["steps"],
            guidance_scale=case["cfg"],
            generator=torch.Generator().manual_seed(case["seed"]),
        )
        drawn.images[0].save(HERE / "pocket" / f"{case['name']}.png")
    weights = hashlib.sha256((MODEL / "SHA256SUMS").read_bytes()).hexdigest()
    text = json.dumps({"weights": weights, "cases": CASES}, indent=2)
    (HERE / "pocket.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
