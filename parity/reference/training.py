"""The data and the loss that `train_peft.py` and `denoising_loss.py` share."""

from pathlib import Path

import numpy
import torch
from PIL import Image, ImageOps

GAMMA = 5.0


def examples(pipe, folder: Path, resolution: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Latents `[pictures, 4, resolution / 8, resolution / 8]` (the encoder's means, scaled), token ids `[pictures, 77]`, and the captions.

    The short side is resized to `resolution` (Lanczos), the middle is cut out. Captions are the `.txt` or
    `.caption` files beside the pictures.
    """
    latents, captions = [], []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")):
        image = ImageOps.fit(Image.open(path).convert("RGB"), (resolution, resolution), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(numpy.asarray(image).astype(numpy.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.no_grad():
            latents.append(pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor)
        beside = [path.with_suffix(end) for end in (".txt", ".caption")]
        captions.append(next((file.read_text(encoding="utf-8").strip() for file in beside if file.exists()), ""))
    if not latents:
        raise SystemExit(f"{folder} has no picture")
    ids = pipe.tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return torch.cat(latents), ids, captions


def errors(pipe, latents, noise, timesteps, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean square error of the predicted noise for each sample `[batch]`, and its min-SNR weight (Hang et al. 2023)."""
    prediction = pipe.unet(pipe.scheduler.add_noise(latents, noise, timesteps), timesteps, pipe.text_encoder(ids)[0]).sample
    kept = pipe.scheduler.alphas_cumprod[timesteps]
    snr = kept / (1 - kept)
    return (prediction - noise).square().mean(dim=(1, 2, 3)), snr.clamp(max=GAMMA) / snr
