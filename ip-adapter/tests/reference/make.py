"""What diffusers' and tencent's own code compute with the adapters of `parity/reference/ip-adapter/`: writes `expected.safetensors`, `shapes.json`.

    python make.py TENCENT

TENCENT is a checkout of github.com/tencent-ailab/IP-Adapter (made with 62e4af9), of which the classes of projectors and attention are
run as they are; they need the package `einops`. All else as in `parity/reference/requirements.txt`, in f32 on one thread.

| keys | what |
|---|---|
| `in.pooled` `[2, 48]`, `in.states` `[2, 17, 80]`, `in.face` `[2, 32]`, `in.blank` `[1, 17, 80]` | what an encoder might have made of two pictures, and of a blank one |
| `tokens.V`, `uncond.V` | tokens of the two pictures, and those of zeros (base, FaceID) and the blank picture, of variant V by diffusers |
| `tencent.tokens.V`, `tencent.uncond.V` | the same by tencent's classes |
| `tokens.faceid-plus-2-half` | version 2 with the resampled tokens' share at 0.5 |
| `portrait.*` | a FaceID-portrait projector: its weights `[.., 8]`, `portrait.in.face` `[2, 8]`, `tencent.tokens.portrait` `[1, 32, 128]` of the two faces |
| `unet.C` | diffusers' UNet in case C, see `cases` below; the first of the batch sees the unconditional tokens, the second the pictures' |
| `tencent.unet.C` | UNet with tencent's attention; for FaceID variants with their low-rank factors |
| `mask.left`, `mask.right`, `mask.wide`, `mask.soft` | masks in pixels |
| `mask.soft.HxW` | the last as diffusers gives it to a layer of that height and width |

Latents, timesteps and the text are `components.safetensors`'. `shapes.json` has names and shapes of the published adapters as tencent's
code makes them at full size, and the order of diffusers' attention processors in Stable Diffusion 1.5.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARITY = HERE.parents[2] / "parity" / "reference"
sys.path.insert(0, str(PARITY))
sys.path.insert(0, sys.argv[1])

import torch
from common import draw, half, pipeline, relative
from diffusers import UNet2DConditionModel
from diffusers.image_processor import IPAdapterMaskProcessor
from safetensors.torch import load_file, save_file

import diffusers.pipelines.controlnet as controlnet

# diffusers has moved it since; nothing here uses it.
controlnet.MultiControlNetModel = None
from ip_adapter import ip_adapter_faceid, ip_adapter_faceid_separate
from ip_adapter.attention_processor import AttnProcessor2_0, IPAttnProcessor2_0
from ip_adapter.attention_processor_faceid import LoRAAttnProcessor2_0, LoRAIPAttnProcessor2_0
from ip_adapter.ip_adapter import ImageProjModel, MLPProjModel
from ip_adapter.resampler import Resampler

CONTEXT, FACE, RANK = 128, 32, 4
FILES = {
    "base": "ip-adapter.safetensors",
    "plus": "ip-adapter-plus.safetensors",
    "full": "ip-adapter-full-face.safetensors",
    "faceid": "ip-adapter-faceid.bin",
    "faceid-plus-1": "ip-adapter-faceid-plus.bin",
    "faceid-plus-2": "ip-adapter-faceid-plus.bin",
}


def opened(variant: str) -> dict:
    """A nested dictionary in f32."""
    path = PARITY / "ip-adapter" / FILES[variant]
    if path.suffix == ".bin":
        nested = torch.load(path, map_location="cpu", weights_only=True)
    else:
        nested = {"image_proj": {}, "ip_adapter": {}}
        for key, value in load_file(path).items():
            part, name = key.split(".", 1)
            nested[part][name] = value
    return {part: {key: value.float() for key, value in tensors.items()} for part, tensors in nested.items()}


def inputs() -> dict:
    return {
        "pooled": draw("ip pooled", (2, 48)),
        "states": draw("ip states", (2, 17, 80)),
        "face": torch.nn.functional.normalize(draw("ip face", (2, FACE)), dim=1),
        "blank": draw("ip blank", (1, 17, 80)),
    }


def embeds(variant: str, given: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """What the projector takes for the two pictures, and for none: of FaceID-plus the face embedding."""
    if variant == "base":
        return given["pooled"], torch.zeros_like(given["pooled"])
    if variant.startswith("faceid"):
        return given["face"], torch.zeros_like(given["face"])
    return given["states"], given["blank"].expand(2, -1, -1)


def projected(layer, variant: str, given: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the two pictures and of none by diffusers' layer."""
    outputs = []
    for embed, states in zip(embeds(variant, given), (given["states"], given["blank"].expand(2, -1, -1))):
        if "plus-" in variant:
            layer.clip_embeds, layer.shortcut = states[:, None], variant.endswith("2")
        outputs.append(layer(embed))
    return tuple(outputs)


