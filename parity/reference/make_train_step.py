"""One gradient step and three AdamW steps of a LoRA on `tiny-sd/` by PyTorch and peft, in f32: writes `train_step.safetensors` and
`.json`.

| keys | what |
|---|---|
| `latents`, `noise` `[2, 4, 16, 16]`, `timesteps` `[2]`, `ids` `[2, 77]` | the batch; latents already scaled |
| `noisy`, `prediction` | on the way, before the first step |
| `MODULE.lora_A`, `MODULE.lora_B` | the factors at the start, f16 (exact); MODULE is `unet.….to_q`, `text_encoder.encoder.….q_proj` |
| `grad.MODULE.lora_A`, … | gradient of the weighted loss, first step |
| `after3.MODULE.lora_A`, … | the factors after three steps, of `down_blocks.0`, `mid_block` and of the text encoder's first layer |

The JSON has `rank`, `alpha` (scale alpha / rank), the `weighted` loss (min-SNR, γ 5) of each step and after the last, the `plain` one of
the first, and what AdamW was given. Of 1x1 convolutions the factors are 4-D. The latents are 16x16 rather than 8x8, since the mid block
would see a single position there, and the gradient of its self-attention's query and key would be exactly zero.

`train_step_conv.safetensors` is a gradient step of kohya's LoCon on the UNet: the same batch, its `context` `[2, 77, 32]`, the `weighted`
loss, the factors of all modules, and the gradients of those that the default leaves out, but for those that are zero.
"""

import json

import torch
from peft import LoraConfig

from common import HERE, draw, half, pipeline, save
from make_lora import pairs
from make_tiny_sd import smooth
from targets import LOCON_UNET, TEXT, UNET, modules

RANK, ALPHA, GAMMA = 2, 1.0, 5.0
OPTIMISER = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
CAPTIONS = ["mychar001, a portrait, smiling, soft light", "a photo of mychar001 in front of a brick wall, night"]


def add_lora(pipe, rank: int, alpha: float, unet=UNET, text=TEXT) -> dict:
    """Puts peft's adapters on these targets, by default kohya's: `{MODULE.lora_A or MODULE.lora_B: parameter}`."""
    factors = {}
    for prefix, part, wanted in (("unet", pipe.unet, unet), ("text_encoder", pipe.text_encoder, text)):
        if not wanted:
            continue
        part.requires_grad_(False)
        paths = [path for path, _ in modules(part, wanted)]
        part.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths))
        for path in paths:
            module = part.get_submodule(path)
            factors[f"{prefix}.{path}.lora_A"] = module.lora_A["default"].weight
            factors[f"{prefix}.{path}.lora_B"] = module.lora_B["default"].weight
    return factors


def losses(pipe, latents, noise, timesteps, context) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """The weighted and the plain loss for a model that predicts noise, as diffusers' and kohya's scripts have them."""
    kept = pipe.scheduler.alphas_cumprod[timesteps]
    noisy = pipe.scheduler.add_noise(latents, noise, timesteps)
    prediction = pipe.unet(noisy, timesteps, context).sample
    each = (prediction - noise).square().mean(dim=(1, 2, 3))
    snr = kept / (1 - kept)
    return (each * snr.clamp(max=GAMMA) / snr).mean(), each.mean(), {"noisy": noisy, "prediction": prediction}


def started(pipe, start: dict, **targets) -> dict:
    """peft's adapters with these factors."""
    factors = add_lora(pipe, RANK, ALPHA, **targets)
    assert len(factors) == 2 * len(start)
    with torch.no_grad():
        for path, (down, up) in start.items():
            # Plain values rather than tiny ones, so that each gradient has a size worth comparing.
            factors[f"{path}.lora_A"].copy_(down)
            factors[f"{path}.lora_B"].copy_(up)
    return factors


def the_batch(pipe) -> dict:
    return {
        "latents": half(smooth("train latents", (2, 4, 16, 16), 5)),
        "noise": draw("train noise", (2, 4, 16, 16)),
        "timesteps": torch.tensor([87, 640]),
        "ids": pipe.tokenizer(CAPTIONS, padding="max_length", max_length=77, return_tensors="pt").input_ids,
    }


def convolutions() -> None:
    """Writes `train_step_conv.safetensors`."""
    pipe = pipeline()
    targets = {"unet": LOCON_UNET, "text": ()}
    factors = started(pipe, pairs(pipe, RANK, 0.2, salt="train ", **targets), **targets)
    batch = the_batch(pipe)
    context = pipe.text_encoder(batch.pop("ids"))[0].detach()
    weighted, _, _ = losses(pipe, batch["latents"], batch["noise"], batch["timesteps"], context)
    weighted.backward()
    out = batch | {"context": context, "weighted": weighted.detach()[None]}
    out |= {name: value.detach().half() for name, value in factors.items()}
    wide = [name for name in factors if not any(f".{end}.lora_" in name for end in UNET)]
    sizes = {name: factors[name].grad.norm().item() for name in wide}
    # With one channel a group, the norm takes away all that the time adds to a channel: the gradient is zero but for rounding.
    told = [name for name in wide if sizes[name] > 1e-7]
    assert all("time_emb_proj" in name for name in set(wide) - set(told)) and len(wide) - len(told) < 40
    print(f"{len(told)} of {len(wide)} gradients, from {min(sizes[name] for name in told):.1e} to {max(sizes.values()):.1e}")
    out |= {f"grad.{name}": factors[name].grad for name in told}
    save(HERE / "train_step_conv.safetensors", out)


def main() -> None:
    pipe = pipeline()
    factors = started(pipe, pairs(pipe, RANK, 0.2, salt="train "))
    batch = the_batch(pipe)
    out = dict(batch) | {name: value.detach().half() for name, value in factors.items()}
    assert all(torch.equal(out[name].float(), factors[name]) for name in factors)
    optimiser = torch.optim.AdamW(factors.values(), **OPTIMISER)
    numbers = {"rank": RANK, "alpha": ALPHA, "min_snr_gamma": GAMMA, "optimiser": {"name": "AdamW", **OPTIMISER}, "weighted": []}
    for step in range(4):
        context = pipe.text_encoder(batch["ids"])[0]
        weighted, plain, seen = losses(pipe, batch["latents"], batch["noise"], batch["timesteps"], context)
        numbers["weighted"].append(weighted.item())
        if step == 3:
            break
        optimiser.zero_grad()
        weighted.backward()
        if step == 0:
            numbers["plain"] = plain.item()
            out |= seen
            out |= {f"grad.{name}": value.grad.clone() for name, value in factors.items()}
            sizes = {name: value.grad.norm().item() for name, value in factors.items()}
            smallest = min(sizes, key=sizes.get)
            print(f"gradients from {sizes[smallest]:.1e} ({smallest}) to {max(sizes.values()):.1e}")
            assert sizes[smallest] > 1e-7
        optimiser.step()
    shown = ("unet.down_blocks.0.", "unet.mid_block.", "text_encoder.encoder.layers.0.")
    out |= {f"after3.{name}": value.detach() for name, value in factors.items() if name.startswith(shown)}
    print(numbers)
    save(HERE / "train_step.safetensors", out)
    (HERE / "train_step.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
    convolutions()
