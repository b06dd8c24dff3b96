"""Where an artifact comes from: recorded in its file, compared by its readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """Origin of an artifact.

    Attributes:
        dataset: name of the data set.
        dataset_fingerprint: digest of its samples and classes; empty before ``prepare``.
        backbone: identity of the backbone (name and digest of its weights); empty where an
            artifact does not depend on one.
        settings: digest of the settings that the writing stage used.
        inputs: digests of other artifacts that this one belongs to, by path below the artifacts
            folder.
    """

    dataset: str
    dataset_fingerprint: str = ""
    backbone: str = ""
    settings: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, Any]:
        """Fields for JSON; `inputs` only if there are any."""
        record = asdict(self)
        if not self.inputs:
            del record["inputs"]
        return record

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> Provenance:
        """What `as_dict` gave, among other entries; fields that are not there stay empty."""
        return Provenance(
            dataset=str(record.get("dataset", "")),
            dataset_fingerprint=str(record.get("dataset_fingerprint", "")),
            backbone=str(record.get("backbone", "")),
            settings=str(record.get("settings", "")),
            inputs=dict(record.get("inputs", {})),
        )

    def mismatch(self, expected: Provenance) -> str | None:
        """How an artifact of this origin contradicts what a reader works with, or None.

        Fields that either side leaves empty are not compared. Neither are settings, since a stage
        may be rerun by hand with others on purpose, nor inputs.
        """
        if self.dataset != expected.dataset:
            return f"made for data set {self.dataset!r}, not {expected.dataset!r}"
        pairs = (
            ("other images or classes", self.dataset_fingerprint, expected.dataset_fingerprint),
            ("another backbone", self.backbone, expected.backbone),
        )
        for what, found, wanted in pairs:
            if found and wanted and found != wanted:
                return f"made from {what} ({found}) than this run's ({wanted})"
        return None
