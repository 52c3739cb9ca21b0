from __future__ import annotations

import pytest
import torch

from regraft.errors import UsageError
from regraft.training.device import autocast, choose_device, choose_precision, has_room

CPU = torch.device("cpu")


def test_devices_and_precisions() -> None:
    assert choose_device("cpu") == CPU
    assert choose_precision("off", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    assert choose_precision("auto", CPU) in (torch.bfloat16, torch.float32)
    assert not has_room(CPU, 1), "nothing has to be moved to the CPU"
    with autocast(CPU, torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_what_the_machine_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"device = cuda, but this machine has .*cpu"):
        choose_device("cuda")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        choose_precision("fp16", CPU)
