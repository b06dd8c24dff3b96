"""Tensors of a weights file by name, however they are nested."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from capt_core.backbone.archive import Record, StoredTensor, open_archive
from capt_core.backbone.weights_file import WRITE_ALONE, Form, place, weights_form
from capt_core.errors import CaptError, reason, shown

_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_DEEPEST, _LONGEST = 40, 1000
_PARTS = ("_parameters", "_buffers", "_modules")  # of a pickled nn.Module


@dataclass(frozen=True)
class Named:
    """A tensor of a file with its dotted path and that of the mapping it belongs to."""

    path: str
    group: str
    tensor: StoredTensor


@contextlib.contextmanager
def open_weights(path: Path) -> Iterator[list[Named]]:
    """All tensors of a weights file; they can be loaded until the block ends.

    Raises:
        CaptError: no weights file, or a damaged one, on entering or while tensors are loaded.
    """
    form = weights_form(path)
    try:
        if form is Form.SAFETENSORS:
            with safe_open(path, framework="pt") as file:
                yield [Named(name, "", _lazily(file, name)) for name in file.keys()]  # noqa: SIM118
        else:
            with open_archive(path) as document:
                yield named_tensors(document)
    except CaptError:
        raise
    except Exception as error:
        raise CaptError(
            f"{place(path)}: not a readable weights file ({reason(error)}); get it again, or "
            f"{WRITE_ALONE}"
        ) from error


def named_tensors(document: object) -> list[Named]:
    """All tensors of nested mappings and records, in order.

    Attributes of a record belong to the mapping or record around it: a pickled or scripted module
    then has the names of its state dict.
    """
    found: list[Named] = []
    seen: set[int] = set()
    waiting: list[tuple[object, str, str, int, bool]] = [(document, "", "", 0, False)]
    while waiting:
        value, path, group, depth, inside = waiting.pop()
        if isinstance(value, StoredTensor):
            found.append(Named(path, group, value))
            continue
        contents = value.contents if isinstance(value, Record) else value
        if not isinstance(contents, dict) or id(value) in seen or depth > _DEEPEST:
            continue
        seen.add(id(value))
        group = group if inside else path
        inside = inside or isinstance(value, Record)
        for key, child in reversed(contents.items()):
            if isinstance(key, str):
                below = path if inside and key in _PARTS else f"{path}.{key}" if path else key
                waiting.append((child, below[:_LONGEST], group, depth + 1, inside))
    return found


def _lazily(file: Any, name: str) -> StoredTensor:
    part = file.get_slice(name)
    dtype = _SAFETENSORS.get(part.get_dtype())
    if dtype is None:
        raise ValueError(f"tensor {shown(name)} is of type {shown(part.get_dtype())}")
    return StoredTensor(tuple(part.get_shape()), dtype, lambda: file.get_tensor(name))
