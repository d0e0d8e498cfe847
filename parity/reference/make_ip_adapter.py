"""Makes `ip-adapter/`: a small random CLIP image encoder, IP-Adapters for `tiny-sd/` in the layouts of the published files, and what they are shown.

| file | holds |
|---|---|
| `image_encoder/` | `CLIPVisionModelWithProjection` in f16: pictures of 56x56, 16 patches, width 80, two layers, embeddings of 48 |
| `ip-adapter.safetensors` | the base variant: `image_proj.proj`, 4 tokens from the embedding |
| `ip-adapter-plus.safetensors` | the resampler: 16 tokens from the last hidden states but one |
| `ip-adapter-full-face.safetensors` | `image_proj.proj.{0,2,3}`: a token of each of those states |
| `ip-adapter-faceid.bin` | a nested dictionary, pickled by PyTorch: 4 tokens from a face embedding of 32, LoRA factors of rank 4 |
| `ip-adapter-faceid-plus.bin` | the face embedding's tokens, refined by the hidden states in four equal layers; versions 1 and 2 have the same tensors |
| `faces.safetensors`, `face.json` | two face embeddings of length 1, `[2, 32]`; the first of them again, as a JSON list |
| `portrait.png`, `wide.png`, `mask*.png` | references, the second not square, and where adapters act |

The published files have 512 numbers for a face and rank 128. `ip_adapter.N.to_{k,v}_ip` counts the attention layers down, up, mid, each
self-attention with an even N and each cross-attention with an odd one.
"""

import json
import shutil

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from common import HERE, draw, half, initialise, pipeline, relative
from draw_pictures import picture

FOLDER = HERE / "ip-adapter"
SEED = 31
CONTEXT = 128
FACE = 32
RANK = 4
# How strong images are against words: K' makes the attention choose among tokens, V' is what they add.
KEY, VALUE = 2.0, 1.6


def image_encoder() -> CLIPVisionModelWithProjection:
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=80,
            intermediate_size=160,
            projection_dim=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            hidden_act="gelu",
        )
    ).eval()
    initialise(model, SEED, lambda name: 2.0 if "q_proj" in name or "k_proj" in name else 1.0)
    with torch.no_grad():
        # Patches of a smooth picture have a large mean, in which its details would drown.
        model.vision_model.embeddings.patch_embedding.weight.mul_(0.5)
    return model


def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})


def weight(name: str, out: int, inputs: int, gain: float = 1.0) -> torch.Tensor:
    return gain / inputs**0.5 * draw(name, (out, inputs), SEED)


def linear(name: str, out: int, inputs: int, gain: float = 1.0) -> dict:
    return {f"{name}.weight": weight(name, out, inputs, gain), f"{name}.bias": 0.1 * draw(f"{name}.bias", (out,), SEED)}


def norm(name: str, channels: int) -> dict:
    return {
        f"{name}.weight": 1 + 0.1 * draw(f"{name}.weight", (channels,), SEED),
        f"{name}.bias": 0.1 * draw(f"{name}.bias", (channels,), SEED),
    }


def resampler(name: str, width: int, inputs: int, out: int, alike: bool = False) -> dict:
    """Four layers of attention with heads of 64, whose keys and values are both inputs and latents, and a feed-forward part each.

    Layers that are `alike` are one in memory, and so in a pickle.
    """
    tensors = linear(f"{name}proj_in", width, inputs) | linear(f"{name}proj_out", out, width) | norm(f"{name}norm_out", out)
    for at in range(4):
        layer = f"{name}layers.{at}"
        if alike and at > 0:
            tensors |= {key.replace("layers.0.", f"layers.{at}."): tensors[key] for key in list(tensors) if ".layers.0." in key}
            continue
        tensors |= norm(f"{layer}.0.norm1", width) | norm(f"{layer}.0.norm2", width) | norm(f"{layer}.1.0", width)
        tensors[f"{layer}.0.to_q.weight"] = weight(f"{layer}.0.to_q", width, width, 1.5)
        tensors[f"{layer}.0.to_kv.weight"] = weight(f"{layer}.0.to_kv", 2 * width, width, 1.5)
        tensors[f"{layer}.0.to_out.weight"] = weight(f"{layer}.0.to_out", width, width)
        tensors[f"{layer}.1.1.weight"] = weight(f"{layer}.1.1", 4 * width, width)
        tensors[f"{layer}.1.3.weight"] = weight(f"{layer}.1.3", width, 4 * width)
    return tensors


