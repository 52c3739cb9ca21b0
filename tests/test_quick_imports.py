"""Training and prediction are imported without what compiles, draws or solves, and nothing is missing afterwards."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import regraft.runs.train, regraft.runs.predict
slow = {"torch._dynamo", "torch._dynamo.utils", "wandb", "matplotlib", "scipy.optimize", "sklearn", "pandas"}
assert not slow & set(sys.modules), slow & set(sys.modules)
import timm, torch, torchvision
boxes = torch.tensor([[0.0, 0, 0, 4, 4]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).mean() == 1
import torch._dynamo, wandb
assert torch._dynamo.utils.is_compile_supported and wandb.init
assert torch.compile(torch.sin, backend="eager")(torch.zeros(1)) == 0
from timm.layers._fx import has_fx_feature_extraction
assert has_fx_feature_extraction
"""


def test_the_compiler_is_imported_when_it_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
