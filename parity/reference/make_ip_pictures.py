"""Pictures by diffusers with `tiny-sd/` and the adapters of `ip-adapter/`, in f32 on the CPU: writes `ip-adapter/pictures/`.

There, `pictures.json` is a list of cases as in `../pictures.json`, each with `adapters`: a list of `file`, `images`, `faces` (a file of
face embeddings, or null), `version` (of FaceID-plus, or null), `scale`, `start` and `end` (an adapter acts in the steps `i` of `n` with
`i / n >= start` and `(i + 1) / n <= end`, as diffusers has it for ControlNets), `weights` (a factor of the scale for each block, others 0,
in ComfyUI's count: 0 to 5 down, 6 mid, 7 to 15 up; or null), `masks` (one for each image, or none), `combine`, `negative` (an
image, or null), `uncond`, `fit`. `latents.safetensors` has each case's final latents.

diffusers computes every picture. What its pipeline has no argument for it gets as `ip_adapter_image_embeds`: a negative image, the mean
of several, the unconditional inputs of ComfyUI (a black picture) and stable-diffusion.cpp (hidden states of zero), a picture squashed or
padded beforehand.
"""

import json
import shutil

import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection

from make_ip_adapter import FOLDER, processor
from make_pictures import DEFAULT, array, run

OUT = FOLDER / "pictures"
BASE, PLUS, FULL = ("ip-adapter.safetensors", "ip-adapter-plus.safetensors", "ip-adapter-full-face.safetensors")
FACEID, FACEID_PLUS = "ip-adapter-faceid.bin", "ip-adapter-faceid-plus.bin"
BLOCKS = [f"down.block_{block}.{layer}" for block in range(3) for layer in range(2)]
BLOCKS += ["mid"] + [f"up.block_{block}.{layer}" for block in range(1, 4) for layer in range(3)]


def adapter(file: str, *images: str, **options) -> dict:
    default = {
        "file": file,
        "images": list(images),
        "faces": None,
        "version": None,
        "scale": 1.0,
        "start": 0.0,
        "end": 1.0,
        "weights": None,
        "masks": [],
        "combine": "concat",
        "negative": None,
        "uncond": "reference",
        "fit": "crop",
    }
    assert options.keys() <= default.keys()
    return default | options


def cases() -> list[dict]:
    out = []

    def add(name: str, *adapters: dict, **options) -> None:
        out.append({"name": name, **DEFAULT, **options, "adapters": list(adapters)})

    for name, file in (("base", BASE), ("plus", PLUS), ("full-face", FULL)):
        add(name, adapter(file, "portrait.png"))
        add(f"{name}-0.5", adapter(file, "portrait.png", scale=0.5))
        add(f"{name}-wide", adapter(file, "wide.png"), sampler="euler")
        add(f"{name}-cfg-1", adapter(file, "portrait.png"), cfg=1.0)
        add(f"{name}-two", adapter(file, "portrait.png", "wide.png"))
        add(f"{name}-average", adapter(file, "portrait.png", "wide.png", combine="average"))
        add(f"{name}-mask", adapter(file, "portrait.png", masks=["mask.png"]))
        add(f"{name}-negative", adapter(file, "portrait.png", negative="wide.png"))
        add(f"{name}-lora", adapter(file, "portrait.png"), loras=[["kohya.safetensors", 0.6]])
    for name, file in (("plus", PLUS), ("full-face", FULL)):
        add(f"{name}-comfy", adapter(file, "portrait.png", uncond="comfy"))
        add(f"{name}-sdcpp", adapter(file, "portrait.png", uncond="sdcpp"))
    for fit in ("squash", "pad"):
        add(f"plus-{fit}", adapter(PLUS, "wide.png", fit=fit))
    for weights in ("5:1,15:0.7", "0:0.4,1:1,6:1,8:0.5,13:1.2"):
        add(f"base-blocks-{weights.count(':')}", adapter(BASE, "portrait.png", scale=0.8, weights=weights), sampler="unipc")
    add("base-start", adapter(BASE, "portrait.png", start=0.5))
    add("base-end", adapter(BASE, "portrait.png", end=0.6), sampler="dpmpp-2m", schedule="karras")
    add("plus-middle", adapter(PLUS, "portrait.png", start=0.2, end=0.7), sampler="heun")
    add("base-large", adapter(BASE, "portrait.png", scale=1.6))
    add("base-less", adapter(BASE, "portrait.png", scale=-0.4))
    add("base-mask-wide", adapter(BASE, "portrait.png", masks=["mask-wide.png"]), width=96)
    add("plus-two-masks", adapter(PLUS, "portrait.png", "wide.png", masks=["mask.png", "mask-right.png"]))
    add("base-count-2", adapter(BASE, "portrait.png", scale=0.7), count=2, sampler="euler-a")
    add("base-img2img", adapter(BASE, "portrait.png"), init_image="init.png", strength=0.6)
    add("plus-img2img-end", adapter(PLUS, "portrait.png", end=0.5), init_image="init.png", strength=0.6, sampler="unipc")
    add("base-and-plus", adapter(BASE, "wide.png", scale=0.5), adapter(PLUS, "portrait.png", scale=0.8))
    add(
        "plus-and-plus",
        adapter(PLUS, "wide.png", masks=["mask.png"]),
        adapter(PLUS, "portrait.png", masks=["mask-right.png"], scale=0.8),
    )
    add("base-start-plus-end", adapter(BASE, "wide.png", start=0.5), adapter(PLUS, "portrait.png", end=0.5), sampler="dpmpp-2m")
    add("faceid", adapter(FACEID, faces="face.json"))
    add("faceid-0.5", adapter(FACEID, faces="face.json", scale=0.5), cfg=1.0)
    add("faceid-two", adapter(FACEID, faces="faces.safetensors"))
    add("faceid-average", adapter(FACEID, faces="faces.safetensors", combine="average"))
    add("faceid-lora", adapter(FACEID, faces="face.json"), loras=[["kohya.safetensors", 0.6]])
    add("faceid-plus-1", adapter(FACEID_PLUS, "portrait.png", faces="face.json", version=1))
    add("faceid-plus-2", adapter(FACEID_PLUS, "portrait.png", faces="face.json", version=2))
    add("faceid-plus-two", adapter(FACEID_PLUS, "portrait.png", "wide.png", faces="faces.safetensors", version=2, scale=0.7))
    add("faceid-and-base", adapter(FACEID, faces="face.json", scale=0.6), adapter(BASE, "portrait.png", scale=0.4))
    return out


def fitted(name: str, fit: str) -> Image.Image:
    image = Image.open(FOLDER / name).convert("RGB")
    if fit == "squash":
        return image.resize((56, 56), Image.Resampling.BICUBIC)
    if fit == "pad":
        side = max(image.size)
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square
    return image


def faces(file: str) -> torch.Tensor:
    """Face embeddings, `[n, 32]`."""
    if file.endswith(".json"):
        return torch.tensor([json.loads((FOLDER / file).read_text(encoding="utf-8"))])
    return load_file(FOLDER / file)["faces"]


class Adapters:
    """Puts a case's adapters on a pipeline, and gives the arguments that its call needs."""

    def __init__(self, case: dict):
        self.case, self.all = case, case["adapters"]

    def __call__(self, pipe) -> dict:
        encoder = CLIPVisionModelWithProjection.from_pretrained(FOLDER / "image_encoder", dtype=torch.float32)
        pipe.register_modules(image_encoder=encoder, feature_extractor=processor())
        files = [one["file"] for one in self.all]
        pipe.load_ip_adapter(str(FOLDER), subfolder=[""] * len(files), weight_name=files, image_encoder_folder=None)
        loras = [[name.split(".")[0], scale] for name, scale in self.case["loras"]]
        if any("faceid" in file for file in files):
            # `load_ip_adapter` leaves the last one's factors alone in use.
            loras += [[f"faceid_{at}", 1.0] for at, file in enumerate(files) if "faceid" in file]
            pipe.set_adapters([name for name, _ in loras], [scale for _, scale in loras])
        self.set_scales(pipe, 0, 1)
        self.schedule(pipe)
        arguments = {}
        if any(one["masks"] for one in self.all):
            arguments["cross_attention_kwargs"] = {"ip_adapter_masks": [self.masks(one) for one in self.all]}
        plain = adapter("")
        simple = ("faces", "version", "combine", "negative", "uncond", "fit")
        if all(one[key] == plain[key] for one in self.all for key in simple):
            arguments["ip_adapter_image"] = [[Image.open(FOLDER / name) for name in one["images"]] for one in self.all]
        else:
            arguments["ip_adapter_image_embeds"] = [self.embeds(pipe, at, one) for at, one in enumerate(self.all)]
        return arguments

    def scale(self, one: dict, step: int, steps: int):
        if step / steps < one["start"] or (step + 1) / steps > one["end"]:
            return 0.0
        if one["weights"] is None:
            return one["scale"]
        weights = {BLOCKS[int(block)]: one["scale"] * float(weight) for block, weight in (w.split(":") for w in one["weights"].split(","))}
        scales = {"mid": weights.get("mid", 0.0)}
        for way, blocks, layers in (("down", range(3), 2), ("up", range(1, 4), 3)):
            named = {f"block_{block}": [weights.get(f"{way}.block_{block}.{at}", 0.0) for at in range(layers)] for block in blocks}
            scales[way] = named
        return scales

    def set_scales(self, pipe, step: int, steps: int) -> None:
        pipe.set_ip_adapter_scale([self.scale(one, step, steps) for one in self.all])

    def schedule(self, pipe) -> None:
        """Sets the scales anew before each evaluation of the UNet."""
        if all(one["start"] == 0 and one["end"] == 1 for one in self.all):
            return
        done = 0

        def before(*_) -> None:
            nonlocal done
            self.set_scales(pipe, done, pipe.num_timesteps)
            done += 1

        pipe.unet.register_forward_pre_hook(before)

    def masks(self, one: dict):
        if not one["masks"]:
            return None
        images = [Image.open(FOLDER / name) for name in one["masks"]]
        tensors = IPAdapterMaskProcessor().preprocess(images, height=self.case["height"], width=self.case["width"])
        return tensors.reshape(1, *tensors.shape[0:1], *tensors.shape[2:])

    def embeds(self, pipe, at: int, one: dict) -> torch.Tensor:
        """What `prepare_ip_adapter_image_embeds` takes: the unconditional inputs, then the others, `[2, images, …]`."""
        layer = pipe.unet.encoder_hid_proj.image_projection_layers[at]
        guided = self.case["cfg"] > 1
        images = self.images(pipe, one) if one["images"] else None
        if one["faces"] is None:
            return images if guided else images[1:]
        held = faces(one["faces"])[None]
        if one["combine"] == "average":
            held = held.mean(1, keepdim=True)
        held = torch.cat([torch.zeros_like(held), held])
        held = held if guided else held[1:]
        if images is not None:
            layer.clip_embeds = images if guided else images[1:]
            layer.shortcut = one["version"] == 2
        return held

    def images(self, pipe, one: dict) -> torch.Tensor:
        states = one["file"] != BASE

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            output = pipe.image_encoder(pixels, output_hidden_states=True)
            return output.hidden_states[-2] if states else output.image_embeds

        def pixels(images: list[Image.Image]) -> torch.Tensor:
            return processor()(images, return_tensors="pt").pixel_values

        with torch.no_grad():
            shown = pixels([fitted(name, one["fit"]) for name in one["images"]])
            positive = encode(shown)
            if one["combine"] == "average":
                positive = positive.mean(0, keepdim=True)
            if one["negative"]:
                negative = encode(pixels([fitted(one["negative"], one["fit"])]))
            elif not states or one["uncond"] == "sdcpp":
                negative = torch.zeros_like(positive[:1])
            elif one["uncond"] == "comfy":
                negative = encode(pixels([Image.new("RGB", (56, 56))]))
            else:
                negative = encode(torch.zeros_like(shown[:1]))
        return torch.stack([negative.expand_as(positive), positive])


