"""Tensors of a weights file by name, however they are nested."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from capt_core.backbone.archive import Contents, Record, StoredTensor, open_archive
from capt_core.backbone.weights_file import SETTING, WRITE_ALONE, Form, place, weights_form
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
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_DEEPEST, _LONGEST = 40, 1000
_LONGEST_COMMAND = 180
_STOCK = re.compile(
    r"(torch|numpy|collections|copyreg|copy_reg|argparse|pathlib|datetime|enum)\."
    r"|(builtins|__builtin__)\.(x?range|slice|object)$"
)
"""What makes the numbers, settings and dates that stand beside weights; torch can load it here."""


@dataclass(frozen=True)
class Named:
    """A tensor of a file with its dotted path and that of the mapping it belongs to."""

    path: str
    group: str
    tensor: StoredTensor


@contextlib.contextmanager
def open_weights(
    path: Path, setting: str = SETTING, harmless: re.Pattern[str] | None = None
) -> Iterator[list[Named]]:
    """All tensors of a weights file; they can be loaded until the block ends.

    Args:
        path: of the file.
        setting: that names it, for messages.
        harmless: full names of classes whose objects may stand beside the tensors; nothing is
            made of them, whatever their names.

    Raises:
        CaptError: no weights file, one with other objects than tensors and plain values, or a
            damaged one, on entering or while tensors are loaded.
    """
    form = weights_form(path, setting)
    try:
        if form is Form.SAFETENSORS:
            with safe_open(path, framework="pt") as file:
                yield [Named(name, "", _lazily(file, name)) for name in file.keys()]  # noqa: SIM118
        else:
            with open_archive(path) as contents:
                _check_plain(path, setting, harmless, contents)
                yield named_tensors(contents.document)
    except CaptError:
        raise
    except Exception as error:
        raise CaptError(
            f"{place(path, setting)}: not a readable weights file ({reason(error)}); get it again, "
            f"or {WRITE_ALONE}"
        ) from error


def named_tensors(document: object) -> list[Named]:
    """All tensors of nested mappings and records, in order.

    Attributes of a record belong to the mapping or record around it: a scripted module then has
    the names of its state dict.
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
                below = f"{path}.{key}" if path else key
                waiting.append((child, below[:_LONGEST], group, depth + 1, inside))
    return found


def _check_plain(
    path: Path, setting: str, harmless: re.Pattern[str] | None, contents: Contents
) -> None:
    foreign = [name for name in contents.foreign if not harmless or not harmless.fullmatch(name)]
    if foreign:
        odd = [name for name in foreign if not _STOCK.match(name)]
        advice = WRITE_ALONE if odd else _write_alone(path, contents.document)
        others = len(foreign) - 1
        raise CaptError(
            f"{place(path, setting)}: holds other objects than tensors ("
            f"{shown((odd or foreign)[0], 50)}{f' and {others} more' if others else ''}); "
            f"{advice}"
        )


def _write_alone(path: Path, document: object) -> str:
    """How to write alone the mapping that holds most of a file's tensors."""
    groups = Counter(each.group for each in named_tensors(document))
    keys = max(groups, key=groups.__getitem__, default="").split(".")
    keys = [] if keys == [""] else keys
    holder = document
    for key in keys:
        holder = holder.get(key) if isinstance(holder, dict) else None
    taken = f't.load({json.dumps(path.name)}, "cpu", weights_only=False)' + "".join(
        f"[{json.dumps(key)}]" for key in keys
    )
    if not groups or not isinstance(holder, dict):
        return WRITE_ALONE
    if not all(isinstance(value, StoredTensor) for value in holder.values()):
        taken = f"{{k: v for k, v in {taken}.items() if t.is_tensor(v)}}"
    target = json.dumps(f"{path.stem}_state_dict.pt")
    command = f"python -c {shlex.quote(f'import torch as t; t.save({taken}, {target})')}"
    if len(command) > _LONGEST_COMMAND:
        return WRITE_ALONE
    return f"if you trust the file, write the state dict alone: {command} in its folder"


def _lazily(file: Any, name: str) -> StoredTensor:
    part = file.get_slice(name)
    dtype = _SAFETENSORS.get(part.get_dtype())
    if dtype is None:
        raise ValueError(f"tensor {shown(name)} is of type {shown(part.get_dtype())}")
    return StoredTensor(tuple(part.get_shape()), dtype, lambda: file.get_tensor(name))
