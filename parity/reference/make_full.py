"""Writes a model of Stable Diffusion 1.5's full size with random weights: `make_full.py OUTDIR [--dtype f16|f32|bf16] [--bpe FILE]`.

OUTDIR gets `diffusers/` and, of the same weights, `ldm.safetensors`: over 2 GB each in f16. Weights have sizes at which the predicted
noise has unit variance and a picture spans its range. The tokenizer is CLIP's own, from the table in the package open_clip_torch (or
`--bpe`, its `bpe_simple_vocab_16e6.txt.gz`); nothing is fetched.
"""

import argparse
import gzip
import importlib.util
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import make_ldm
from common import TINY, draw, initialise, relative
from make_tiny_sd import balance, tidy_configs
from make_tokenizer import bytes_to_characters

COUNTS = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}


def tokenizer(folder: Path, table: Path | None) -> CLIPTokenizer:
    if table is None:
        package = importlib.util.find_spec("open_clip")
        if package is None:
            raise SystemExit("CLIP's byte-pair table is wanted: install open_clip_torch (--no-deps will do) or name the file with --bpe")
        table = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.open(table, "rt", encoding="utf-8").read().split("\n")[1 : 49152 - 256 - 2 + 1]
    symbols, _ = bytes_to_characters()
    entries = (
        symbols
        + [symbol + "</w>" for symbol in symbols]
        + ["".join(merge.split()) for merge in merges]
        + ["<|startoftext|>", "<|endoftext|>"]
    )
    folder.mkdir(parents=True)
    vocab = {entry: at for at, entry in enumerate(entries)}
    assert len(vocab) == 49408
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TINY / "tokenizer" / name, folder / name)
    made = CLIPTokenizer.from_pretrained(folder)
    assert made("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    return made


def unet(context: torch.Tensor, dtype: torch.dtype) -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, attention_head_dim=8, cross_attention_dim=768
    )
    ends = ("conv2", "proj_out", "to_out", "ff.net.2")
    initialise(model.eval(), 1, lambda name: 1.4 if "to_q" in name or "to_k" in name else 0.6 if any(end in name for end in ends) else 1.0)
    with torch.no_grad():
        latent = draw("latent", (1, 4, 32, 32))
        out = model(latent, 700, context[:1]).sample
        model.conv_out.weight.copy_((model.conv_out.weight / out.std(dim=(0, 2, 3))[:, None, None, None]).to(dtype))
        model.conv_out.bias.zero_()
        one, other = (model(latent, 700, context[at : at + 1]).sample for at in (0, 1))
    print(f"unet: noise of std {one.std():.2f}, text moves it by {relative(other, one):.2f}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=make_ldm.DTYPES, default="f16")
    parser.add_argument("--bpe", type=Path)
    options = parser.parse_args()
    dtype, folder = make_ldm.DTYPES[options.dtype], options.out / "diffusers"
    if folder.exists():
        raise SystemExit(f"{folder} is there already")
    torch.manual_seed(0)
    words = tokenizer(folder / "tokenizer", options.bpe)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            hidden_act="quick_gelu",
            projection_dim=768,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    ).eval()
    initialise(text, 1, lambda name: 0.5 if "out_proj" in name or "fc2" in name else 1.0)
    decoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=512,
        scaling_factor=0.18215,
    ).eval()
    initialise(decoder, 1, lambda name: 0.5 if "conv2" in name or "to_out" in name else 1.0)
    balance(decoder)
    with torch.no_grad():
        context = text(words(["a portrait of a woman", ""], padding="max_length", max_length=77, return_tensors="pt").input_ids)[0]
    noise = unet(context, dtype)
    pipe = StableDiffusionPipeline(
        vae=decoder,
        text_encoder=text,
        tokenizer=words,
        unet=noise,
        scheduler=PNDMScheduler.from_pretrained(TINY / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part, wanted in COUNTS.items():
        found = sum(value.numel() for value in getattr(pipe, part).parameters())
        assert found == wanted, (part, found)
    files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    pipe.to(dtype).save_pretrained(folder)
    tidy_configs(folder, files)
    print(f"{folder}: {sum(COUNTS.values()):,} parameters")
    make_ldm.write(folder, options.out / "ldm.safetensors", ckpt=False, nai=False, dtype=None)
    make_ldm.check(folder, options.out / "ldm.safetensors")


if __name__ == "__main__":
    main()
