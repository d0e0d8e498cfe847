"""Writes a diffusers folder of Stable Diffusion 1.x as one file in the original (LDM) layout: `make_ldm.py FOLDER OUT [--ckpt] [--nai]
[--dtype f32|f16|bf16]`.

`--ckpt`  a torch pickle `{"state_dict": {…}, "global_step": …}` in place of safetensors
`--nai`   the text encoder without `text_model.`, as NovelAI's leak and its children have it

With `--keys` it writes `ldm_keys.json` beside this script in place of a checkpoint: for `tiny-sd/`, a list of [part, diffusers key, key
in the LDM file, shape in the file]. With `--check` it also opens what it wrote by diffusers' own converters and compares.

The file also carries what such files carry and a reader must let lie: `position_ids`, an EMA's counters, the schedule's buffers.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common import HERE, TINY

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
IGNORABLE = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def unet_key(key: str, layers: int = 2) -> str:
    """`down_blocks.i.resnets.j` is `input_blocks.{3i+j+1}.0`, and so on (for two layers a block)."""
    module, leaf = key.rsplit(".", 1)
    if module in ENDS:
        return f"{ENDS[module]}.{leaf}"
    parts = module.split(".")
    step = layers + 1
    match parts:
        case ["down_blocks", i, "resnets", j, rest]:
            place = f"input_blocks.{step * int(i) + int(j) + 1}.0.{RESNET[rest]}"
        case ["down_blocks", i, "attentions", j, *rest]:
            place = f"input_blocks.{step * int(i) + int(j) + 1}.1.{'.'.join(rest)}"
        case ["down_blocks", i, "downsamplers", "0", "conv"]:
            place = f"input_blocks.{step * (int(i) + 1)}.0.op"
        case ["mid_block", "resnets", j, rest]:
            place = f"middle_block.{2 * int(j)}.{RESNET[rest]}"
        case ["mid_block", "attentions", "0", *rest]:
            place = f"middle_block.1.{'.'.join(rest)}"
        case ["up_blocks", i, "resnets", j, rest]:
            place = f"output_blocks.{step * int(i) + int(j)}.0.{RESNET[rest]}"
        case ["up_blocks", i, "attentions", j, *rest]:
            place = f"output_blocks.{step * int(i) + int(j)}.1.{'.'.join(rest)}"
        case ["up_blocks", i, "upsamplers", "0", "conv"]:
            # After the attention where the block has one: the first level of SD 1.x has none.
            place = f"output_blocks.{step * int(i) + layers}.{1 if i == '0' else 2}.conv"
        case _:
            raise ValueError(f"`{key}` has no place in the LDM layout")
    return f"{place}.{leaf}"


def vae_key(key: str, levels: int) -> str:
    parts = key.split(".")
    tidy = lambda rest: ".".join(rest).replace("conv_shortcut", "nin_shortcut")
    match parts:
        case ["quant_conv" | "post_quant_conv", _]:
            return key
        case [side, "conv_in" | "conv_out", _]:
            return key
        case [side, "conv_norm_out", leaf]:
            return f"{side}.norm_out.{leaf}"
        case ["encoder", "down_blocks", i, "resnets", j, *rest]:
            return f"encoder.down.{i}.block.{j}.{tidy(rest)}"
        case ["encoder", "down_blocks", i, "downsamplers", "0", *rest]:
            return f"encoder.down.{i}.downsample.{'.'.join(rest)}"
        case ["decoder", "up_blocks", i, "resnets", j, *rest]:
            return f"decoder.up.{levels - 1 - int(i)}.block.{j}.{tidy(rest)}"
        case ["decoder", "up_blocks", i, "upsamplers", "0", *rest]:
            return f"decoder.up.{levels - 1 - int(i)}.upsample.{'.'.join(rest)}"
        case [side, "mid_block", "resnets", j, *rest]:
            return f"{side}.mid.block_{int(j) + 1}.{tidy(rest)}"
        case [side, "mid_block", "attentions", "0", *rest]:
            names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
            return f"{side}.mid.attn_1.{names['.'.join(rest[:-1])]}.{rest[-1]}"
    raise ValueError(f"`{key}` has no place in the LDM layout")


def weights(folder: Path, part: str) -> dict:
    name = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
    return load_file(folder / part / name)


def convert(folder: Path, nai: bool = False) -> list[tuple]:
    """`(part, diffusers key, LDM key, tensor)` for each weight, in the shape of the file."""
    out = []
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    for key, value in weights(folder, "unet").items():
        out.append(("unet", key, "model.diffusion_model." + unet_key(key, config["layers_per_block"]), value))
    levels = len(json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["block_out_channels"])
    for key, value in weights(folder, "vae").items():
        if ".attentions.0.to_" in key and key.endswith("weight"):
            value = value[:, :, None, None]
        out.append(("vae", key, "first_stage_model." + vae_key(key, levels), value))
    text = "cond_stage_model.transformer." + ("" if nai else "text_model.")
    for key, value in weights(folder, "text_encoder").items():
        out.append(("text_encoder", key, text + key.removeprefix("text_model."), value))
    assert len({name for _, _, name, _ in out}) == len(out)
    return out


def others(nai: bool) -> dict:
    """Keys that every trained file has beside the weights."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    ids = IGNORABLE.replace("text_model.", "") if nai else IGNORABLE
    return {
        ids: torch.arange(77)[None],
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
        "alphas_cumprod": kept.float(),
        "alphas_cumprod_prev": torch.cat([torch.ones(1), kept[:-1].float()]),
        "betas": betas.float(),
        "sqrt_alphas_cumprod": kept.sqrt().float(),
        "sqrt_one_minus_alphas_cumprod": (1 - kept).sqrt().float(),
    }


