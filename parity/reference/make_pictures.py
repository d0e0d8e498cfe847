"""Pictures by diffusers with `tiny-sd/`, in f32 on the CPU: writes `pictures/*.png`, `pictures.json` and `pictures.safetensors`.

`pictures.json` is a list of cases: `name`, `prompt`, `negative` (null: none given, so the empty one), `sampler`, `schedule`, `steps`,
`cfg`, `seed`, `width`, `height`, `clip_skip` (A1111's count: 1 is the last layer), `loras` (`[[file in lora/, scale], …]`), `init_image`
(in pictures/, or null), `strength`, `count`, `prediction_type`, `files`, and of `tcd` `eta`. `pictures.safetensors` has each case's final latents under its
name, as the decoder gets them before it divides by the scaling factor.

Image-to-image: diffusers sizes the picture by the image given, each side rounded down to a multiple of 8 (Lanczos, 8-bit, by PIL, when
that changes anything). The generator first draws the noise of the encoder's distribution, then the noise added to the latents, then the
sampler's own. With `count` 2 one generator draws both pictures' values, the first picture's first.

Every case is also computed from latents moved by 1e-6, and refused if that changes the picture by 0.05 of 255 on average: rounding must
not decide what one sees.
"""

import json
import shutil

import numpy
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from safetensors.torch import load_file

from common import HERE, draw, pipeline, save
from draw_pictures import picture
from make_lora import product

FOLDER = HERE / "pictures"
SAMPLERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-a": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "pndm": PNDMScheduler,
    "dpmpp-2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
# Of models distilled to few steps, which are run without guidance.
DISTILLED = {"lcm": LCMScheduler, "tcd": TCDScheduler}
DEFAULT = {
    "prompt": "a portrait of mychar001, smiling, wearing a blue dress, soft window light",
    "negative": "low quality, blurry, bad hands",
    "sampler": "ddim",
    "schedule": "default",
    "steps": 12,
    "cfg": 7.0,
    "seed": 42,
    "width": 64,
    "height": 64,
    "clip_skip": 1,
    "loras": [],
    "init_image": None,
    "strength": None,
    "count": 1,
    "prediction_type": "epsilon",
}


def cases() -> list[dict]:
    out = []

    def add(name: str, **options) -> None:
        out.append({"name": name, **DEFAULT, **options})

    for sampler in SAMPLERS:
        add(sampler, sampler=sampler)
    for sampler in ("euler", "dpmpp-2m", "unipc"):
        add(f"{sampler}-karras", sampler=sampler, schedule="karras")
    for sampler in ("pndm", "dpmpp-2m", "unipc"):
        add(f"{sampler}-28", sampler=sampler, steps=28)
    for sampler, steps in (("ddim", 1), ("euler", 1), ("pndm", 1), ("heun", 2), ("pndm", 2), ("dpmpp-2m", 2), ("unipc", 2), ("euler-a", 2)):
        add(f"{sampler}-{steps}", sampler=sampler, steps=steps)
    add("large-seed", sampler="euler-a", seed=2**32 + 7)
    add("wide", sampler="euler", width=96, height=64)
    add("tall", sampler="dpmpp-2m", width=64, height=128)
    add("cfg-1", cfg=1.0)
    add("no-negative", sampler="unipc", negative=None)
    add("clip-skip-2", clip_skip=2)
    for sampler in ("ddim", "euler", "dpmpp-2m"):
        # Weakly guided, for this model was fitted to predict noise: at 7 its path would hang on the last bit.
        add(f"{sampler}-v", sampler=sampler, prediction_type="v_prediction", cfg=2.0)
    for name in ("kohya", "peft"):
        for scale in (1.0, 0.6):
            add(f"lora-{name}-{scale}", loras=[[f"{name}.safetensors", scale]])
    add("lora-locon-1.0", loras=[["locon.safetensors", 1.0]])
    add("lora-peft_metadata-1.0", loras=[["peft_metadata.safetensors", 1.0]])
    add("lora-two", sampler="dpmpp-2m", loras=[["kohya.safetensors", 0.7], ["peft.safetensors", 0.5]])
    add("count-2", count=2)
    add("count-2-euler-a", sampler="euler-a", count=2)
    for sampler in SAMPLERS:
        add(f"img2img-{sampler}", sampler=sampler, init_image="init.png", strength=0.6)
    for sampler in ("ddim", "pndm", "dpmpp-2m"):
        add(f"img2img-{sampler}-0.3", sampler=sampler, init_image="init.png", strength=0.3)
    for sampler in ("ddim", "euler"):
        add(f"img2img-{sampler}-1.0", sampler=sampler, init_image="init.png", strength=1.0)
    add("img2img-karras", sampler="dpmpp-2m", schedule="karras", init_image="init.png", strength=0.6)
    add("img2img-resized", sampler="euler", init_image="init-odd.png", strength=0.6, width=88, height=56)
    add("img2img-lora", sampler="unipc", init_image="init.png", strength=0.6, loras=[["kohya.safetensors", 0.6]])
    few = {"steps": 6, "cfg": 1.0}
    add("lcm", sampler="lcm", **few)
    add("lcm-1", sampler="lcm", steps=1, cfg=1.0)
    add("lcm-guided", sampler="lcm", steps=4, cfg=1.5)
    # The modules of the published LCM-LoRA in its spelling: convolutions and time projections too.
    add("lcm-lora", sampler="lcm", loras=[["locon.safetensors", 1.0]], **few)
    add("lcm-count-2", sampler="lcm", count=2, **few)
    add("lcm-v", sampler="lcm", prediction_type="v_prediction", **few)
    add("img2img-lcm", sampler="lcm", init_image="init.png", strength=0.6, **few)
    for eta in (0.0, 0.3, 1.0):
        add(f"tcd-{eta}", sampler="tcd", eta=eta, **few)
    add("tcd-lora", sampler="tcd", eta=0.3, loras=[["locon.safetensors", 1.0]], **few)
    add("tcd-count-2", sampler="tcd", eta=0.3, count=2, **few)
    add("img2img-tcd", sampler="tcd", eta=0.3, init_image="init.png", strength=0.6, **few)
    return out


