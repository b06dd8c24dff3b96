"""Let torchvision be imported beside a torch build that its compiled operators do not fit."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_library: Any = None  # the operators are gone with it


def ensure_torchvision() -> None:
    """Declare two operators of torchvision where its compiled ones cannot be loaded.

    A torchvision built for CUDA cannot load its operators into a CPU build of torch: pip makes
    this pair wherever it is given a CPU wheel of torch beside the registry, which has torchvision
    for CUDA alone. The Python code of torchvision then registers a fake kernel for
    ``torchvision::nms``, which nobody defined, and its import fails, and with it open_clip's.
    Neither operator is used by CLIP; with both declared the rest of torchvision works.

    torch calls this at the end of its own import: pyproject.toml names it under
    ``torch.backends``, torch's entry points for extensions. So it holds for every program in the
    environment, whichever module that imports first.
    """
    global _library
    import torch  # which may call this

    load: Any = torch.ops.load_library

    spec = find_spec("torchvision")
    if spec is None or _library is not None:
        return
    for folder in spec.submodule_search_locations or ():
        for file in Path(folder).glob("_C.*"):
            try:
                load(str(file))
                return
            except Exception:  # whatever is wrong with torchvision, torch itself can be imported
                continue
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        library.define(_SIGNATURE.format(name=name))
    _library = library


def operators_declared() -> bool:
    """Whether torchvision's own operators could not be loaded, and two were declared instead."""
    return _library is not None
