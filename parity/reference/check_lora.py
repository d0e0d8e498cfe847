"""Opens a LoRA file in diffusers, and fails unless every tensor of it lands where it belongs: `check_lora.py MODEL LORA`.

MODEL is a diffusers folder; LORA has kohya's names or PEFT's. diffusers drops some keys without a word, so what it loaded is compared
with the file, value by value, and the scale of each module with alpha / rank.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from common import pipeline


def problems(model: Path, lora: Path) -> tuple[list[str], int]:
    """What is wrong, a line each, and how many modules there are."""
    pipe = pipeline(model)
    places = {}
    for part, prefix, text in (("unet", "lora_unet_", ""), ("text_encoder", "lora_te_text_model_", "text_model.")):
        for path, module in getattr(pipe, part).named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                flat = path.removeprefix("text_model.").replace(".", "_")
                spellings = [prefix + flat, f"{part}.{path}", f"{part}.{text}{path}"]
                if part == "text_encoder":
                    spellings.append("lora_te1_text_model_" + flat)
                places |= {name: (part, path) for name in spellings}

    held, factors, alphas, wrong = load_file(lora), {}, {}, []
    endings = {".lora_down.weight": "A", ".lora_up.weight": "B", ".lora_A.weight": "A", ".lora_B.weight": "B"}
    for key, value in held.items():
        ending = next((end for end in endings if key.endswith(end)), ".alpha")
        name = key.removesuffix(ending)
        if not key.endswith(ending) or name not in places:
            wrong.append(f"{key}: no such module in the model")
        elif ending == ".alpha":
            alphas[places[name]] = value.item()
        else:
            factors.setdefault(places[name], {})[endings[ending]] = value
    wrong += [f"{part}.{path}: one factor of two" for (part, path), pair in factors.items() if len(pair) != 2]
    wrong += [f"{part}.{path}: an alpha without factors" for part, path in alphas.keys() - factors.keys()]
    if not factors:
        wrong.append("no module at all")
    if wrong:
        return wrong, len(factors)

    try:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="checked")
    except Exception as error:
        return [f"diffusers refuses the file: {error}"], len(factors)
    loaded = {
        (part, path): module
        for part in ("unet", "text_encoder")
        for path, module in getattr(pipe, part).named_modules()
        if "checked" in getattr(module, "lora_A", {})
    }
    wrong += [f"{part}.{path}: diffusers did not take it" for part, path in factors.keys() - loaded.keys()]
    wrong += [f"{part}.{path}: diffusers made it up" for part, path in loaded.keys() - factors.keys()]
    for place in factors.keys() & loaded.keys():
        module, name = loaded[place], ".".join(place)
        for side, value in factors[place].items():
            theirs = getattr(module, f"lora_{side}")["checked"].weight
            if theirs.shape != value.shape or not torch.equal(theirs, value.to(theirs.dtype)):
                wrong.append(f"{name}: factor {side} differs")
        rank = len(factors[place]["A"])
        if place in alphas and abs(module.scaling["checked"] - alphas[place] / rank) > 1e-6:
            wrong.append(f"{name}: scale {module.scaling['checked']}, the file says {alphas[place]} / {rank}")
    return wrong, len(factors)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    wrong, count = problems(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
    if wrong:
        sys.exit("\n".join([*wrong[:20], f"{len(wrong)} problems in {sys.argv[2]}"]))
    print(f"{sys.argv[2]}: diffusers has all {count} modules as the file has them")


if __name__ == "__main__":
    main()
