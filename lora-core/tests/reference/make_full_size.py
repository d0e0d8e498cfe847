"""Makes `full_size.txt`: the two hashes that sd-scripts (`precalculate_safetensors_hashes` of `library/train_util.py`) puts into a file of
SD 1.5's 264 modules at rank 32 in f16, all factors 1 and alpha 16, with `ss_network_dim` as its only training metadata; and the length of
the file without metadata."""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch

HERE = Path(__file__).parent


def main():
    names = json.loads((HERE / "sd15_names.json").read_text())
    shapes = {f"lora_unet_{path.replace('.', '_')}": shape for path, shape in names["unet"].items()}
    shapes |= {f"lora_te_{path.replace('.', '_')}": shape for path, shape in names["text_encoder"].items()}
    tensors = {}
    for name in names["kohya"]:
        out, *rest = shapes[name]
        tensors[f"{name}.lora_down.weight"] = torch.ones(32, *rest, dtype=torch.float16)
        tensors[f"{name}.lora_up.weight"] = torch.ones(out, 32, *([1] * (len(rest) - 1)), dtype=torch.float16)
        tensors[f"{name}.alpha"] = torch.tensor(16.0, dtype=torch.float16)
    data = safetensors.torch.save(tensors, {"ss_network_dim": "32"})
    body = data[8 + int.from_bytes(data[:8], "little") :]
    hashes = [hashlib.sha256(body).hexdigest(), hashlib.sha256(data[0x100000:][:0x10000]).hexdigest()[:8]]
    length = len(safetensors.torch.save(tensors))
    (HERE / "full_size.txt").write_text("\n".join([*hashes, str(length)]) + "\n")


if __name__ == "__main__":
    main()
