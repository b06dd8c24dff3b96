"""Where an artifact comes from: recorded in its file, compared by its readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from capt_core.errors import shown

METADATA_KEY = "capt"
"""Where an artifact's file metadata hold its record, as JSON."""

_IF_ANY = ("inputs", "note")


@dataclass(frozen=True)
class Provenance:
    """Origin of an artifact.

    Attributes:
        dataset: name of the data set.
        dataset_fingerprint: digest of its samples and classes; empty before ``prepare``.
        backbone: identity of the backbone (name and digest of its weights); empty where an
            artifact does not depend on one.
        settings: digest of the settings that the writing stage used; of what `evaluate` writes, of
            those that the method was fitted with.
        inputs: digests of other artifacts that this one belongs to, by path below the artifacts
            folder.
        note: what a reader must know about it; empty where there is nothing.
    """

    dataset: str
    dataset_fingerprint: str = ""
    backbone: str = ""
    settings: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Fields for JSON; `inputs` and `note` only if there are any."""
        record = asdict(self)
        return {key: value for key, value in record.items() if value or key not in _IF_ANY}

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> Provenance:
        """What `as_dict` gave, among other entries; fields that are not there stay empty."""
        return Provenance(
            dataset=str(record.get("dataset", "")),
            dataset_fingerprint=str(record.get("dataset_fingerprint", "")),
            backbone=str(record.get("backbone", "")),
            settings=str(record.get("settings", "")),
            inputs=dict(record["inputs"]) if isinstance(record.get("inputs"), Mapping) else {},
            note=str(record.get("note", "")),
        )

    def mismatch(self, expected: Provenance) -> str | None:
        """How an artifact of this origin contradicts what a reader works with, or None.

        Fields that either side leaves empty are not compared. Settings and inputs are compared by
        `lineage.admit`, which knows those of the run.
        """
        if self.dataset != expected.dataset:
            return f"made for data set {shown(self.dataset)}, not {expected.dataset!r}"
        pairs = (
            ("other images or classes", self.dataset_fingerprint, expected.dataset_fingerprint),
            ("another backbone", self.backbone, expected.backbone),
        )
        for what, found, wanted in pairs:
            if found and wanted and found != wanted:
                # Bare as in a record, but no longer than a message may quote.
                found = shown(found)[1:-1]
                return f"made from {what} ({found}) than this run's ({wanted})"
        return None


def parse_record(text: str) -> dict[str, Any]:
    """The record that an artifact's metadata hold.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        record = json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record
