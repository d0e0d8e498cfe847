"""Makes `lora/`: one LoRA file for each spelling, and ΔW of a few modules as the peers compute it.

| file | spelling |
|---|---|
| `kohya` | `lora_unet_…`, `lora_te_text_model_…`; `lora_down`, `lora_up`, f16 `alpha`; 1x1 convolutions 4-D; rank 4, alpha 3 |
| `kohya_te1_int64` | the same values, of the text encoder and `down_blocks.0` alone; `lora_te1_text_model_…`, int64 `alpha` |
| `locon` | kohya's LoCon: 3x3 convolutions, `time_emb_proj`, `conv_shortcut` too; rank 2; UNet alone, four blocks of eight |
| `peft` | `save_lora_weights` of diffusers and peft: `unet.….lora_A.weight`, no alpha |
| `peft_metadata` | the same call with the adapters' configuration: alpha stands in the file's metadata |
| `diffusers_old` | `unet.….attn1.processor.to_q_lora.down.weight`, `text_encoder.text_model.….to_q_lora.down.weight`; attention alone |
| `diffusers_scripts` | `unet.….to_q.lora.down.weight`, `text_encoder.text_model.….q_proj.lora_linear_layer.down.weight`; attention alone |
| `mixed` | attention of the UNet as `lora.down`, the rest as `lora_A`; text encoder without `text_model.`; no `up_blocks` |

`deltas.safetensors` holds `FILE|MODULE.weight` in f32 at strength 1, for FILE `kohya`, `locon` and `peft`. The others repeat these
values for the modules that they have: `kohya_te1_int64` those of `kohya`; `diffusers_old`, `diffusers_scripts` and `mixed` those of
`peft`; `peft_metadata` has 1.5 times those of `peft`. Each but `mixed`, of which diffusers takes only a part, is compared here with what
diffusers adds: the weight after `fuse_lora` less the weight before.
"""

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

from common import HERE, draw, half, pipeline, relative, save
from targets import LOCON_UNET, TEXT, UNET, modules

FOLDER = HERE / "lora"
SHOWN = [
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "unet.down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0.weight",
    "unet.up_blocks.2.attentions.2.transformer_blocks.0.attn2.to_v.weight",
    "unet.mid_block.attentions.0.proj_in.weight",
    "unet.up_blocks.3.attentions.2.proj_out.weight",
    "unet.up_blocks.3.attentions.0.transformer_blocks.0.ff.net.2.weight",
    "unet.down_blocks.0.downsamplers.0.conv.weight",
    "unet.down_blocks.2.resnets.0.conv_shortcut.weight",
    "unet.down_blocks.0.resnets.0.time_emb_proj.weight",
    "unet.up_blocks.2.upsamplers.0.conv.weight",
    "text_encoder.encoder.layers.1.self_attn.out_proj.weight",
]


