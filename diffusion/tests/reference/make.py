"""Writes samplers.json, samplers.safetensors, noise.json and noise.safetensors: what diffusers' schedulers and torch's generator give.

Every scheduler is built as a user of diffusers builds it: a StableDiffusionPipeline around the folder's scheduler, then
`XScheduler.from_config(pipe.scheduler.config)`. The "model" is a fixed function of the scaled latent and the timestep.

Made with torch 2.15 and diffusers 0.42.1.
"""

import itertools
import json
import logging
import tempfile
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

HERE = Path(__file__).parent
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
diffusers.logging.set_verbosity_error()
torch.set_num_threads(1)
np.seterr(all="ignore")

SAMPLERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler-a": diffusers.EulerAncestralDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "pndm": diffusers.PNDMScheduler,
    "dpmpp-2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "tcd": diffusers.TCDScheduler,
}
# These draw noise as they go.
RANDOM = ["euler-a", "lcm", "tcd"]
WITH_KARRAS = ["euler", "heun", "dpmpp-2m", "unipc"]
SHAPE = (1, 4, 2, 2)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def saved(scheduler):
    """The file that diffusers itself writes."""
    return json.loads(scheduler.to_json_string())


# The file of runwayml/stable-diffusion-v1-5.
SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    **BETAS,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
DDIM = {
    "_class_name": "DDIMScheduler",
    **BETAS,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
FOLDERS = {
    "sd15": SD15,
    "sd15-v": SD15 | {"prediction_type": "v_prediction"},
    "sd15-sample": SD15 | {"prediction_type": "sample"},
    "ddim": DDIM,
    # An early file: the pipeline corrects both, and only because they are there.
    "ddim-old": DDIM | {"clip_sample": True, "steps_offset": 0, "set_alpha_to_one": True},
    "pndm-saved": saved(diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)),
    "ddim-bare": {"_class_name": "DDIMScheduler", **BETAS},
    "euler-saved": saved(diffusers.EulerDiscreteScheduler(**BETAS)),
    "euler-sigma-min": saved(
        diffusers.EulerDiscreteScheduler(**BETAS, final_sigmas_type="sigma_min", sigma_min=0.05, sigma_max=12.0)
    ),
    "leading-v": DDIM | {"timestep_spacing": "leading", "prediction_type": "v_prediction"},
    "linspace": DDIM | {"timestep_spacing": "linspace"},
    "trailing": DDIM | {"timestep_spacing": "trailing"},
    "trailing-pndm": SD15 | {"timestep_spacing": "trailing"},
    "zero-snr-v": DDIM
    | {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "zero-snr-epsilon": DDIM | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    "dpm-saved": saved(diffusers.DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True)),
    "dpm-heun": saved(diffusers.DPMSolverMultistepScheduler(**BETAS, solver_type="heun", euler_at_final=True)),
    "dpm-sigma-min": saved(
        diffusers.DPMSolverMultistepScheduler(**BETAS, final_sigmas_type="sigma_min", lower_order_final=False)
    ),
    "dpm-sde": saved(diffusers.DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++")),
    "deis-saved": saved(diffusers.DEISMultistepScheduler(**BETAS)),
    "unipc-saved": saved(diffusers.UniPCMultistepScheduler(**BETAS, disable_corrector=[0, 2])),
    "unipc-bh1": saved(diffusers.UniPCMultistepScheduler(**BETAS, solver_type="bh1", final_sigmas_type="sigma_min")),
    "ddpm-saved": saved(diffusers.DDPMScheduler(**BETAS)),
    "lcm-saved": saved(diffusers.LCMScheduler(**BETAS, original_inference_steps=25, timestep_scaling=0.02, clip_sample=True)),
    "tcd-saved": saved(diffusers.TCDScheduler(**BETAS, original_inference_steps=100)),
    "cosine": SD15 | {"beta_schedule": "squaredcos_cap_v2"},
    "linear-500": SD15 | {"beta_schedule": "linear", "num_train_timesteps": 500, "beta_end": 0.02},
    "trained-betas": SD15 | {"trained_betas": [0.002 + 0.0002 * i for i in range(100)], "num_train_timesteps": 100},
}
ALL_STEPS = [1, 2, 3, 5, 10, 20, 28, 50]
SOME_STEPS = [1, 4, 7, 16]


def folder_config(text):
    """`pipe.scheduler.config` of a folder with this scheduler_config.json."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scheduler_config.json").write_text(text)
        cls = getattr(diffusers, json.loads(text)["_class_name"])
        pipe = StableDiffusionPipeline(
            vae=None,
            text_encoder=None,
            tokenizer=None,
            unet=None,
            scheduler=cls.from_pretrained(folder),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return pipe.scheduler.config


def model(latent, timestep):
    places = np.arange(latent.numel(), dtype=np.float64).reshape(SHAPE)
    wave = torch.from_numpy(0.1 * np.sin(float(timestep) / 100 + places)).float()
    return 0.3 * latent + wave


def run(config, sampler, schedule, steps, strength, eta=None):
    extra = {"use_karras_sigmas": True} if schedule == "karras" else {}
    scheduler = SAMPLERS[sampler].from_config(config, **extra)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(SHAPE, generator=generator)
    timesteps = scheduler.timesteps
    if strength is None:
        latent = noise * scheduler.init_noise_sigma
    else:
        # StableDiffusionImg2ImgPipeline.get_timesteps and prepare_latents
        start = max(steps - min(int(steps * strength), steps), 0)
        timesteps = timesteps[start * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start * scheduler.order)
        image = torch.linspace(-1, 1, noise.numel()).reshape(SHAPE)
        latent = scheduler.add_noise(image, noise, timesteps[:1])
    path = [latent]
    extra = {"generator": generator} if sampler in RANDOM else {}
    if eta is not None:
        extra["eta"] = eta
    for t in timesteps:
        scaled = scheduler.scale_model_input(latent, t)
        latent = scheduler.step(model(scaled, t), t, latent, **extra).prev_sample
        path.append(latent)
    path = torch.stack(path).reshape(len(path), -1)
    if not path.isfinite().all():
        raise ValueError("not finite")
    return timesteps.float(), path


def samplers():
    cases, timesteps, paths, ends = [], [], [], []
    texts = {name: json.dumps(folder) for name, folder in FOLDERS.items()}
    for name, text in texts.items():
        config = folder_config(text)
        full = name.startswith("sd15")
        todo = [(n, None) for n in (ALL_STEPS if full else SOME_STEPS)]
        if name in ("sd15", "sd15-v", "trailing", "ddim-bare", "euler-saved"):
            todo += [(n, s) for n in (10, 28) for s in (0.25, 0.6, 1.0)]
        for sampler in SAMPLERS:
            if (name, sampler) == ("dpm-sde", "dpmpp-2m"):
                continue  # A random sampler, which ours refuses.
            for schedule in ["default", "karras"][: 1 + (sampler in WITH_KARRAS)]:
                # tcd has one setting more, and 0.3 where nobody chooses.
                etas = [None, 0.0, 0.5, 1.0] if sampler == "tcd" and name in ("sd15", "sd15-v") else [None]
                for (steps, strength), eta in itertools.product(todo, etas):
                    case = {"config": name, "sampler": sampler, "schedule": schedule, "steps": steps}
                    if strength is not None:
                        case["strength"] = strength
                    if eta is not None:
                        case["eta"] = eta
                    try:
                        t, path = run(config, sampler, schedule, steps, strength, eta)
                        timesteps.append(t)
                        paths.append(path[:, ::5].flatten())
                        ends.append(path[-1])
                        case["evaluations"] = len(t)
                    except Exception:
                        case["evaluations"] = 0
                    cases.append(case)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "samplers.json").write_text('{"configs": %s,\n"cases": [\n%s\n]}\n' % (json.dumps(texts, indent=0), lines))

    tensors = {"timesteps": torch.cat(timesteps), "paths": torch.cat(paths), "ends": torch.cat(ends)}
    latent, noise = torch.linspace(-1, 1, 12).reshape(3, 1, 2, 2), torch.linspace(2, -2, 12).reshape(3, 1, 2, 2)
    for name in ["sd15", "cosine", "linear-500", "zero-snr-v"]:
        scheduler = diffusers.DDPMScheduler.from_config(json.loads(texts[name]))
        t = torch.tensor([0, 120, 499])
        tensors[f"{name}.alphas_cumprod"] = scheduler.alphas_cumprod
        tensors[f"{name}.noised"] = scheduler.add_noise(latent, noise, t)
        tensors[f"{name}.velocity"] = scheduler.get_velocity(latent, noise, t)
    save(tensors, "samplers.safetensors")
    print(len(cases), "cases,", sum(c["evaluations"] == 0 for c in cases), "refused by diffusers")


def save(tensors, name):
    save_file(tensors, HERE / name)
    (HERE / name).chmod(0o644)


def noise():
    """Calls of one generator after the other: [kind, count]; kept are the first and last 32 values and the sum."""
    sizes = [*range(1, 50), 63, 64, 65, 100, 127, 255, 1000, 4095, 16384, 16385, 16391, 36864, 65536, 69999, 70000]
    runs = [{"seed": str(1000 + n), "calls": [["normal", n]]} for n in sizes]
    runs += [{"seed": str(n), "calls": [["uniform", n]]} for n in (1, 2, 15, 16, 17, 1000, 70000)]
    mixed = [["uniform", 3], ["normal", 5], ["normal", 20], ["normal", 7], ["uniform", 1], ["normal", 16384], ["normal", 1]]
    odd = [["normal", 1], ["uniform", 700], ["normal", 17], ["normal", 1], ["normal", 15], ["normal", 16], ["normal", 2]]
    for seed in (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63 + 9, 2**64 - 1):
        for calls in (mixed, odd):
            runs.append({"seed": str(seed), "calls": calls})
    ends = []
    for entry in runs:
        seed = int(entry["seed"])
        # manual_seed takes the upper half of 64 bits as negative numbers.
        generator = torch.Generator().manual_seed(seed - 2**64 if seed >= 2**63 else seed)
        entry["sums"] = []
        for kind, count in entry["calls"]:
            values = {"normal": torch.randn, "uniform": torch.rand}[kind](count, generator=generator)
            ends += [values[:32], values[-32:]]
            entry["sums"].append(values.double().sum().item())
    (HERE / "noise.json").write_text("[\n" + ",\n".join(json.dumps(entry) for entry in runs) + "\n]\n")
    save({"ends": torch.cat(ends)}, "noise.safetensors")


samplers()
noise()
