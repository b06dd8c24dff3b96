"""The device and precision that the settings ask for."""

from __future__ import annotations

import os
import re

import torch

from capt_core.advice import setting
from capt_core.errors import CaptError, shown
from capt_core.params import Runtime


def choose_device(runtime: Runtime) -> tuple[torch.device, torch.dtype | None]:
    """Device and autocast type (None for fp32) that the settings ask for.

    Raises:
        CaptError: cuda is asked for and torch sees no GPU, fp16 on a CPU, more processes than GPUs.
    """
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise CaptError(
            f"runtime.device: torch sees no GPU; give {setting('runtime.device', 'cpu')}, or check "
            "the installation of torch"
        )
    device = torch.device("cpu")
    if available and runtime.device != "cpu":
        # Each process that torchrun starts has a GPU of its own.
        local = os.environ.get("LOCAL_RANK")
        count = torch.cuda.device_count()
        if local is not None and not (re.fullmatch("[0-9]{1,4}", local) and int(local) < count):
            raise CaptError(
                f"LOCAL_RANK: {shown(local)} is none of the {count} GPUs, numbered from 0; "
                "start at most one process per GPU"
            )
        device = torch.device("cuda" if local is None else f"cuda:{local}")
    if runtime.precision == "fp16" and device.type == "cpu":
        raise CaptError("runtime.precision: fp16 needs a GPU; use fp32 or bf16")
    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[runtime.precision]
    return device, autocast