def factors(name: str, weight: torch.Tensor, rank: int, gain: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Down `[rank, in, …]` and up `[out, rank, …]` whose product is about `gain` times the weight in size."""
    inputs, out = weight[0].numel(), weight.shape[0]
    down = draw(name + ".down", (rank, *weight.shape[1:])) / inputs**0.5
    up = draw(name + ".up", (out, rank, *([1] * (weight.dim() - 2))))
    size = (up.flatten(1) @ down.flatten(1)).norm()
    return half(down), half(up * gain * weight.norm() / size)


def pairs(pipe, rank: int, gain: float, unet=UNET, text=TEXT, salt: str = "") -> dict:
    """`{module path: (down, up)}` for the wanted modules of both parts."""
    out = {}
    for prefix, part, wanted in (("unet", pipe.unet, unet), ("text_encoder", pipe.text_encoder, text)):
        for path, module in modules(part, wanted):
            name = f"{prefix}.{path}"
            out[name] = factors(salt + name, module.weight.detach(), rank, gain)
    return out


def kohya_name(path: str, text: str = "lora_te_text_model_") -> str:
    if path.startswith("unet."):
        return "lora_unet_" + path.removeprefix("unet.").replace(".", "_")
    return text + path.removeprefix("text_encoder.").replace(".", "_")


def kohya(layers: dict, alpha, text: str = "lora_te_text_model_") -> dict:
    out = {}
    for path, (down, up) in layers.items():
        name = kohya_name(path, text)
        out |= {f"{name}.lora_down.weight": down.half(), f"{name}.lora_up.weight": up.half(), f"{name}.alpha": alpha(path)}
    return out


def with_text_model(path: str) -> str:
    return path.replace("text_encoder.", "text_encoder.text_model.", 1)


def through_peft(pipe, layers: dict, rank: int, alpha: float, name: str, with_metadata: bool) -> None:
    """Puts the factors into peft's own modules and saves them by diffusers' own function."""
    state, metadata = {}, {}
    for prefix, part in (("unet", pipe.unet), ("text_encoder", pipe.text_encoder)):
        mine = {path.removeprefix(prefix + "."): pair for path, pair in layers.items() if path.startswith(prefix + ".")}
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(mine), init_lora_weights=False)
        part.add_adapter(config)
        for path, (down, up) in mine.items():
            module = part.get_submodule(path)
            module.lora_A["default"].weight.data.copy_(down)
            module.lora_B["default"].weight.data.copy_(up)
        state[prefix] = {key: value.half() for key, value in get_peft_model_state_dict(part).items()}
        # peft keeps a set of modules, whose order changes from run to run, and where the model lies on this machine.
        changed = {"target_modules": sorted(mine), "base_model_name_or_path": None}
        metadata[prefix] = part.peft_config["default"].to_dict() | changed
    extra = {}
    if with_metadata:
        extra = {"unet_lora_adapter_metadata": metadata["unet"], "text_encoder_lora_adapter_metadata": metadata["text_encoder"]}
    pipe.save_lora_weights(
        FOLDER, unet_lora_layers=state["unet"], text_encoder_lora_layers=state["text_encoder"], weight_name=f"{name}.safetensors", **extra
    )
    keys = load_file(FOLDER / f"{name}.safetensors")
    assert len(keys) == 2 * len(layers), (len(keys), len(layers))
    print(f"lora/{name}: {len(keys)} tensors, such as {min(keys)} and {max(keys)}")


def product(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def as_diffusers_sees(name: str) -> dict:
    """Every ΔW that diffusers adds for this file."""
    pipe = pipeline()
    before = {
        f"{part}.{key}": value.clone() for part in ("unet", "text_encoder") for key, value in getattr(pipe, part).state_dict().items()
    }
    pipe.load_lora_weights(FOLDER, weight_name=f"{name}.safetensors")
    pipe.fuse_lora(components=["unet", "text_encoder"])
    pipe.unload_lora_weights()
    after = {f"{part}.{key}": value for part in ("unet", "text_encoder") for key, value in getattr(pipe, part).state_dict().items()}
    assert before.keys() == after.keys()
    return {key: after[key] - before[key] for key in before if not torch.equal(after[key], before[key])}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    pipe, expected = pipeline(), {}

    def remember(name: str, layers: dict, scale) -> None:
        expected[name] = {f"{path}.weight": scale(path) * product(*pair) for path, pair in layers.items()}

    layers = pairs(pipe, 4, GAIN)
    assert len(layers) == 192 + 18
    save(FOLDER / "kohya.safetensors", kohya(layers, lambda _: torch.tensor(3.0, dtype=torch.float16)))
    few = {path: pair for path, pair in layers.items() if path.startswith(("text_encoder.", "unet.down_blocks.0."))}
    save(FOLDER / "kohya_te1_int64.safetensors", kohya(few, lambda _: torch.tensor(3), "lora_te1_text_model_"))
    remember("kohya", layers, lambda _: 0.75)
    remember("kohya_te1_int64", few, lambda _: 0.75)

    layers = pairs(pipe, 2, GAIN, unet=LOCON_UNET, text=(), salt="locon ")
    # One `conv_shortcut` less than SD 1.5's 86 further modules, since the first two levels have one width.
    assert len(layers) == 192 + 85
    kept = tuple(f"unet.{block}." for block in ("down_blocks.0", "down_blocks.2", "mid_block", "up_blocks.2"))
    layers = {path: pair for path, pair in layers.items() if path.startswith(kept)}
    wide = {path for path, (down, _) in layers.items() if down.shape[2:] == (3, 3)}
    save(FOLDER / "locon.safetensors", kohya(layers, lambda path: torch.tensor(1.0 if path in wide else 1.5, dtype=torch.float16)))
    remember("locon", layers, lambda path: 0.5 if path in wide else 0.75)

    layers = pairs(pipe, 2, GAIN, salt="peft ")
    through_peft(pipeline(), layers, 2, 2, "peft", with_metadata=False)
    remember("peft", layers, lambda _: 1.0)
    attention = {path: pair for path, pair in layers.items() if ".attn" in path or "self_attn" in path}
    assert len(attention) == 128 + 12
    through_peft(pipeline(), attention, 2, 3, "peft_metadata", with_metadata=True)
    remember("peft_metadata", attention, lambda _: 1.5)

    old, scripts = {}, {}
    for path, (down, up) in attention.items():
        parent, leaf = path.removesuffix(".0").rsplit(".", 1)
        for factor, value in (("down", down.half()), ("up", up.half())):
            if path.startswith("unet."):
                old[f"{parent}.processor.{leaf}_lora.{factor}.weight"] = value
                scripts[f"{path}.lora.{factor}.weight"] = value
            else:
                place = with_text_model(parent)
                old[f"{place}.{leaf.replace('_proj', '').join(['to_', '_lora'])}.{factor}.weight"] = value
                scripts[f"{with_text_model(path)}.lora_linear_layer.{factor}.weight"] = value
    save(FOLDER / "diffusers_old.safetensors", old)
    save(FOLDER / "diffusers_scripts.safetensors", scripts)
    remember("diffusers_old", attention, lambda _: 1.0)
    remember("diffusers_scripts", attention, lambda _: 1.0)

    layers = {path: pair for path, pair in layers.items() if path.startswith(("text_encoder.", "unet.down_blocks.", "unet.mid_block."))}
    mixed = {}
    for path, (down, up) in layers.items():
        if ".attn" in path:
            mixed |= {f"{path}.lora.down.weight": down.half(), f"{path}.lora.up.weight": up.half()}
        elif path.startswith("unet."):
            mixed |= {f"{path}.lora_A.weight": down.half(), f"{path}.lora_B.weight": up.half()}
        else:
            mixed |= {f"{path}.lora_linear_layer.down.weight": down.half(), f"{path}.lora_linear_layer.up.weight": up.half()}
    # That is the file diffusers' own converter leaves behind when both kinds of layer were trained.
    unet_only = {f"{path.removeprefix('unet.')}.lora_{kind}.weight": None for path in layers if path.startswith("unet.") for kind in "AB"}
    theirs = {f"unet.{key}" for key in convert_state_dict_to_diffusers(unet_only)}
    assert theirs == {key for key in mixed if key.startswith("unet.")}
    save(FOLDER / "mixed.safetensors", mixed)
    remember("mixed", layers, lambda _: 1.0)

    deltas = {}
    for name, wanted in expected.items():
        if name != "mixed":
            theirs = as_diffusers_sees(name)
            assert theirs.keys() == wanted.keys(), (name, sorted(theirs.keys() ^ wanted.keys())[:5])
            worst = max(relative(theirs[key], wanted[key]) for key in wanted)
            print(f"lora/{name}: {len(wanted)} modules, diffusers' ΔW differs from (alpha / rank) up · down by {worst:.1e} at most")
            assert worst < 1e-5
        if name in ("kohya", "locon", "peft"):
            deltas |= {f"{name}|{key}": wanted[key] for key in SHOWN if key in wanted}
    save(FOLDER / "deltas.safetensors", deltas)


GAIN = 0.35


if __name__ == "__main__":
    main()