def open_loras(pipe, loras: list) -> None:
    """Loads each file, asserts that diffusers made an adapter of every module in it, and sets the scales."""
    for name, _ in loras:
        adapter = name.split(".")[0]
        pipe.load_lora_weights(HERE / "lora", weight_name=name, adapter_name=adapter)
        made = sum(adapter in getattr(m, "lora_A", {}) for part in (pipe.unet, pipe.text_encoder) for m in part.modules())
        held = load_file(HERE / "lora" / name)
        assert made == sum("lora_down" in key or "lora_A" in key for key in held), (name, made)
    pipe.set_adapters([name.split(".")[0] for name, _ in loras], [scale for _, scale in loras])


def run(case: dict, moved: bool = False, change=None) -> tuple[list, torch.Tensor]:
    """The case's pictures and final latents; `moved` adds 1e-6 · N(0, 1) to the first latents.

    `change` is done to the pipeline first, and may give more arguments for its call.
    """
    pipe = pipeline()
    options = {"prediction_type": case["prediction_type"]}
    if case["schedule"] == "karras":
        options["use_karras_sigmas"] = True
    scheduler = (SAMPLERS | DISTILLED)[case["sampler"]].from_config(pipe.scheduler.config, **options)
    if case["init_image"]:
        pipe = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler
    if case["loras"]:
        open_loras(pipe, case["loras"])
    arguments = (change(pipe) if change else None) or {}
    if "eta" in case:
        arguments["eta"] = case["eta"]
    if case["clip_skip"] > 1:
        # diffusers looks for the final norm under the module's name of transformers 4.
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
        arguments["clip_skip"] = case["clip_skip"] - 1
    if case["init_image"]:
        arguments |= {"image": Image.open(FOLDER / case["init_image"]), "strength": case["strength"]}
    else:
        arguments |= {"width": case["width"], "height": case["height"]}
    if moved:
        prepare = pipe.prepare_latents

        def prepare_moved(*args, **kwargs):
            latents = prepare(*args, **kwargs)
            return latents + 1e-6 * draw("moved", latents.shape)

        pipe.prepare_latents = prepare_moved
    last = []

    def keep(_, step, time, values):
        last[:] = [values["latents"]]
        return values

    images = pipe(
        case["prompt"],
        negative_prompt=case["negative"],
        num_inference_steps=case["steps"],
        guidance_scale=case["cfg"],
        generator=torch.Generator("cpu").manual_seed(case["seed"]),
        num_images_per_prompt=case["count"],
        callback_on_step_end=keep,
        **arguments,
    ).images
    return images, last[0]


