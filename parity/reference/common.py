"""What the scripts of this folder share: places, seeds, and how weights are drawn and saved."""

import math
import os
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import diffusers
import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
TINY = HERE / "tiny-sd"
torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
diffusers.utils.logging.disable_progress_bar()
torch.use_deterministic_algorithms(True)


def draw(name: str, shape, seed: int = 0) -> torch.Tensor:
    """Standard normal values that depend on the name and the seed alone, not on the order of calls."""
    generator = torch.Generator("cpu").manual_seed(zlib.crc32(name.encode()) * 4096 + seed)
    return torch.randn(tuple(shape), generator=generator)


def half(tensor: torch.Tensor) -> torch.Tensor:
    """The nearest values that f16 holds, as f32."""
    return tensor.detach().half().float().contiguous()


def initialise(module: torch.nn.Module, seed: int, gain=lambda name: 1.0) -> None:
    """Draws every parameter: weights N(0, gain² / fan_in), norm scales about 1, biases N(0, 0.1²), embeddings N(0, 0.5²)."""
    kinds = {}
    for path, part in module.named_modules():
        for leaf, _ in part.named_parameters(recurse=False):
            kinds[f"{path}.{leaf}" if path else leaf] = part
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = draw(name, value.shape, seed)
            part = kinds[name]
            if isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
                value.copy_(half(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise))
            elif isinstance(part, torch.nn.Embedding):
                value.copy_(half(0.5 * noise))
            elif value.dim() == 1:
                value.copy_(half(0.1 * noise))
            else:
                value.copy_(half(gain(name) / math.sqrt(value[0].numel()) * noise))


def save(path: Path, tensors: dict, metadata: dict | None = None) -> None:
    """Writes a safetensors file with its keys in order, and says what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: tensors[name].detach().contiguous().clone() for name in sorted(tensors)}
    for name, value in ordered.items():
        if value.is_floating_point():
            assert torch.isfinite(value).all(), name
    save_file(ordered, path, metadata=metadata)
    print(f"{path.relative_to(HERE)}: {len(ordered)} tensors, {path.stat().st_size / 1e3:.0f} kB")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far `a` lies from `b`: the norm of the difference over the norm of `b`."""
    return ((a - b).norm() / b.norm()).item()


def pipeline(folder: Path = TINY):
    """A folder's pipeline in f32, without a progress bar."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe
