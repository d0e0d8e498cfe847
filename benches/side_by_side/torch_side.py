"""PyTorch's side of `run.py`: answers one request a line, each a JSON object, in the same words as `src/bin/side.rs`."""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F


PLACE = {"device": "cpu", "dtype": torch.float32}
# The VAE and training steps, on both sides.
FULL = {"dtype": torch.float32}
# The VAE, and the frozen weights that a LoRA is trained on: on the processor of the same type as all else, where training mixes it with f32 factors.
TRAINED = {"dtype": torch.float32}


def pattern(shape, seed, scale=1.0, **place):
    """The sequence of `src/pattern.rs`, to the bit."""
    at = numpy.arange(math.prod(shape), dtype=numpy.uint32) + numpy.uint32(seed)
    mixed = at * numpy.uint32(2654435761)
    mixed ^= mixed >> numpy.uint32(15)
    mixed *= numpy.uint32(2246822519)
    mixed ^= mixed >> numpy.uint32(13)
    values = (mixed >> numpy.uint32(8)).astype(numpy.float32) / numpy.float32(1 << 23) - numpy.float32(1)
    return torch.from_numpy(values * numpy.float32(scale)).reshape(shape).to(**PLACE | place)


def kernel(case):
    """The inputs of a case, and the function of them."""
    op, shape = case["op"], case.get("shape")
    if op == "product":
        right = pattern((case["inner"], case["columns"]), 2)
        return [pattern((case["rows"], case["inner"]), 1)], lambda x: x @ right
    if op == "attention":
        query, causal = case["query"], case.get("causal", False)
        kv = [query[0], query[1], case["tokens"], query[3]]
        inputs = [pattern(query, 1, 2.0), pattern(kv, 2, 2.0), pattern(kv, 3, 2.0)]
        return inputs, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    if op == "group_norm":
        weight, bias = pattern((shape[1],), 2), pattern((shape[1],), 3)
        norm = lambda x: F.group_norm(x, 32, weight, bias, 1e-5)
        return [pattern(shape, 1, 2.0)], (lambda x: F.silu(norm(x))) if case["silu"] else norm
    if op == "layer_norm":
        weight, bias = pattern((shape[2],), 2), pattern((shape[2],), 3)
        return [pattern(shape, 1, 2.0)], lambda x: F.layer_norm(x, (shape[2],), weight, bias, 1e-5)
    if op == "geglu":

        def geglu(x):
            hidden, gate = x.chunk(2, dim=-1)
            return hidden * F.gelu(gate)

        return [pattern(shape, 1, 4.0)], geglu
    activations = {"silu": F.silu, "gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}
    if op in activations:
        return [pattern(shape, 1, 4.0)], activations[op]
    if op == "linear":
        weight = pattern((shape[2], case["out"]), 2, shape[2] ** -0.5).T.contiguous()
        bias = pattern((case["out"],), 3)
        return [pattern(shape, 1)], lambda x: F.linear(x, weight, bias)
    side = case.get("kernel", 3)
    weight = pattern((case["out"], shape[1], side, side), 2, (shape[1] * side * side) ** -0.5)
    bias = pattern((case["out"],), 3)
    if op == "convolution":
        return [pattern(shape, 1)], lambda x: F.conv2d(x, weight, bias, padding=side // 2)
    if op == "upsampled_convolution":
        return [pattern(shape, 1)], lambda x: F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    raise ValueError(f"no such case: {op}")


def lora_step(case, folder):
    """A UNet with peft's adapters on all its transformers' layers: the loss and the gradient of every factor."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=TRAINED["dtype"]).to(PLACE["device"]).requires_grad_(False)
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    paths = sorted(path for path, layer in unet.named_modules() if ".attentions." in "." + path and isinstance(layer, kinds))
    rank = case["rank"]
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=paths))
    factors = []
    with torch.no_grad():
        for at, path in enumerate(paths):
            layer = unet.get_submodule(path)
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            down.copy_(pattern(tuple(down.shape), 1000 + 2 * at, down.shape[1] ** -0.5, **FULL))
            up.copy_(pattern(tuple(up.shape), 1001 + 2 * at, 0.1 * rank**-0.5, **FULL))
            factors += [down, up]
    if case["checkpointing"]:
        unet.enable_gradient_checkpointing()
    latent = pattern((case["batch"], 4, case["side"], case["side"]), 1, 1.7, **FULL)
    text = pattern((case["batch"], 77, 768), 2, 1.7, **FULL)
    target = pattern((case["batch"], 4, case["side"], case["side"]), 3, 1.7, **FULL)

    def step():
        for factor in factors:
            factor.grad = None
        with torch.autocast(PLACE["device"], TRAINED["dtype"], enabled=TRAINED["dtype"] != torch.float32):
            sample = unet(latent, 700, text).sample
        (sample.float() - target).square().mean().backward()
        return factors[0].grad

    return step


def model(case, folder):
    """A whole model with the weights of a diffusers folder."""
    folder, op = Path(folder), case["op"]
    if op == "text_encoder":
        from transformers import CLIPTextModel

        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=PLACE["dtype"]).to(PLACE["device"]).eval()
        row = [49406] + [320 + 1009 * at for at in range(1, 12)] + [49407] * 65
        tokens = torch.tensor([row] * case["batch"], device=PLACE["device"])
        return lambda: encoder(tokens).last_hidden_state
    if op == "unet":
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=PLACE["dtype"]).to(PLACE["device"]).eval()
        latent = pattern((case["batch"], 4, case["side"], case["side"]), 1, 1.7)
        text = pattern((case["batch"], 77, 768), 2, 1.7)
        return lambda: unet(latent, 700, text).sample
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=TRAINED["dtype"]).to(PLACE["device"]).eval()
    latent = pattern((1, 4, case["side"], case["side"]), 1, 1.7, **TRAINED)
    return lambda: vae.decode(latent).sample


def prepare(case, backward, folder):
    if case["op"] == "lora_step":
        return lora_step(case, Path(folder))
    if case["op"] in ("text_encoder", "unet", "vae_decode"):
        forward = model(case, folder)
        return torch.inference_mode()(forward)
    inputs, function = kernel(case)
    if not backward:
        return torch.inference_mode()(lambda: function(*inputs))

    def both():
        fresh = [value.detach().requires_grad_() for value in inputs]
        out = function(*fresh)
        out.backward(torch.ones_like(out))
        return fresh[0].grad

    return both


def flops(work):
    """Multiplications and additions of the matrix products and convolutions, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def timed(work):
    start = time.perf_counter()
    out = work()
    if PLACE["device"] == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("f32", "f16", "bf16"), default="f32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    PLACE["device"] = options.device
    PLACE["dtype"] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[options.dtype]
    if options.device == "cpu":
        TRAINED["dtype"] = PLACE["dtype"]
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                work = None
                case = request["prepare"]
                work = prepare(case, request["backward"], request.get("model"))
                seconds, out = timed(work)
                out = out.detach().reshape(-1)
                places = [at * (out.numel() - 1) // 63 for at in range(64)]
                answer = {"seconds": seconds, "sample": out[places].tolist()}
                if request.get("count"):
                    answer["flops"] = flops(work)
            else:
                answer = {"seconds": [timed(work)[0] for _ in range(request["run"])]}
        except Exception as error:  # The other side goes on, and the table says what failed.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