def array(images: list) -> numpy.ndarray:
    return numpy.stack([numpy.asarray(image) for image in images]).astype(float)


def check_merged(case: dict, images: list) -> None:
    """The same picture from weights into which ΔW was added by hand: both parts took every adapter, at the scale asked for."""
    total = {}
    for name, scale in case["loras"]:
        held = load_file(HERE / "lora" / name)
        for key, down in held.items():
            if key.endswith(".lora_down.weight"):
                module = key.removesuffix(".lora_down.weight")
                up, factor = held[f"{module}.lora_up.weight"], held[f"{module}.alpha"].item() / len(down)
            elif key.endswith(".lora_A.weight"):
                up, factor = held[key.replace("lora_A", "lora_B")], 1.5 if name == "peft_metadata.safetensors" else 1.0
                part, path = key.removesuffix(".lora_A.weight").split(".", 1)
                module = ("lora_unet_" if part == "unet" else "lora_te_text_model_") + path.replace(".", "_")
            else:
                continue
            total[module] = total.get(module, 0) + scale * factor * product(down.float(), up.float())

    def merge(pipe) -> None:
        with torch.no_grad():
            for prefix, part in (("lora_unet_", pipe.unet), ("lora_te_text_model_", pipe.text_encoder)):
                for path, module in part.named_modules():
                    if (delta := total.pop(prefix + path.replace(".", "_"), None)) is not None:
                        module.weight += delta
        assert not total

    error = abs(array(images) - array(run(case | {"loras": []}, change=merge)[0])).mean()
    print(f"{case['name']}: weights merged by hand give a picture {error:.4f} of 255 away")
    assert error < 0.05


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    picture(64, 64, (150, 190, 230), "hills", "smile", (0.5, 0.55, 0.33)).save(FOLDER / "init.png", optimize=True)
    picture(93, 61, (200, 120, 110), "bricks", "open", (0.45, 0.5, 0.38)).save(FOLDER / "init-odd.png", optimize=True)
    records, latents, seen = [], {}, {}
    for case in cases():
        images, final = run(case)
        pixels = array(images)
        moved = abs(array(run(case, moved=True)[0]) - pixels).mean()
        clipped = ((pixels == 0) | (pixels == 255)).mean()
        low, high = numpy.percentile(pixels, [1, 99])
        print(
            f"{case['name']}: {low:.0f} to {high:.0f}, std {pixels.std():.0f}, clipped {clipped:.3f}, "
            f"latents {final.std():.2f}, moved by {moved:.4f}",
            end="",
        )
        assert moved < 0.05 and clipped < 0.05 and high - low > 100, case["name"]
        assert pixels.shape[1:3] == (case["height"], case["width"]), (case["name"], pixels.shape)
        # No two cases may give one picture, or a test that mixed them up would pass.
        closest = min(
            ((abs(pixels - other).mean(), name) for name, other in seen.items() if other.shape == pixels.shape), default=(255, "")
        )
        print(f"; nearest: {closest[1]}, {closest[0]:.2f}")
        assert closest[0] > 0.5 or case["name"] in ALIKE, case["name"]
        if case["loras"]:
            plain = array(run(case | {"loras": []})[0])
            change = abs(pixels - plain).mean()
            print(f"{case['name']}: the LoRA changes the picture by {change:.1f} of 255")
            assert change > 5
            check_merged(case, images)
        seen[case["name"]] = pixels
        case["files"] = [f"{case['name']}.png" if case["count"] == 1 else f"{case['name']}-{at}.png" for at in range(case["count"])]
        for image, file in zip(images, case["files"]):
            image.save(FOLDER / file, optimize=True)
        records.append(case)
        latents[case["name"]] = final
    lines = ",\n".join(json.dumps(record) for record in records)
    (HERE / "pictures.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    save(HERE / "pictures.safetensors", latents)
    total = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"{len(records)} cases, {total / 1e3:.0f} kB of pictures")


# Euler's step in σ is DDIM's, and at one or two steps others are one formula too: only the latents tell these apart.
ALIKE = ("euler", "pndm-1", "pndm-2", "unipc-2", "img2img-euler", "img2img-euler-1.0")


if __name__ == "__main__":
    main()
