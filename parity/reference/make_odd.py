"""Unusual configurations, each with weights, inputs and what diffusers computes: `odd/NAME/` holds `config.json` and
`diffusion_pytorch_model.safetensors` (f16) as diffusers saves them, `odd/NAME.safetensors` the case in f32.

UNet cases: `latent`, `timestep` `[2]`, `context`, `output`, and with `.wide` the same for a latent whose sides do not halve evenly.
VAE cases: `image`, `mean`, `logvar`, `latent`, `decoded`; latents unscaled.
"""

import json
import shutil

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from common import HERE, draw, half, initialise, relative, save
from make_tiny_sd import smooth

FOLDER = HERE / "odd"
SEED = 16

UNETS = {
    # Three levels, one layer each; the first without attention; heads by level; linear projections, as in SD 2.
    "unet-linear": dict(
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=[2, 4, 8],
        use_linear_projection=True,
        cross_attention_dim=40,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        upcast_attention=True,
    ),
    # Two levels; sine before cosine and a shift of one; attention in the deeper level alone.
    "unet-sine-first": dict(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=2,
        norm_eps=1e-6,
        attention_head_dim=4,
        cross_attention_dim=24,
        flip_sin_to_cos=False,
        freq_shift=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ),
    # Inpainting: latent, mask and masked latent side by side.
    "unet-inpaint": dict(
        in_channels=9,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ),
}

VAES = {
    # Three levels (4 pixels a cell), two layers each.
    "vae-three-levels": dict(
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        norm_num_groups=8,
        scaling_factor=0.3,
    ),
    "vae-no-attention": dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False),
    "vae-no-quant": dict(
        block_out_channels=(8, 12), layers_per_block=1, norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False
    ),
}


def store(name: str, model, drop: tuple = ()):
    """Saves the model in f16 and gives back what is read again, in f32."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    assert all(torch.equal(half(value), value) for value in model.state_dict().values())
    model.half().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("_name_or_path", *drop):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # What is read back, without the dropped keys too, is the same model.
    again = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    model.float()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    return again


def make_unet(name: str, options: dict) -> None:
    torch.manual_seed(0)
    model = UNet2DConditionModel(sample_size=16, **options).eval()
    initialise(model, SEED, lambda key: 0.6 if "conv2" in key or "proj_out" in key else 1.2 if "to_" in key else 1.0)
    # Older configs name neither of these.
    model = store(name, model, ("num_attention_heads", "upcast_attention") if name != "unet-linear" else ("num_attention_heads",))
    width, out = model.config.cross_attention_dim, {}
    with torch.no_grad():
        for suffix, size in (("", (8, 8)), (".wide", (9, 14))):
            latent = draw(name + suffix, (2, model.config.in_channels, *size))
            time, context = torch.tensor([811, 46]), draw(name + " context", (2, 11, width))
            output = model(latent, time, context).sample
            text = relative(model(latent, time, context.flip(0)).sample, output)
            when = relative(model(latent, time.flip(0), context).sample, output)
            print(f"{name}{suffix}: std {output.std():.2f}, text {text:.2f}, time {when:.2f}")
            assert text > 0.02 and when > 0.02
            out |= {f"latent{suffix}": latent, f"timestep{suffix}": time, f"context{suffix}": context, f"output{suffix}": output}
    save(FOLDER / f"{name}.safetensors", out)


def make_vae(name: str, options: dict) -> None:
    torch.manual_seed(0)
    levels = len(options["block_out_channels"])
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        sample_size=32,
        **options,
    ).eval()
    initialise(model, SEED, lambda key: 0.5 if "conv2" in key or "to_out" in key or key == "decoder.conv_out.weight" else 1.0)
    model = store(name, model)
    with torch.no_grad():
        image = (smooth(name, (1, 3, 32, 48), 8) / 2).clamp(-1, 1)
        moments = model.encode(image).latent_dist
        latent = smooth(name + " latent", (1, 4, 8, 6), 4) / model.config.scaling_factor
        decoded = model.decode(latent).sample
    print(f"{name}: mean std {moments.mean.std():.2f}, logvar {moments.logvar.mean():.2f}, decoded std {decoded.std():.2f}")
    save(
        FOLDER / f"{name}.safetensors",
        {"image": image, "mean": moments.mean, "logvar": moments.logvar, "latent": latent, "decoded": decoded},
    )


def main() -> None:
    for name, options in UNETS.items():
        make_unet(name, options)
    for name, options in VAES.items():
        make_vae(name, options)


if __name__ == "__main__":
    main()
