"""Tensors on disk: safetensors, with plain facts in one JSON metadata entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from capt_core.advice import Remedy, run_stage
from capt_core.artifacts.files import atomic_path
from capt_core.artifacts.provenance import Provenance
from capt_core.errors import CaptError

METADATA_KEY = "capt"


@dataclass(frozen=True)
class SavedTensors:
    """Tensors with what is needed to use them.

    Attributes:
        tensors: by name.
        facts: plain values.
        provenance: where they come from.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]
    provenance: Provenance


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Write tensors atomically; equal values give equal bytes."""
    record = {"facts": dict(facts), **provenance.as_dict()}
    # One metadata key: the order of several is not stable between processes.
    metadata = {METADATA_KEY: json.dumps(record, sort_keys=True)}
    with atomic_path(path) as temporary:
        try:
            save_file({name: tensors[name] for name in sorted(tensors)}, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_tensors(path: Path, stage: str, expected: Provenance) -> SavedTensors:
    """Read tensors and refuse those made from other data or another backbone.

    Raises:
        CaptError: missing, damaged or foreign file; the message names the stage to run.
    """
    remedy = run_stage(stage, path, expected.dataset)
    found = load_tensors(path, remedy)
    foreign = found.provenance.mismatch(expected)
    if foreign:
        raise CaptError(f"{path}: {foreign}; {remedy}")
    return found


def load_tensors(path: Path, remedy: str | Remedy) -> SavedTensors:
    """Read tensors of any origin.

    Raises:
        CaptError: missing or damaged file; the message ends with the remedy.
    """
    if not path.is_file():
        raise CaptError(f"{path}: missing; {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CaptError(f"{path}: not a readable safetensors file; {remedy}") from error
    if "facts" not in record:
        raise CaptError(f"{path}: not written by this project; {remedy}")
    return SavedTensors(tensors, record["facts"], Provenance.from_dict(record))


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """First 16 hex digits of SHA-256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
