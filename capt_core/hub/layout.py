"""A model's repository as a folder: the model, its facts and its card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capt_core.artifacts.files import write_json, write_text
from capt_core.artifacts.lineage import artifact_record
from capt_core.artifacts.schemas import RUN_PREDICTIONS
from capt_core.artifacts.tables import read_table
from capt_core.errors import CaptError, shown
from capt_core.hub.card import Mistakes, mistakes, model_card
from capt_core.methods.trained import TrainedModel

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
PREDICTIONS = "predictions.parquet"
"""What ``evaluate`` writes beside the model that ``train`` wrote."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def check_repository(name: str) -> str:
    """A repository's name.

    Raises:
        CaptError: it is not ``owner/name`` as the Hub takes it.
    """
    bad = re.search(r"--|\.\.|[.-]/|/[.-]|[.-]$|\.git$", name)
    if bad or len(name) > 96 or not _REPOSITORY.fullmatch(name):
        raise CaptError(
            f"{shown(name)}: no name of a repository; give owner/name of letters, digits, '-', "
            "'_' and '.', at most 96 in all"
        )
    return name


def write_repository(
    model: TrainedModel,
    folder: Path,
    repository: str,
    *,
    errors: Mistakes | None = None,
    made_with: Mapping[str, Any] | None = None,
    license_: str | None = None,
) -> None:
    """Write the files of a model's repository: equal models, equal bytes.

    Args:
        model: written with its backbone inside.
        folder: for the files; others in it are left alone.
        repository: ``owner/name``.
        errors, made_with, license_: for the card; see `model_card`.

    Raises:
        CaptError: a file cannot be written.
    """
    preprocess = model.preprocess
    facts = {
        "library_name": "capt-stage",
        "method": model.method,
        "settings": model.fitted.method.settings.model_dump(mode="json"),
        "backbone": model.fitted.backbone.identity,
        "class_names": list(model.class_names),
        "preprocess": {
            "size": preprocess.size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
        },
        "sees": model.sees,
        "provenance": model.provenance.as_dict(),
    }
    model.save(folder / MODEL, with_backbone=True)
    write_json(folder / CONFIG, facts)
    write_text(folder / CARD, model_card(model, repository, errors, made_with or {}, license_))


def errors_beside(path: Path, model: TrainedModel) -> Mistakes | None:
    """The test errors of the predictions that lie beside a model's file; None without any.

    Raises:
        CaptError: they are damaged, or another model's.
    """
    file = path.with_name(PREDICTIONS)
    if not file.exists():
        return None
    table = read_table(RUN_PREDICTIONS, file, model.provenance)
    if artifact_record(file).get("settings") != model.provenance.settings:
        raise CaptError(f"{file}: of a model that was fitted with other settings")
    return mistakes(table)


def made_with(path: Path) -> dict[str, Any]:
    """Settings of the run that wrote a model's file, by dotted name; none if it does not say."""
    found = artifact_record(path).get("made_with")
    return found if isinstance(found, dict) else {}
