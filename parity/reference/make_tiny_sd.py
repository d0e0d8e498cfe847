"""Makes `tiny-sd/`: Stable Diffusion 1.5's topology at small size, with random weights that behave.

Everything is drawn at random but two linear maps at the ends. The UNet's `conv_out` is fitted by least squares to predict noise on
smooth random latents, and a random part is added, so that sampling stays bounded while text and timestep still matter. The VAE's ends
are scaled so that latents have unit variance and pictures span the range of values.
"""

import json
import shutil

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common import TINY, draw, half, initialise, relative

SEED = 15
PROMPTS = [
    "",
    "a portrait of mychar001, smiling, soft window light",
    "an oil painting of a queen with a golden crown",
    "a knight in silver armor rides a white horse, fog, epic scene",
    "low quality, blurry, bad hands, watermark",
]


def text_encoder(tokenizer) -> CLIPTextModel:
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    initialise(model, SEED, lambda name: 2.0 if "q_proj" in name or "k_proj" in name else 1.0)
    return model


def vae() -> AutoencoderKL:
    # The wide level is not the last one, as in Stable Diffusion, since the middle block is the larger part: the file stays small.
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 32, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=64,
        scaling_factor=0.18215,
    ).eval()
    # The mid-block's branches add to the stream; small weights keep the stream's size.
    initialise(model, SEED, lambda name: 0.5 if "conv2" in name or "to_out" in name else 1.0)
    balance(model)
    return model


def balance(model: AutoencoderKL) -> None:
    """Scales both ends: latents of unit variance once multiplied by the scaling factor, pictures of standard deviation 0.36."""
    with torch.no_grad():
        picture = smooth("picture", (8, 3, 96, 96), 12).clamp(-2, 2) / 2
        moments = model.quant_conv(model.encoder(picture))
        scale, shift = moments.std(dim=(0, 2, 3)), moments.mean(dim=(0, 2, 3))
        # Means of variance (1 / 0.18215)², logarithms of the variance about −3 ± 0.5.
        wanted = torch.tensor([1 / 0.18215] * 4 + [0.5] * 4) / scale
        centre = torch.tensor([0.0] * 4 + [-3.0] * 4)
        model.quant_conv.weight.copy_(half(model.quant_conv.weight * wanted[:, None, None, None]))
        model.quant_conv.bias.copy_(half((model.quant_conv.bias - shift) * wanted + centre))
        latent = smooth("latent", (8, 4, 16, 16), 4) / 0.18215
        picture = model.decode(latent).sample
        scale = 0.36 / picture.std(dim=(0, 2, 3))
        shift = picture.mean(dim=(0, 2, 3))
        model.decoder.conv_out.weight.copy_(half(model.decoder.conv_out.weight * scale[:, None, None, None]))
        model.decoder.conv_out.bias.copy_(half((model.decoder.conv_out.bias - shift) * scale))
        picture = model.decode(latent).sample
        moments = model.encode(picture).latent_dist
    print(f"vae: picture std {picture.std():.2f}, clipped {(picture.abs() > 1).float().mean():.3f}, ", end="")
    print(f"mean·scale std {(moments.mean * 0.18215).std():.2f}, logvar {moments.logvar.mean():.2f} ± {moments.logvar.std():.2f}")


def smooth(name: str, shape, cells: int) -> torch.Tensor:
    """Random fields of unit variance whose details are `1 / cells` of the width and coarser."""
    coarse = draw(name, (*shape[:2], cells, cells), SEED)
    fine = draw(name + " detail", shape, SEED)
    field = torch.nn.functional.interpolate(coarse, shape[2:], mode="bicubic", align_corners=False)
    field = field + 0.3 * fine
    return field / field.std(dim=(2, 3), keepdim=True)


