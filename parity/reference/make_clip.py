"""Writes `clip/`: a small random CLIP of pictures and texts, and what transformers computes with it.

- `quick_gelu/`: a whole `CLIPModel` in f16 with its tokenizer (that of `tiny-sd/`) and its image processor, as published CLIPs are laid out.
- `gelu/`: another with the exact activation, whose `eos_token_id` is 2 as in files before transformers 4.31.
- `expected.safetensors`: by model, `text_embeds`, `image_embeds` (both of length 1) and `cosine` (`[texts, pictures]`), in f32.
- `expected.json`: the texts, and the pictures' names in `pictures10/`: square ones, since a cut before scaling is another one than behind it.

CLIP-I is the cosine of two pictures' embeddings, and CLIP-T that of a text's and a picture's: those numbers are compared.
"""

import json
import shutil

import PIL.Image
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from common import HERE, TINY, initialise, save

OUT = HERE / "clip"
PICTURES = ["01.png", "04.png", "05.png", "06.png"]
TEXTS = [
    "a portrait of a girl with a red hat",
    "mychar001, a boy in a park, smiling",
    "",
    "a girl and a boy and a hat and " * 12,
]
SIDE = 28
MODELS = {
    "quick_gelu": dict(act="quick_gelu", text=40, vision=48, heads=2, eos=913),
    "gelu": dict(act="gelu", text=32, vision=36, heads=2, eos=2),
}


def main() -> None:
    pictures = [PIL.Image.open(HERE / "pictures10" / name).convert("RGB") for name in PICTURES]
    tokenizer = CLIPTokenizer.from_pretrained(TINY / "tokenizer")
    expected = {}
    for number, (name, sizes) in enumerate(MODELS.items()):
        config = CLIPConfig(
            text_config=dict(
                hidden_size=sizes["text"],
                intermediate_size=56,
                num_hidden_layers=2,
                num_attention_heads=sizes["heads"],
                hidden_act=sizes["act"],
                vocab_size=914,
                bos_token_id=912,
                pad_token_id=913,
                eos_token_id=sizes["eos"],
            ),
            vision_config=dict(
                hidden_size=sizes["vision"],
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=sizes["heads"],
                hidden_act=sizes["act"],
                image_size=SIDE,
                patch_size=7,
            ),
            projection_dim=24,
        )
        model = CLIPModel(config).eval()
        parts = [model.vision_model, model.visual_projection, model.text_model, model.text_projection]
        for part_number, part in enumerate(parts):
            initialise(part, 40 + 10 * number + part_number)
        folder = OUT / name
        model.half().save_pretrained(folder)
        processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
        processor.save_pretrained(folder)
        for file in (TINY / "tokenizer").iterdir():
            shutil.copyfile(file, folder / file.name)
        for file in [folder / "config.json", folder / "preprocessor_config.json"]:
            if file.exists():
                file.write_text(json.dumps(json.loads(file.read_text()), indent=2) + "\n")
        tokens = tokenizer(TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        pixels = processor(pictures, return_tensors="pt").pixel_values
        with torch.no_grad():
            out = model.float()(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
        expected |= {
            f"{name}.text_embeds": out.text_embeds,
            f"{name}.image_embeds": out.image_embeds,
            f"{name}.cosine": out.text_embeds @ out.image_embeds.T,
        }
    save(OUT / "expected.safetensors", expected)
    (OUT / "expected.json").write_text(json.dumps({"texts": TEXTS, "pictures": PICTURES}, indent=2) + "\n")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    main()
