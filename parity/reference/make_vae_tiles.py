"""A latent that diffusers decodes in tiles and a picture that it encodes so, by the VAE `odd/vae-three-levels` in f32: writes `vae_tiles.safetensors`.

| key | what |
|---|---|
| `latent` `[1, 4, 13, 19]` | unscaled; a cell is 4 x 4 pixels |
| `decoded` `[1, 3, 52, 76]` | in tiles of 32 pixels that overlap by a quarter |
| `whole` `[1, 3, 52, 76]` | in one piece |
| `image` `[1, 3, 52, 76]` | a picture |
| `mean`, `logvar` `[1, 4, 13, 19]` | of its latent, unscaled, in the same tiles |
| `whole_mean` `[1, 4, 13, 19]` | in one piece |
"""

import torch
from diffusers import AutoencoderKL

from common import HERE, draw, save


def main() -> None:
    torch.set_num_threads(1)
    vae = AutoencoderKL.from_pretrained(HERE / "odd" / "vae-three-levels", torch_dtype=torch.float32).eval()
    latent = draw("tiles", (1, 4, 13, 19))
    with torch.no_grad():
        out = {"latent": latent, "whole": vae.decode(latent).sample, "image": draw("image", (1, 3, 52, 76)).clamp(-1, 1)}
        out["whole_mean"] = vae.encode(out["image"]).latent_dist.mean
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = 32, 8
        out["decoded"] = vae.decode(latent).sample
        tiled = vae.encode(out["image"]).latent_dist
        out["mean"], out["logvar"] = tiled.mean.contiguous(), tiled.logvar.contiguous()
    assert (out["decoded"] - out["whole"]).abs().max() > 1e-3
    assert (out["mean"] - out["whole_mean"]).abs().max() > 1e-3
    out["whole_mean"] = out["whole_mean"].contiguous()
    save(HERE / "vae_tiles.safetensors", out)


if __name__ == "__main__":
    main()
