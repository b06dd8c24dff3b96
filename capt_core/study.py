"""The study: named changes of the settings, and the tables that compare them with the paper.

Both are declared in ``ablations.yaml``, one entry per ablation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from capt_core.advice import meant
from capt_core.errors import CaptError, shown
from capt_core.settings_file import Section, merge
from capt_core.yaml_file import load_yaml

ABLATIONS = Path(__file__).with_name("ablations.yaml")
FULL = "recommended"
"""The variant that changes nothing."""
METHOD = "capt"

Accuracies = tuple[float, float, float]


@dataclass(frozen=True)
class Variant:
    """A named change of the settings.

    Attributes:
        change: sections and keys, nested as in ``params.yaml``; that of the row that its table
            compares it with comes first.
        methods: names of the methods that the study runs with it.
    """

    change: Mapping[str, Any]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One row of a study table.

    Attributes:
        label: text of the first column.
        variant: name in `variants()`.
        method: method that the variant is run with.
        paper: the paper's base accuracy, novel accuracy and harmonic mean in percent, averaged over
            eleven data sets with its own backbone; None where it prints none.
        setting: value on the axis, for rows of a curve.
    """

    label: str
    variant: str = FULL
    method: str = METHOD
    paper: Accuracies | None = None
    setting: float | None = None


@dataclass(frozen=True)
class Table:
    """One table of the study.

    Attributes:
        name: used in anchors and in ``ablations.yaml``.
        title: heading.
        source: table or figure of the paper; empty for what the paper does not have.
        rows: in order.
        full: the row that the others differ from; in a curve, the setting the paper finds best.
        remark: what to know when comparing, or nothing.
    """

    name: str
    title: str
    source: str
    rows: tuple[Row, ...]
    full: Row
    remark: str = ""


@cache
def variants() -> Mapping[str, Variant]:
    """All variants by name, the unchanged settings first."""
    declared = _declared()
    methods: dict[str, list[str]] = {name: [] for name in declared.ablations}
    for row in (row for table in tables() for row in table.rows):
        if row.method not in methods[row.variant]:
            methods[row.variant].append(row.method)
    return {
        name: Variant(declared.change(name), tuple(methods[name])) for name in declared.ablations
    }


def variant(name: str) -> Variant:
    """A variant by its name.

    Raises:
        CaptError: no such variant; the message lists those there are.
    """
    known = variants()
    if name not in known:
        raise CaptError(f"--variant: no variant {shown(name)}; {meant(name, known)}")
    return known[name]


@cache
def tables() -> tuple[Table, ...]:
    """The tables of the study, in order."""
    declared = _declared()
    rows: dict[str, list[Row]] = {name: [] for name in declared.tables}
    for variant, ablation in declared.ablations.items():
        for entry in ablation.rows:
            rows[entry.table].append(entry.row(variant, entry.method))
    return tuple(entry.table(name, rows[name]) for name, entry in declared.tables.items())


class _Shown(Section):
    """What a row shows: its label and the paper's numbers, or its setting on a curve's axis."""

    label: str = ""
    paper: list[float] | None = Field(None, min_length=3, max_length=3)
    setting: int | float | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.label and self.setting is None:
            raise ValueError("a row needs a label or a setting")
        return self

    def row(self, variant: str, method: str = METHOD) -> Row:
        paper = None if self.paper is None else (self.paper[0], self.paper[1], self.paper[2])
        label = self.label or f"{self.setting:g}"
        return Row(label, variant, method, paper, self.setting)


class _RowEntry(_Shown):
    table: str
    method: str = METHOD


class _TableEntry(_Shown):
    title: str
    source: str = ""
    remark: str = ""
    variant: str = FULL

    def table(self, name: str, rows: Sequence[Row]) -> Table:
        full = self.row(self.variant)
        shown = [*rows, full]
        if self.setting is not None:
            shown.sort(key=lambda row: row.setting or 0.0)
        return Table(name, self.title, self.source, tuple(shown), full, self.remark)


class _Ablation(Section):
    change: dict[str, Any]
    rows: list[_RowEntry] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _single_row(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "rows" in values:
            return values
        row = {key: value for key, value in values.items() if key != "change"}
        return {"change": values.get("change"), "rows": [row]}


class _Declared(Section):
    tables: dict[str, _TableEntry]
    ablations: dict[str, _Ablation]

    def change(self, name: str) -> Mapping[str, Any]:
        """What a variant changes: its own change behind that of the row it is compared with."""
        own = self.ablations[name]
        compared = self.tables[own.rows[0].table].variant
        if compared in (name, FULL):
            return own.change
        return merge(dict(self.change(compared)), own.change)


@cache
def _declared() -> _Declared:
    return _Declared.model_validate(load_yaml(ABLATIONS).value)
