"""Every stage runs on what it declares, writes what it declares, reads the settings it declares."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capt_core.artifacts.tables import read_provenance
from capt_core.params import Settings
from capt_core.settings_file import Section
from stages.commands import PIPELINE
from stages.pipeline import declared
from stages.stage import Place
from tests.pipeline.commands import SMALL, capt, contents

RUNS = [
    (name, method)
    for name in PIPELINE
    for method in (("clip", "capt") if "method" in declared(name).per else (None,))
]
# Checked before and after the first stage, whose results do not depend on it.
CHECKED = {"prepare": {"backbone", "generate_prompts"}}
# What reads all that the stage declares.
FURTHER = {
    "build-bank": ("build_bank.source=augmented_views", "build_bank.views=1"),
    "fit-teacher": ("fit_teacher.method=cupl",),
    "mine-pairs": ("mine_pairs.pseudo_label=real_gt",),
}
# Images are read only for a base model whose features are not the stored ones.
AT_TIMES = {"infer-teacher": {"data"}, "mine-pairs": {"data"}}


def place(root: Path, method: str | None) -> Place:
    return Place.of(root, "proctex", method or "", seed=1, shots=8)


def inputs(name: str, method: str | None, root: Path) -> set[Path]:
    """What a stage declares that it reads; for a report, with what its records name."""
    at = place(root, method)
    found = set(declared(name).reads(at))
    if name == "report":
        for record in at.report.evaluations.rglob("*.parquet"):
            found |= {root / path for path in read_provenance(record).inputs}
        # The fingerprint in every record stands for the samples, the classes and their images.
        found |= {*at.dataset, at.data.images}
    return found


@pytest.mark.parametrize(("name", "method"), RUNS)
def test_a_stage_runs_on_what_it_declares(
    name: str, method: str | None, small: Path, tmp_path: Path
) -> None:
    root = tmp_path / "artifacts"
    for path in inputs(name, method, small):
        target = root / path.relative_to(small)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, target)
    before = contents(root)

    with settings_read() as read:
        capt(name, "proctex", root, (*SMALL, *FURTHER.get(name, ())), method=method)

    after = contents(root)
    assert {path: after[path] for path in before} == before
    outputs = [
        path.relative_to(root).as_posix() for path in declared(name).outputs(place(root, method))
    ]
    for file in after.keys() - before.keys():
        declared_output = any(file == out or file.startswith(f"{out}/") for out in outputs)
        assert declared_output or file.startswith("work/"), file
    assert all((root / out).exists() for out in outputs)

    params = set(declared(name).params) | CHECKED.get(name, set())
    known = params | set(declared(name).params_for)
    assert {key for key in read if not {key, section_of(key)} & known} == set()
    if method != "clip":  # which reads less than others
        # Sections of methods are read from the file, the rest from what DVC fans out over.
        sections = {section_of(key) for key in params} - {"compare", "methods", "seeds"}
        sections -= AT_TIMES.get(name, set())
        assert sections <= {section_of(key) for key in read}


def section_of(key: str) -> str:
    return key.partition(".")[0]


@contextlib.contextmanager
def settings_read() -> Iterator[set[str]]:
    """Collect the settings that are read: ``section.key``, or ``section`` where all are hashed."""
    names: dict[type, str] = {
        type(section): name for name, section in Settings() if isinstance(section, Section)
    }
    read: set[str] = set()

    def recorded(self: Section, name: str) -> Any:
        section = names.get(type(self))
        # A section's own validators read it, whoever loads the settings, and so does the check of
        # all methods' settings before any stage.
        caller = sys._getframe(1).f_globals.get("__name__")
        checking = caller in (type(self).__module__, "stages.command")
        if section and name == "model_dump":
            read.add(section)
        elif section and name in type(self).model_fields and not checking:
            read.add(f"{section}.{name}")
        return object.__getattribute__(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Section, "__getattribute__", recorded, raising=False)
        yield read
