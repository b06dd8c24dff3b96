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
from capt_core.artifacts import lineage
from capt_core.artifacts.digests import PLACEHOLDER, is_intact, seal
from capt_core.artifacts.files import atomic_path, check_file, unreadable
from capt_core.artifacts.provenance import METADATA_KEY, Provenance, parse_record
from capt_core.errors import CaptError, shown


@dataclass(frozen=True)
class SavedTensors:
    """Tensors with what is needed to use them.

    Attributes:
        tensors: by name, memory-mapped.
        record: the metadata: `facts`, and where the tensors come from.
    """

    tensors: dict[str, torch.Tensor]
    record: Mapping[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values that were written with the tensors."""
        facts: dict[str, Any] = self.record["facts"]
        return facts

    @property
    def provenance(self) -> Provenance:
        return Provenance.from_dict(self.record)


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Write tensors atomically, with a digest; equal values give equal bytes.

    Raises:
        CaptError: the file cannot be written.
    """
    save_sealed(path, tensors, {"facts": dict(facts), **lineage.recorded(provenance)})


def save_sealed(path: Path, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON record atomically, with a digest of all of it.

    Raises:
        CaptError: the file cannot be written.
    """
    # One metadata key: the order of several is not stable between processes.
    metadata = {METADATA_KEY: json.dumps({**record, "digest": PLACEHOLDER}, sort_keys=True)}
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata)
        seal(temporary)


def load_sealed(path: Path) -> SavedTensors:
    """Read what `save_sealed` wrote.

    Raises:
        OSError: the system does not let the file be read.
        ValueError: says what is wrong with the file.
    """
    sound = is_intact(path)
    if sound is False:
        raise ValueError("damaged, its content is not what was written")
    try:
        with safe_open(path, framework="pt") as file:
            record = parse_record((file.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError("not a readable safetensors file") from error
    if sound is None or "digest" not in record:
        raise ValueError("not written by this project, or by an earlier version: no XXH3 digest")
    return SavedTensors(tensors, record)


def read_tensors(path: Path, stage: str, expected: Provenance) -> SavedTensors:
    """Read tensors and refuse those made from other data or another backbone.

    Raises:
        CaptError: missing, damaged or foreign file; the message names the stage to run.
    """
    remedy = run_stage(stage, path, expected.dataset)
    found = load_tensors(path, remedy)
    lineage.admit(path, found.record, expected, remedy)
    return found


def load_tensors(path: Path, remedy: str | Remedy) -> SavedTensors:
    """Read tensors of any origin.

    Raises:
        CaptError: missing or damaged file, one that the system does not let be read, or numbers
            that are not finite or not real; the message ends with the remedy.
    """
    check_file(path, remedy)
    try:
        found = load_sealed(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise CaptError(f"{path}: {error}; {remedy}") from error
    if not isinstance(found.record.get("facts"), dict):
        raise CaptError(f"{path}: not written by this project; {remedy}")
    for name, value in found.tensors.items():
        if value.is_complex() or (value.is_floating_point() and not value.isfinite().all()):
            raise CaptError(
                f"{path}: {shown(name)} holds numbers that are not finite or not real; {remedy}"
            )
    return found


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """First 16 hex digits of SHA-256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