def projections(encoder) -> dict[str, dict]:
    """`image_proj` of each variant."""
    hidden, embedding = encoder.config.hidden_size, encoder.config.projection_dim
    faceid = linear("faceid.proj.0", 2 * FACE, FACE, 4.0) | linear("faceid.proj.2", 4 * CONTEXT, 2 * FACE)
    return {
        "ip-adapter": linear("base.proj", 4 * CONTEXT, embedding) | norm("base.norm", CONTEXT),
        "ip-adapter-plus": {"plus.latents": draw("latents", (1, 16, 64), SEED)} | resampler("plus.", 64, hidden, CONTEXT),
        "ip-adapter-full-face": linear("full.proj.0", hidden, hidden)
        | linear("full.proj.2", CONTEXT, hidden)
        | norm("full.proj.3", CONTEXT),
        "ip-adapter-faceid": faceid | norm("faceid.norm", CONTEXT),
        "ip-adapter-faceid-plus": faceid
        | norm("faceid.norm", CONTEXT)
        | resampler("faceid.perceiver_resampler.", CONTEXT, hidden, CONTEXT, alike=True),
    }


def attention(unet, salt: str, lora: bool) -> dict:
    """`ip_adapter` of one variant."""
    tensors = {}
    for at, name in enumerate(unet.attn_processors):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        channels = layer.to_q.weight.shape[0]
        if name.endswith("attn2.processor"):
            tensors[f"{at}.to_k_ip.weight"] = weight(f"{salt} {at} k", channels, CONTEXT, KEY)
            tensors[f"{at}.to_v_ip.weight"] = weight(f"{salt} {at} v", channels, CONTEXT, VALUE)
        for factor in ("to_q", "to_k", "to_v", "to_out") if lora else ():
            full = (layer.to_out[0] if factor == "to_out" else getattr(layer, factor)).weight
            tensors[f"{at}.{factor}_lora.down.weight"] = weight(f"{salt} {at} {factor} down", RANK, full.shape[1])
            tensors[f"{at}.{factor}_lora.up.weight"] = weight(f"{salt} {at} {factor} up", full.shape[0], RANK, 0.3)
    assert [key for key in tensors if key.endswith("to_k_ip.weight")] == [f"{2 * at + 1}.to_k_ip.weight" for at in range(16)]
    return tensors


def stored(tensors: dict) -> dict:
    """In f16; what is one tensor stays one."""
    seen = {}
    return {key: seen.setdefault(id(value), value.detach().half().contiguous()) for key, value in tensors.items()}


def mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("L", size, 0)
    ImageDraw.Draw(image).ellipse(box, fill=255)
    return image


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    encoder = image_encoder()
    encoder.half().save_pretrained(FOLDER / "image_encoder")
    processor().save_pretrained(FOLDER / "image_encoder")
    for path in (FOLDER / "image_encoder").glob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    unet = pipeline().unet
    for name, projection in projections(encoder).items():
        tensors = {
            "image_proj": stored({key.split(".", 1)[1]: value for key, value in projection.items()}),
            "ip_adapter": stored(attention(unet, name, lora="faceid" in name)),
        }
        if "faceid" in name:
            torch.save(tensors, FOLDER / f"{name}.bin")
        else:
            flat = {f"{part}.{key}": value for part, values in tensors.items() for key, value in values.items()}
            save_file({key: flat[key] for key in sorted(flat)}, FOLDER / f"{name}.safetensors")
        print(f"{name}: {sum(map(len, tensors.values()))} tensors")

    faces = torch.nn.functional.normalize(draw("faces", (2, FACE), SEED), dim=1)
    save_file({"faces": faces}, FOLDER / "faces.safetensors")
    (FOLDER / "face.json").write_text(json.dumps(faces[0].tolist()) + "\n", encoding="utf-8")

    picture(112, 112, (200, 120, 60), "bricks", "smile", (0.48, 0.52, 0.4)).save(FOLDER / "portrait.png", optimize=True)
    picture(131, 87, (70, 130, 190), "stripes", "open", (0.6, 0.55, 0.42)).save(FOLDER / "wide.png", optimize=True)
    mask((64, 64), (-24, 6, 36, 62)).save(FOLDER / "mask.png", optimize=True)
    mask((64, 64), (36, 0, 80, 50)).save(FOLDER / "mask-right.png", optimize=True)
    mask((96, 64), (8, 10, 60, 58)).save(FOLDER / "mask-wide.png", optimize=True)

    encoder.float()
    with torch.no_grad():
        seen = [Image.open(FOLDER / name) for name in ("portrait.png", "wide.png")]
        outputs = [encoder(**processor()(image, return_tensors="pt"), output_hidden_states=True) for image in seen]
        apart = [relative(*(part(output) for output in outputs)) for part in (lambda o: o.image_embeds, lambda o: o.hidden_states[-2])]
    print(f"two pictures differ by {apart[0]:.2f} in the embedding and by {apart[1]:.2f} in the hidden states")
    assert min(apart) > 0.3
    for path in sorted(FOLDER.rglob("*.*")):
        print(f"{path.relative_to(FOLDER)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
