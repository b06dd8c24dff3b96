"""Make torchvision importable with a torch build that lacks its compiled operators."""

from __future__ import annotations

import importlib
import sys

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_library: object | None = None


def ensure_torchvision() -> bool:
    """Import torchvision; declare its two missing operators first where that is needed.

    A torchvision built for CUDA cannot load its compiled extension with a CPU build of torch.
    Its Python code then registers a fake kernel for ``torchvision::nms``, which nobody defined,
    and the import of torchvision, and of open_clip with it, fails. Neither operator is used here:
    declaring them is enough for the rest of torchvision (transforms, data sets) to work.

    Returns:
        True when the operators had to be declared, False when torchvision imported by itself.
    """
    global _library
    if _library is not None:
        return True
    try:
        importlib.import_module("torchvision")
        return False
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        library.define(_SIGNATURE.format(name=name))  # type: ignore[no-untyped-call]
    _library = library
    importlib.import_module("torchvision")
    return True