def check_alone(case: dict, pixels) -> None:
    """The adapters matter: without them the picture is another one."""
    plain = array(run(case)[0])
    change = abs(pixels - plain).mean()
    print(f"{case['name']}: the adapters change the picture by {change:.1f} of 255")
    assert change > 4, case["name"]


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    records, latents, seen = [], {}, {}
    for case in cases():
        images, final = run(case, change=Adapters(case))
        pixels = array(images)
        moved = abs(array(run(case, moved=True, change=Adapters(case))[0]) - pixels).mean()
        clipped = ((pixels == 0) | (pixels == 255)).mean()
        closest = min(
            ((abs(pixels - other).mean(), name) for name, other in seen.items() if other.shape == pixels.shape), default=(255, "")
        )
        print(
            f"{case['name']}: std {pixels.std():.0f}, clipped {clipped:.3f}, latents {final.std():.2f}, moved by {moved:.4f}; "
            f"nearest: {closest[1]}, {closest[0]:.2f}"
        )
        assert moved < 0.05 and clipped < 0.1, case["name"]
        assert pixels.shape[1:3] == (case["height"], case["width"]), (case["name"], pixels.shape)
        assert closest[0] > 0.5, case["name"]
        check_alone(case, pixels)
        seen[case["name"]] = pixels
        case["files"] = [f"{case['name']}.png" if case["count"] == 1 else f"{case['name']}-{at}.png" for at in range(case["count"])]
        for image, file in zip(images, case["files"]):
            image.save(OUT / file, optimize=True)
        records.append(case)
        latents[case["name"]] = final
    lines = ",\n".join(json.dumps(record) for record in records)
    (OUT / "pictures.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    save_file({name: latents[name].contiguous() for name in sorted(latents)}, OUT / "latents.safetensors")
    total = sum(path.stat().st_size for path in OUT.iterdir())
    print(f"{len(records)} cases, {total / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
