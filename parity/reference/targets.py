"""The modules that a LoRA trains: kohya's default, and its LoCon."""

import torch

UNET = ("proj_in", "proj_out", "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
LOCON_UNET = UNET + ("conv1", "conv2", "time_emb_proj", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def modules(part: torch.nn.Module, wanted: tuple) -> list:
    """`(path, module)` of each linear and convolution layer whose path ends with one of `wanted`, in the module's order."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [(path, m) for path, m in part.named_modules() if isinstance(m, kinds) and any(path.endswith("." + end) for end in wanted)]
