"""Named changes of the settings: a variant of the study, or a row of the table of all methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capt_core import study
from capt_core.artifacts.layout import Layout, StudyLayout, TablesLayout
from capt_core.errors import CaptError, shown
from capt_core.method_table import bases, table_rows


@dataclass(frozen=True)
class Variation:
    """What a run has in place of the settings and paths that it has without a name.

    Attributes:
        name: given by ``--variant``; empty for the settings as they are.
        change: sections and keys, nested as in ``params.yaml``.
        base: for what belongs to the table of all methods, the base model of its rows.
        method: of a row of that table; empty for all else.
    """

    name: str = ""
    change: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    method: str = ""

    def layout(self, artifacts: Path, dataset: str) -> Layout:
        """Paths below the folder given by ``--artifacts``."""
        if not self.name:
            return Layout(artifacts, dataset)
        tables, variants = TablesLayout(artifacts), StudyLayout(artifacts)
        root = tables.base(self.base) if self.base else variants.variant(self.name)
        return Layout(root, dataset, artifacts)

    def entry(self, method: str) -> str:
        """What the run of a method is named after."""
        return self.name if method and method == self.method else method

    def check(self, method: str) -> None:
        """Refuse a run of a method that is not the row's.

        Raises:
            CaptError: the message says which method to give.
        """
        if self.base and method and method != self.method:
            of = f"a row of {self.method}" if self.method else "a base model without methods"
            rows = (row for row in table_rows().values() if row.base == self.base)
            named = ", ".join(row.name for row in rows if row.method == method)
            advice = f"--variant {named}" if named else "another variant"
            raise CaptError(f"--variant {self.name}: {of}, not of {shown(method)}; give {advice}")


def variation(name: str | None) -> Variation:
    """A variation by its name; None stands for the settings as they are.

    Raises:
        CaptError: no such variant; the message lists those there are.
    """
    if not name:
        return Variation()
    if name in bases():
        return Variation(name, bases()[name], name)
    if row := table_rows().get(name):
        return Variation(name, row.change, row.base, row.method)
    return Variation(name, study.variant(name).change)


def variation_at(path: Path, artifacts: Path, entry: str) -> str | None:
    """Name of the variation that an artifact is of; None where it is of none.

    Args:
        path: of the artifact.
        artifacts: the folder given by ``--artifacts``.
        entry: the run that the path names, if it is of a run.
    """
    for folder in (StudyLayout(artifacts).folder, TablesLayout(artifacts).folder):
        inside = path.relative_to(folder).parts if path.is_relative_to(folder) else ()
        if len(inside) > 1:
            return entry if entry in table_rows() and inside[0] in bases() else inside[0]
    return None