def unet(context: torch.Tensor) -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=128,
        norm_num_groups=32,
    ).eval()

    def gain(name: str) -> float:
        if "time_emb" in name:
            return 2.0
        if "to_q" in name or "to_k" in name:
            return 1.4
        if any(part in name for part in ("conv2", "proj_out", "to_out", "ff.net.2")):
            return 0.6
        return 1.0

    initialise(model, SEED, gain)
    with torch.no_grad():
        # On the way up, what comes from below counts for more than what is joined from the side: otherwise timestep and text, whose
        # traces normalisation removes where a group is one channel, would hardly reach the end.
        for resnet in (resnet for block in model.up_blocks for resnet in block.resnets):
            for convolution in (resnet.conv1, resnet.conv_shortcut):
                channels = convolution.weight.shape[1]
                share = torch.where(torch.arange(channels) < channels // 2, 1.4, 1 / 1.4) / 1.11
                convolution.weight.copy_(half(convolution.weight * share[:, None, None]))
    table = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod

    with torch.no_grad():
        features = []
        hook = model.conv_out.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        gram, moment = torch.zeros(289, 289, dtype=torch.float64), torch.zeros(289, 4, dtype=torch.float64)
        for batch, size in enumerate([(8, 8), (16, 16), (8, 16), (16, 16), (12, 8), (16, 16), (8, 8), (16, 16)] * 2):
            shape = (32, 4, *size)
            time = (torch.arange(32) * 31 + batch) % 1000
            clean, noise = smooth(f"clean {batch}", shape, 4), draw(f"noise {batch}", shape, SEED)
            kept = table[time][:, None, None, None]
            model(kept.sqrt() * clean + (1 - kept).sqrt() * noise, time, context[torch.arange(32) % len(context)])
            columns = torch.nn.functional.unfold(features.pop(), 3, padding=1).transpose(1, 2).reshape(-1, 288)
            columns = torch.cat([columns, torch.ones(len(columns), 1)], 1).double()
            gram += columns.T @ columns
            moment += columns.T @ noise.permute(0, 2, 3, 1).reshape(-1, 4).double()
        hook.remove()
        ridge = 1e-3 * gram.diagonal().mean() * torch.eye(289, dtype=torch.float64)
        fit = torch.linalg.solve(gram + ridge, moment).T.float()
        random = model.conv_out.weight
        spread = (columns[:, :288].float() @ random.flatten(1).T).std()
        weight = fit[:, :288].reshape(4, 32, 3, 3) + RANDOM_PART / spread * random
        model.conv_out.weight.copy_(half(weight))
        model.conv_out.bias.copy_(half(fit[:, 288]))
    return model


RANDOM_PART = 0.35


def report(model: UNet2DConditionModel, context: torch.Tensor) -> None:
    """Prints how the prediction depends on latent, timestep and text, and how much a rounding error grows."""
    with torch.no_grad():
        latent, other = draw("try", (1, 4, 8, 8), 1), draw("try", (1, 4, 8, 8), 2)
        for time in (900, 500, 100):
            base = model(latent, time, context[:1]).sample

            def moved(latent=latent, time=time, words=0, base=base) -> float:
                return relative(model(latent, time, context[words : words + 1]).sample, base)

            print(
                f"unet at {time}: std {base.std():.2f}, text {moved(words=1):.3f} {moved(words=2):.3f}, "
                f"half the time {moved(time=time // 2):.3f}, "
                f"other latent {moved(other):.2f}, latent moved by 1e-4 {moved(latent + 1e-4 * other):.1e}"
            )
            assert min(moved(words=1), moved(words=2), moved(time=time // 2)) > 0.05


def tidy_configs(folder, tokenizer: dict) -> None:
    """Makes what diffusers saved independent of the place, and like SD 1.5's own folder."""
    # The tokenizer's files are `vocab.json` and `merges.txt`, as `make_tokenizer.py` wrote them.
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    for name, content in tokenizer.items():
        (folder / "tokenizer" / name).write_bytes(content)
    for path in folder.rglob("*.json"):
        if path.parent.name == "tokenizer":
            continue
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        if path.parent.name == "scheduler":
            # As in SD 1.5's own file; the PNDM class does not know it, and DDIM made from this config would clip without it.
            config |= {"clip_sample": False, "trained_betas": None}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TINY / "tokenizer")
    text, decoder = text_encoder(tokenizer), vae()
    ids = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        context = text(ids)[0]
    print(
        f"text: std {context.std():.2f}, prompts differ by {relative(context[1], context[0]):.2f}, {relative(context[1], context[2]):.2f}"
    )
    noise_model = unet(context)
    report(noise_model, context)
    scheduler = PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=decoder,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=noise_model,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in ("unet", "vae", "text_encoder"):
        values = {name: value for name, value in getattr(pipe, part).state_dict().items()}
        assert all(torch.equal(half(v), v) for v in values.values()), part
    mine = {path.name: path.read_bytes() for path in (TINY / "tokenizer").iterdir()}
    pipe.to(torch.float16).save_pretrained(TINY)
    tidy_configs(TINY, mine)
    for path in sorted(TINY.rglob("*.safetensors")):
        print(f"{path.relative_to(TINY)}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
