"""Makes PyTorch files of every kind that checkpoints come in, and `expected.safetensors` with what they hold.

Two of them would run a harmless command if anything unpickled them: they create a file `ran` in the working folder.
"""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent
torch.manual_seed(0)

base = torch.randn(6, 8)
tensors = OrderedDict(
    {
        "f32": torch.randn(3, 5),
        "f16": torch.randn(4, 3).half(),
        "bf16": torch.randn(2, 7).bfloat16(),
        "f64": torch.randn(5).double(),
        "i64": torch.arange(4),
        "transposed": base.t(),
        "slice": base[2:4, 1:5],
        "scalar": torch.tensor(0.5),
    }
)
save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, OUT / "expected.safetensors")

torch.save(tensors, OUT / "plain.bin")
torch.save(tensors, OUT / "protocol4.pt", pickle_protocol=4)
torch.save(tensors, OUT / "legacy.pt", _use_new_zipfile_serialization=False)
lightning = {
    "epoch": 3,
    "global_step": 1200,
    "state_dict": tensors,
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}],
    "callbacks": {"best": None, "monitor": "loss"},
}
torch.save(lightning, OUT / "nested.ckpt")
torch.save(lightning, OUT / "nested_legacy.ckpt", _use_new_zipfile_serialization=False)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch ran",)


evil = {"state_dict": tensors, "hook": Malicious()}
torch.save(evil, OUT / "malicious.ckpt")
torch.save(evil, OUT / "malicious4.ckpt", pickle_protocol=4)
torch.save(evil, OUT / "malicious_legacy.bin", _use_new_zipfile_serialization=False)
(OUT / "malicious.pkl").write_bytes(pickle.dumps(evil["hook"], protocol=0))
