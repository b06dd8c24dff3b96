"""Trained models on disk: tensors in safetensors, the rest in one JSON metadata entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from capt_core.artifacts.files import atomic_path
from capt_core.artifacts.provenance import Provenance
from capt_core.errors import CaptError

METADATA_KEY = "capt"


@dataclass(frozen=True)
class SavedTensors:
    """Tensors with what is needed to use them.

    Attributes:
        tensors: by name.
        facts: plain values, such as the method and the shape of its trainable part.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]

    def fact(self, name: str, remedy: str) -> Any:
        """One of the facts.

        Raises:
            CaptError: it was not saved, by an older version; the message ends with the remedy.
        """
        if name not in self.facts:
            raise CaptError(f"the saved model does not say what it {name}; {remedy}")
        return self.facts[name]

    def without(self, name: str) -> tuple[SavedTensors, torch.Tensor | None]:
        """The rest, and one of the tensors (None if it was not saved)."""
        rest = {key: value for key, value in self.tensors.items() if key != name}
        return SavedTensors(rest, self.facts), self.tensors.get(name)


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
        CaptError: missing, damaged or foreign file; the message names the stage that mends it.
    """
    remedy = f"run: capt-stage {stage} --dataset {expected.dataset}"
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
    foreign = Provenance.from_dict(record).mismatch(expected)
    if foreign:
        raise CaptError(f"{path}: {foreign}; {remedy}")
    return SavedTensors(tensors, record["facts"])
