from __future__ import annotations

import pytest
import torch

from regraft.errors import MissingExtraError, UsageError
from regraft.training import device
from regraft.training.device import autocast, choose_device, choose_precision, computes_int8, has_room

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


def test_int8_needs_a_cpu_and_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("int8", CPU) == choose_precision("fastest", CPU) == choose_precision("auto", CPU)
    with pytest.raises(UsageError, match="int8 needs a CPU, and the device is mps"):
        choose_precision("int8", torch.device("mps"))
    assert choose_precision("fastest", torch.device("mps")) == torch.float32
    monkeypatch.setattr(device, "has_int8", lambda: False)
    with pytest.raises(MissingExtraError, match=r"training.precision = int8 .*pip install 'regraft\[int8\]'"):
        choose_precision("int8", CPU)


@pytest.mark.parametrize(
    ("capabilities", "computes"), [({"avx2": True}, False), ({"avx512_vnni": True}, True), ({"amx_int8": True}, True)]
)
def test_instructions_for_int8_are_found(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], computes: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_int8(CPU) == computes
    assert not computes_int8(torch.device("cuda"))
