"""Makes `sd15_names.json`: module names of Stable Diffusion 1.5, as the peers' own code makes them.

- `unet`, `text_encoder`: `{path: weight shape}` of every linear and convolution layer of diffusers' and transformers' classes
  (`text_encoder` with `text_model.`, as published files have it);
- `kohya`: the modules that kohya's rule trains: all Linear and 1x1 Conv2d inside each `Transformer2DModel`, all Linear inside each CLIP
  attention and perceptron; `kohya_conv`: with its `conv_dim`, all Linear and Conv2d inside each residual block, downsampler and upsampler too;
- `ldm`: `{name in the original Stable Diffusion: diffusers' name}` by diffusers' single-file converter.
"""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

UNET = dict(
    sample_size=64,
    cross_attention_dim=768,
    attention_head_dim=8,
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    layers_per_block=2,
)
TEXT = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
KINDS = (torch.nn.Linear, torch.nn.Conv2d)


def shapes(model):
    return {path: list(m.weight.shape) for path, m in model.named_modules() if isinstance(m, KINDS)}


def kohya(model, parents, prefix, conv=False):
    """`LoRANetwork.create_modules` of sd-scripts, with the default arguments or with `conv_dim`."""
    names = []
    for path, parent in model.named_modules():
        if parent.__class__.__name__ not in parents:
            continue
        for child_path, child in parent.named_modules():
            small = isinstance(child, torch.nn.Conv2d) and child.kernel_size == (1, 1)
            if isinstance(child, torch.nn.Linear) or small or (conv and isinstance(child, torch.nn.Conv2d)):
                names.append(f"{prefix}.{path}.{child_path}".replace(".", "_"))
    return names


def ldm_modules():
    """The linear and convolution layers of `openaimodel.UNetModel` with Stable Diffusion 1's `v1-inference.yaml`."""
    resnet = ["in_layers.2", "out_layers.3", "emb_layers.1"]
    attention = ["proj_in", "proj_out"] + [
        f"transformer_blocks.0.{m}"
        for m in [f"attn{n}.{p}" for n in (1, 2) for p in ("to_q", "to_k", "to_v", "to_out.0")] + ["ff.net.0.proj", "ff.net.2"]
    ]
    out = ["time_embed.0", "time_embed.2", "input_blocks.0.0", "out.2"]

    def add(block, inner, parts):
        out.extend(f"{block}.{inner}.{part}" for part in parts)

    for index in range(1, 12):
        level, layer = (index - 1) // 3, (index - 1) % 3
        if layer == 2:
            add(f"input_blocks.{index}", 0, ["op"])
            continue
        widens = layer == 0 and level in (1, 2)
        add(f"input_blocks.{index}", 0, resnet + (["skip_connection"] if widens else []))
        if level < 3:
            add(f"input_blocks.{index}", 1, attention)
    add("middle_block", 0, resnet)
    add("middle_block", 1, attention)
    add("middle_block", 2, resnet)
    for index in range(12):
        level, layer = index // 3, index % 3
        add(f"output_blocks.{index}", 0, resnet + ["skip_connection"])
        if level > 0:
            add(f"output_blocks.{index}", 1, attention)
        if layer == 2 and level < 3:
            add(f"output_blocks.{index}", 2 if level else 1, ["conv"])
    return out


def ldm(unet):
    names = ldm_modules()
    # Each weight holds the number of its name, which so comes through the converter. The norms are there since it looks for them.
    state = {f"model.diffusion_model.{name}.weight": torch.tensor(float(i)) for i, name in enumerate(names)}
    state |= {f"model.diffusion_model.{name}.bias": torch.tensor(-1.0) for name in [*names, "out.0"]}
    state["model.diffusion_model.out.0.weight"] = torch.tensor(-1.0)
    converted = convert_ldm_unet_checkpoint(state, dict(unet.config))
    found = {names[int(value)]: key.removesuffix(".weight") for key, value in converted.items() if value >= 0}
    assert sorted(found.values()) == sorted(shapes(unet)), set(found.values()) ^ set(shapes(unet))
    return found


def main():
    with torch.device("meta"):
        unet, text = UNet2DConditionModel(**UNET), CLIPTextModel(CLIPTextConfig(**TEXT))
    names = kohya(unet, ["Transformer2DModel"], "lora_unet")
    wide = kohya(unet, ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"], "lora_unet", conv=True)
    text_names = kohya(text, ["CLIPAttention", "CLIPMLP"], "lora_te")
    text_names = [n if "_text_model_" in n else n.replace("lora_te_", "lora_te_text_model_", 1) for n in text_names]
    text_shapes = {f"text_model.{path.removeprefix('text_model.')}": shape for path, shape in shapes(text).items()}
    out = {
        "unet": shapes(unet),
        "text_encoder": text_shapes,
        "kohya": sorted(names + text_names),
        "kohya_conv": sorted(wide + text_names),
        "ldm": ldm(unet),
    }
    print({key: len(value) for key, value in out.items()})
    target = Path(__file__).with_name("sd15_names.json")
    target.write_text(json.dumps(out, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
