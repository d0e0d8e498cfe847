"""What transformers and diffusers compute with the parts of `tiny-sd/`, in f32: writes `components.safetensors`.

| keys | what |
|---|---|
| `text.ids` `[2, 77]`, `text.last`, `text.skip2`, `text.skip3` | two prompts; hidden states 1, 2 and 3 from the end, normed |
| `unet.S.latent`, `.timestep` `[2]`, `.output` | S = `8x8`, `8x16`, `9x12`, `16x16` (height x width in latent cells), a timestep each |
| `unet.context` `[2, 77, 128]` | the context of all of them: `text.last` |
| `unet.scalar.timestep` `[1]`, `unet.scalar.output` | the latent and context of `8x8`, one timestep for both |
| `vae.image` `[1, 3, 64, 96]`, `.mean`, `.logvar`, `.std`, `.noise`, `.sample` | encoder, unscaled; sample = mean + std · noise |
| `vae.latent`, `vae.decoded` | decoder, on an unscaled latent |
"""

import torch

from common import HERE, draw, pipeline, relative, save
from make_tiny_sd import smooth

PROMPTS = ["a portrait of mychar001, smiling, wearing a blue dress, soft window light", "a knight rides a white horse through the forest"]


def main() -> None:
    pipe, out = pipeline(), {}
    with torch.no_grad():
        ids = pipe.tokenizer(PROMPTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
        text = pipe.text_encoder(ids, output_hidden_states=True)
        norm = pipe.text_encoder.final_layer_norm
        out |= {"text.ids": ids, "text.last": text.last_hidden_state}
        # A1111's clip skip n: the n-th hidden state from the end.
        out |= {"text.skip2": norm(text.hidden_states[-2]), "text.skip3": norm(text.hidden_states[-3])}
        assert relative(norm(text.hidden_states[-1]), text.last_hidden_state) == 0
        assert relative(out["text.skip2"], out["text.last"]) > 0.05

        context = text.last_hidden_state
        out["unet.context"] = context
        for at, (height, width) in enumerate([(8, 8), (8, 16), (9, 12), (16, 16)]):
            name = f"unet.{height}x{width}"
            latent, time = draw(name, (2, 4, height, width)), torch.tensor([[981, 17], [500, 321], [3, 742], [999, 0]][at])
            result = pipe.unet(latent, time, context).sample
            out |= {f"{name}.latent": latent, f"{name}.timestep": time, f"{name}.output": result}
        time = torch.tensor([601])
        out |= {"unet.scalar.timestep": time, "unet.scalar.output": pipe.unet(out["unet.8x8.latent"], time[0], context).sample}

        image = (smooth("image", (1, 3, 64, 96), 10) / 2).clamp(-1, 1)
        moments = pipe.vae.encode(image).latent_dist
        noise = draw("vae noise", moments.mean.shape)
        sample = moments.mean + moments.std * noise
        out |= {"vae.image": image, "vae.mean": moments.mean, "vae.logvar": moments.logvar, "vae.std": moments.std}
        out |= {"vae.noise": noise, "vae.sample": sample}
        latent = smooth("vae latent", (1, 4, 6, 8), 4) / pipe.vae.config.scaling_factor
        out |= {"vae.latent": latent, "vae.decoded": pipe.vae.decode(latent).sample}
    save(HERE / "components.safetensors", out)


if __name__ == "__main__":
    main()
