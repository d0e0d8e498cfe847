"""Trains a LoRA by PyTorch and peft, as kohya's scripts do by default:
`train_peft.py MODEL IMAGES OUT --steps N [--rank 32] [--alpha 16] [--lr 1e-4] [--seed 0] [--resolution 64] [--batch 2]`.

Every Transformer2DModel's linear and 1x1 layers and the text encoder's; down from U(±1/√fan_in), up zero; AdamW (weight decay 0.01) with
a cosine that falls to zero and no warm-up; min-SNR γ 5; latents are the encoder's means. OUT is a safetensors file with kohya's names,
in f32.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from common import pipeline
from make_lora import kohya_name
from make_train_step import add_lora
from training import errors, examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--alpha", type=float, default=16.0)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    random = torch.Generator("cpu").manual_seed(options.seed)
    pipe = pipeline(options.model)
    latents, ids, _ = examples(pipe, options.images, options.resolution)
    pipe.vae.requires_grad_(False)
    factors = add_lora(pipe, options.rank, options.alpha)
    with torch.no_grad():
        for name, value in factors.items():
            if name.endswith("lora_A"):
                torch.nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=random)
            else:
                value.zero_()
    optimiser = torch.optim.AdamW(factors.values(), lr=options.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / options.steps)))
    order, seen = [], []
    for step in range(options.steps):
        while len(order) < options.batch:
            order += torch.randperm(len(latents), generator=random).tolist()
        batch, order = order[: options.batch], order[options.batch :]
        noise = torch.randn(latents[batch].shape, generator=random)
        times = torch.randint(0, 1000, (len(batch),), generator=random)
        each, weight = errors(pipe, latents[batch], noise, times, ids[batch])
        loss = (each * weight).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        seen.append(loss.item())
    state = {}
    for path in (name.removesuffix(".lora_A") for name in factors if name.endswith(".lora_A")):
        name = kohya_name(path)
        state[f"{name}.lora_down.weight"] = factors[f"{path}.lora_A"].detach().contiguous()
        state[f"{name}.lora_up.weight"] = factors[f"{path}.lora_B"].detach().contiguous()
        state[f"{name}.alpha"] = torch.tensor(options.alpha)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, options.out)
    tenth = max(1, options.steps // 10)
    print(json.dumps({"steps": options.steps, "first_tenth": sum(seen[:tenth]) / tenth, "last_tenth": sum(seen[-tenth:]) / tenth}))


if __name__ == "__main__":
    main()
