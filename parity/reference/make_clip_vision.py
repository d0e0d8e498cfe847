"""Writes `clip-vision/`: small random image encoders, what transformers computes with them, and what its image processor makes of pictures.

- `quick_gelu/`, `gelu/`: `CLIPVisionModelWithProjection` in f16, of the two activations; `gelu` has ViT-H's 80 channels a head.
- `clip/`: a whole `CLIPModel`, text encoder and all, as a pickle with the `position_ids` of transformers 4.
- `expected.safetensors`: by model, `pixels`, `image_embeds`, `penultimate` (`hidden_states[-2]`) and `last` (`hidden_states[-1]`), in f32.
- `pictures.json`, `pictures.safetensors`: sizes of pictures and processors, and the 8-bit pixels that come out, `[height, width, 3]`. Where
  they are many there is their FNV-1a hash and every 997th of them. The pictures are drawn by the formulas below, which the tests repeat.
- `normalized`, in the same file: one picture to the end, in f32.
- `shapes.json`: keys and shapes of ViT-L/14, ViT-H/14 and ViT-bigG/14, from `meta` tensors, with one layer for all.

The image processor is `CLIPImageProcessorPil`: transformers 4's `CLIPImageProcessor`, and transformers 5's wherever torchvision is missing.
"""

import json
import shutil

import numpy as np
import PIL.Image
import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from common import HERE, draw, initialise, save

OUT = HERE / "clip-vision"

MODELS = {
    "quick_gelu": dict(
        hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=3, image_size=56, patch_size=14, projection_dim=20
    ),
    # 41 pixels leave one over at the end of a row of patches of 8.
    "gelu": dict(
        hidden_size=160, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, image_size=41, patch_size=8, projection_dim=24
    ),
}

FULL = {
    "vit-l-14": dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14, projection_dim=768),
    "vit-h-14": dict(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14, projection_dim=1024, hidden_act="gelu"
    ),
    "vit-bigg-14": dict(
        hidden_size=1664, intermediate_size=8192, num_hidden_layers=48, num_attention_heads=16, patch_size=14, projection_dim=1280, hidden_act="gelu"
    ),
}


def models() -> None:
    expected = {}
    for number, (name, sizes) in enumerate(MODELS.items()):
        config = CLIPVisionConfig(hidden_act=name, **sizes)
        model = CLIPVisionModelWithProjection(config).eval()
        initialise(model, 10 + number, lambda key: 1.6 if "q_proj" in key or "k_proj" in key else 1.0)
        folder = OUT / name
        model.half().save_pretrained(folder)
        side = config.image_size
        CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(folder)
        for file in folder.glob("*.json"):
            file.write_text(json.dumps(json.loads(file.read_text()), indent=2) + "\n")
        pixels = draw(f"{name}.pixels", (2, 3, side, side))
        with torch.no_grad():
            out = model.float()(pixel_values=pixels, output_hidden_states=True)
        assert len(out.hidden_states) == config.num_hidden_layers + 1
        expected |= {
            f"{name}.pixels": pixels,
            f"{name}.image_embeds": out.image_embeds,
            f"{name}.penultimate": out.hidden_states[-2],
            f"{name}.last": out.hidden_states[-1],
        }
    expected |= whole()
    save(OUT / "expected.safetensors", expected)


def whole() -> dict:
    config = CLIPConfig(
        text_config=dict(
            hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=20, bos_token_id=18, eos_token_id=19
        ),
        # `projection_dim` is not said there, and so 512 in the file.
        vision_config=dict(
            hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14, hidden_act="gelu"
        ),
        projection_dim=12,
    )
    model = CLIPModel(config).eval()
    for number, part in enumerate([model.vision_model, model.visual_projection, model.text_model, model.text_projection]):
        initialise(part, 20 + number)
    folder = OUT / "clip"
    folder.mkdir()
    state = {key: value.half() for key, value in model.state_dict().items()}
    for tower, count in [("vision", 5), ("text", 77)]:
        state[f"{tower}_model.embeddings.position_ids"] = torch.arange(count)[None]
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["CLIPModel"]}, indent=2) + "\n")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).to_dict()
    text = json.dumps({"image_processor": processor, "processor_class": "CLIPProcessor"}, indent=2)
    (folder / "processor_config.json").write_text(text + "\n")
    pixels = draw("clip.pixels", (1, 3, 28, 28))
    with torch.no_grad():
        out = model.vision_model(pixel_values=pixels, output_hidden_states=True)
        embeds = model.visual_projection(out.pooler_output)
    assert embeds.shape == (1, 12)
    return {"clip.pixels": pixels, "clip.image_embeds": embeds, "clip.penultimate": out.hidden_states[-2]}