def check(folder: Path, out: Path) -> None:
    """Opens the file by diffusers' own converters: every weight must come back as it is in the folder."""
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    read = load_file(out) if out.suffix == ".safetensors" else torch.load(out, weights_only=True)["state_dict"]
    config = {part: json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae")}
    theirs = {
        "unet": convert_ldm_unet_checkpoint(dict(read), config["unet"]),
        "vae": convert_ldm_vae_checkpoint(dict(read), config["vae"]),
        "text_encoder": convert_ldm_clip_checkpoint(dict(read)),
    }
    for part, found in theirs.items():
        # diffusers leaves `position_ids` and the prefix of transformers 4 to its later steps.
        found = {key.removeprefix("text_model."): value for key, value in found.items() if not key.endswith("position_ids")}
        wanted = weights(folder, part)
        assert found.keys() == wanted.keys(), (part, sorted(found.keys() ^ wanted.keys())[:6])
        for key, value in wanted.items():
            assert torch.equal(found[key].reshape(value.shape).to(value.dtype), value), f"{part}: {key}"
        print(f"{part}: diffusers reads {len(found)} weights back unchanged")


def write(folder: Path, out: Path, ckpt: bool, nai: bool, dtype: torch.dtype | None) -> None:
    state = {name: value.to(dtype or value.dtype).contiguous() for _, _, name, value in convert(folder, nai)} | others(nai)
    if ckpt:
        torch.save({"epoch": 3, "global_step": 470000, "pytorch-lightning_version": "1.4.2", "state_dict": state}, out)
    else:
        save_file(state, out, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--ckpt", action="store_true")
    parser.add_argument("--nai", action="store_true")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--keys", action="store_true")
    options = parser.parse_args()
    if options.keys:
        lines = ",\n".join(
            json.dumps([part, key, name, list(value.shape)], separators=(",", ":")) for part, key, name, value in convert(TINY)
        )
        (HERE / "ldm_keys.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        return
    if not options.folder or not options.out:
        parser.error("FOLDER and OUT are needed")
    write(options.folder, options.out, options.ckpt, options.nai, DTYPES.get(options.dtype))
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    if options.check:
        check(options.folder, options.out)


if __name__ == "__main__":
    main()