def tencent_projector(variant: str, width: int = 80, pooled: int = 48, context: int = CONTEXT, face: int = FACE, heads: int = 1, dim: int = 64):
    if variant == "base":
        return ImageProjModel(context, pooled, 4)
    if variant == "plus":
        return Resampler(dim, 4, 64, heads, 16, width, context, 4)
    if variant == "full":
        return MLPProjModel(context, width)
    if variant == "faceid":
        return ip_adapter_faceid.MLPProjModel(context, face, 4)
    return ip_adapter_faceid.ProjPlusModel(context, face, width, 4)


def tencent_projected(variant: str, state: dict, given: dict) -> tuple[torch.Tensor, torch.Tensor]:
    module = tencent_projector(variant)
    module.load_state_dict(state)
    seen, none = embeds(variant, given)
    if "plus-" in variant:
        blank, shortcut = given["blank"].expand(2, -1, -1), variant.endswith("2")
        return module(seen, given["states"], shortcut=shortcut), module(none, blank, shortcut=shortcut)
    return module(seen), module(none)


def tencent_processors(unet, lora: bool, tokens: int, rank: int = RANK) -> dict:
    """As its pipelines set them on a UNet, whose text has `CONTEXT` channels."""
    processors = {}
    for name in unet.attn_processors:
        channels = unet.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
        context = unet.config.cross_attention_dim if name.endswith("attn2.processor") else None
        if lora:
            if context is None:
                processors[name] = LoRAAttnProcessor2_0(channels, None, rank)
            else:
                processors[name] = LoRAIPAttnProcessor2_0(channels, context, rank, num_tokens=tokens)
        else:
            processors[name] = AttnProcessor2_0() if context is None else IPAttnProcessor2_0(channels, context, num_tokens=tokens)
    return processors


def masks() -> dict:
    """In pixels, 1 where an adapter acts."""
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    left = ((rows - 70) ** 2 + (columns - 30) ** 2 < 45**2).float()
    right = (columns > 80).float() * (rows < 100).float()
    wide = (columns[:64] > 41).float() * (columns[:64] < 97).float()
    soft = half(torch.rand((96, 128), generator=torch.Generator().manual_seed(5)))
    return {"mask.left": left, "mask.right": right, "mask.wide": wide, "mask.soft": soft}


class Case:
    """Adapters on a UNet: the variants, a list of pictures for each, and how strong they are."""

    def __init__(self, *adapters, masks=None, latent="16x16"):
        self.adapters, self.masks, self.latent = adapters, masks, latent


def cases() -> dict[str, Case]:
    both, first = [0, 1], [0]
    by_layer = [0.25 * (at % 5) for at in range(16)]
    return {
        **{variant: Case((variant, first, 1.0)) for variant in FILES},
        "base-half": Case(("base", first, 0.5)),
        "plus-half": Case(("plus", first, 0.5)),
        "base-two": Case(("base", both, 1.0)),
        "plus-two": Case(("plus", both, 0.7)),
        "base-layers": Case(("base", first, by_layer)),
        "base-mask": Case(("base", first, 1.0), masks=[["mask.left"]]),
        "base-mask-wide": Case(("base", first, 1.0), masks=[["mask.wide"]], latent="8x16"),
        "plus-two-masks": Case(("plus", both, [[0.8, 0.5]] * 16), masks=[["mask.left", "mask.right"]]),
        "base-and-plus": Case(("base", first, 0.7), ("plus", [1], 0.4)),
        "two-masks": Case(("base", first, 0.7), ("plus", [1], 0.9), masks=[["mask.left"], ["mask.right"]]),
    }


def run(case: Case, parts: dict, given: dict, tensors: dict) -> torch.Tensor:
    unet = pipeline().unet
    unet._load_ip_adapter_weights([opened(variant) for variant, _, _ in case.adapters], low_cpu_mem_usage=False)
    images = []
    for at, (variant, pictures, _) in enumerate(case.adapters):
        seen, none = embeds(variant, given)
        images.append(torch.stack([none[pictures], seen[pictures]]))
        if "plus-" in variant:
            layer = unet.encoder_hid_proj.image_projection_layers[at]
            layer.clip_embeds = torch.stack([given["blank"].expand(2, -1, -1)[pictures], given["states"][pictures]])
            layer.shortcut = variant.endswith("2")
    cross = [processor for name, processor in unet.attn_processors.items() if name.endswith("attn2.processor")]
    for layer, processor in enumerate(cross):
        processor.scale = [scale[layer] if isinstance(scale, list) else scale for _, _, scale in case.adapters]
    options = {}
    if case.masks:
        options["ip_adapter_masks"] = [torch.stack([tensors[name] for name in names])[None] for names in case.masks]
    return unet(
        parts[f"unet.{case.latent}.latent"],
        parts[f"unet.{case.latent}.timestep"],
        parts["unet.context"],
        added_cond_kwargs={"image_embeds": images},
        cross_attention_kwargs=options,
    ).sample


def tencent_run(variant: str, parts: dict, tokens: torch.Tensor) -> torch.Tensor:
    unet = pipeline().unet
    unet.set_attn_processor(tencent_processors(unet, "faceid" in variant, tokens.shape[1]))
    torch.nn.ModuleList(unet.attn_processors.values()).load_state_dict(opened(variant)["ip_adapter"])
    text = torch.cat([parts["unet.context"], tokens], 1)
    return unet(parts["unet.16x16.latent"], parts["unet.16x16.timestep"], text).sample