def picture(kind: str, width: int, height: int) -> np.ndarray:
    """`[height, width, 3]`: `waves` of ever higher frequency, `noise`, `grey` waves, and `steps` between black and white."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij", copy=False)
    x, y, c = (axis.astype(np.uint32) for axis in (x, y, c))
    if kind == "grey":
        kind, c = "waves", c * 0
    if kind == "waves":
        value = (3 * x * x + 5 * y * y + 7 * x * y + 85 * c) // 16 % 256
    elif kind == "noise":
        value = ((x * np.uint32(2654435761)) ^ (y * np.uint32(2246822519)) ^ ((c + 1) * np.uint32(3266489917))) >> 11 & 255
    else:
        value = 255 * ((x // 5 + y // 3 + c) % 2)
    return value.astype(np.uint8)


# kind, width, height, side that is resized to and cropped to, and other settings of the processor.
PICTURES = [
    ("waves", 224, 224, 224, {}),
    ("waves", 640, 481, 224, {}),
    ("noise", 333, 500, 224, {}),
    ("grey", 223, 225, 224, {}),
    ("noise", 1999, 31, 56, {}),
    ("waves", 17, 1203, 56, {}),
    ("steps", 7, 5, 56, {}),
    ("noise", 1, 1, 56, {}),
    ("noise", 1, 90, 56, {}),
    ("noise", 300, 2, 56, {}),
    ("steps", 57, 55, 56, {}),
    ("waves", 113, 112, 56, {}),
    ("noise", 61, 45, 29, {}),
    # Cut from more than was resized to, and from less: black stands where nothing is, one row or column more of it before than behind.
    ("waves", 90, 70, 40, {"size": {"shortest_edge": 60}}),
    ("waves", 50, 31, 40, {"size": {"shortest_edge": 29}}),
    ("noise", 33, 47, 40, {"size": {"shortest_edge": 20}}),
    ("waves", 50, 31, 40, {"size": {"height": 33, "width": 61}}),
    ("noise", 50, 31, 40, {"do_resize": False}),
    ("noise", 21, 60, 40, {"do_center_crop": False, "size": {"height": 40, "width": 40}}),
    ("noise", 45, 44, 40, {"size": 40, "crop_size": 40}),
    # Pillow 13 scales these along their height first, and the last as wide as tall along its width.
    ("noise", 71, 300, 56, {}),
    ("steps", 39, 41, 40, {"size": {"height": 40, "width": 40}}),
    ("noise", 100, 300, 40, {"size": {"height": 61, "width": 120}}),
    ("noise", 81, 82, 40, {"size": {"height": 40, "width": 40}}),
]


def fnv1a(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def pictures() -> None:
    cases, tensors = [], {}
    for number, (kind, width, height, side, settings) in enumerate(PICTURES):
        settings = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, **settings}
        given = PIL.Image.fromarray(picture(kind, width, height))
        processor = CLIPImageProcessorPil(do_rescale=False, do_normalize=False, **settings)
        out = processor(given, return_tensors="np").pixel_values[0]
        assert out.dtype == np.uint8 and out.shape == (3, side, side), (out.dtype, out.shape)
        out = np.ascontiguousarray(out.transpose(1, 2, 0))
        case = {"kind": kind, "width": width, "height": height, "side": side, "settings": settings, "fnv1a": fnv1a(out.tobytes())}
        cases.append(case)
        few = out if out.size < 10_000 else out.reshape(-1)[::997].copy()
        tensors[f"{number}"] = torch.from_numpy(few)
    # Transparency: every colour at every opacity.
    level = np.arange(256, dtype=np.uint8)
    alpha = np.stack([np.broadcast_to(level, (256, 256))] * 3 + [np.broadcast_to(level[:, None], (256, 256))], axis=-1)
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    out = processor(PIL.Image.fromarray(alpha), return_tensors="np").pixel_values[0]
    transparency = {"fnv1a": fnv1a(np.ascontiguousarray(out.transpose(1, 2, 0)).tobytes())}
    tensors["transparency"] = torch.from_numpy(out[0, ::17, ::17].copy())
    given = PIL.Image.fromarray(picture("waves", 70, 50))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    tensors["normalized"] = torch.from_numpy(processor(given, return_tensors="np").pixel_values[0])
    (OUT / "pictures.json").write_text(json.dumps({"cases": cases, "transparency": transparency}, indent=1) + "\n")
    save(OUT / "pictures.safetensors", tensors)


def shapes() -> None:
    told = {}
    for name, sizes in FULL.items():
        config = CLIPVisionConfig(**sizes)
        with torch.device("meta"):
            model = CLIPVisionModelWithProjection(config)
        state = {key: list(value.shape) for key, value in model.state_dict().items()}
        start = "vision_model.encoder.layers."
        layers = [{} for _ in range(config.num_hidden_layers)]
        rest = {}
        for key, shape in state.items():
            if key.startswith(start):
                number, inner = key.removeprefix(start).split(".", 1)
                layers[int(number)][inner] = shape
            else:
                rest[key] = shape
        assert all(layer == layers[0] for layer in layers)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        told[name] = {
            "config": {**sizes, "hidden_act": config.hidden_act},
            "parameters": parameters,
            "tensors": len(state),
            "layer": layers[0],
            "rest": rest,
        }
        print(f"{name}: {len(state)} tensors, {parameters} parameters")
    text = json.dumps(told, indent=1)
    (OUT / "shapes.json").write_text(text + "\n")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    models()
    pictures()
    shapes()