def shapes() -> dict:
    """Names and shapes at full size, without values."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        order = list(unet.attn_processors)
        encoders = {
            "ip-adapter_sd15": ("base", {}),
            "ip-adapter_sd15_vit-G": ("base", {"pooled": 1280}),
            "ip-adapter-plus_sd15": ("plus", {}),
            "ip-adapter-full-face_sd15": ("full", {}),
            "ip-adapter-faceid_sd15": ("faceid", {}),
            "ip-adapter-faceid-plus_sd15": ("faceid-plus-1", {}),
            "ip-adapter-faceid-portrait_sd15": ("portrait", {}),
        }
        adapters = {}
        for name, (variant, change) in encoders.items():
            sizes = {"width": 1280, "pooled": 1024, "context": 768, "face": 512, "heads": 12, "dim": 768} | change
            if variant == "portrait":
                projector = ip_adapter_faceid_separate.MLPProjModel(768, 512, 16)
            else:
                projector = tencent_projector(variant, **sizes)
            processors = tencent_processors(unet, lora=variant.startswith("faceid"), tokens=4, rank=128)
            state = {f"image_proj.{key}": list(value.shape) for key, value in projector.state_dict().items()}
            layers = torch.nn.ModuleList(processors.values())
            adapters[name] = state | {f"ip_adapter.{key}": list(value.shape) for key, value in layers.state_dict().items()}
    return {"processors": order, "adapters": adapters}


@torch.no_grad()
def main() -> None:
    given, out = inputs(), masks()
    out |= {f"in.{name}": value for name, value in given.items()}
    parts = load_file(PARITY / "components.safetensors")
    converter = pipeline().unet
    for variant in FILES:
        state = opened(variant)["image_proj"]
        layer = converter._convert_ip_adapter_image_proj_to_diffusers(state, low_cpu_mem_usage=False)
        theirs = projected(layer, variant, given)
        tencent = tencent_projected(variant, state, given)
        for name, ours, other in zip(("tokens", "uncond"), theirs, tencent):
            print(f"{name} of {variant}: {list(ours.shape)}, tencent's differ by {relative(other, ours):.1e}")
            assert relative(other, ours) < 1e-5
            out |= {f"{name}.{variant}": ours, f"tencent.{name}.{variant}": other}
        if variant == "faceid-plus-2":
            layer.shortcut_scale = 0.5
            out["tokens.faceid-plus-2-half"] = projected(layer, variant, given)[0]

    portrait = ip_adapter_faceid_separate.MLPProjModel(CONTEXT, 8, 16)
    state = {}
    for key, value in portrait.state_dict().items():
        state[key] = half(draw(f"portrait {key}", value.shape) * (1.0 if value.dim() == 1 else value.shape[1] ** -0.5))
    portrait.load_state_dict(state)
    out |= {f"portrait.{key}": value.half() for key, value in state.items()}
    out["portrait.in.face"] = torch.nn.functional.normalize(draw("portrait face", (2, 8)), dim=1)
    # A portrait's faces come as `[1, faces, numbers]`; their tokens stand side by side.
    out["tencent.tokens.portrait"] = portrait(out["portrait.in.face"]).reshape(1, -1, CONTEXT)

    plain = {size: parts[f"unet.{size}.output"] for size in ("16x16", "8x16")}
    for name, case in cases().items():
        out[f"unet.{name}"] = result = run(case, parts, given, out)
        change = relative(result, plain[case.latent])
        print(f"UNet with {name}: the adapters change {change:.2f} of the output")
        assert change > 0.02
    for variant in ("base", "plus", "faceid", "faceid-plus-1", "faceid-plus-2"):
        tokens = torch.stack([out[f"tencent.uncond.{variant}"][0], out[f"tencent.tokens.{variant}"][0]])
        out[f"tencent.unet.{variant}"] = result = tencent_run(variant, parts, tokens)
        difference = relative(result, out[f"unet.{variant}"])
        print(f"UNet with {variant}: tencent's differs by {difference:.1e}")
        # FaceID's low-rank factors are in tencent's alone.
        assert (difference > 0.01) if "faceid" in variant else (difference < 1e-5)

    for height, width in ((12, 16), (6, 8), (3, 4), (24, 32), (96, 128)):
        small = IPAdapterMaskProcessor.downsample(out["mask.soft"][None], 1, height * width, 1)
        out[f"mask.soft.{height}x{width}"] = small.reshape(height, width)

    save_file({name: out[name].contiguous().clone() for name in sorted(out)}, HERE / "expected.safetensors")
    table = shapes()
    counts = {name: len(tensors) for name, tensors in table["adapters"].items()}
    print(counts)
    lines = [f'"processors": {json.dumps(table["processors"])}']
    adapters = ",\n".join(f"{json.dumps(name)}: {json.dumps(tensors, separators=(',', ':'))}" for name, tensors in table["adapters"].items())
    lines.append(f'"adapters": {{\n{adapters}\n}}')
    (HERE / "shapes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    for path in (HERE / "expected.safetensors", HERE / "shapes.json"):
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
