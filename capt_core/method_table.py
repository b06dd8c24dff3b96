"""The table of all methods beside the paper's Table 1: its rows, declared in ``tables.yaml``."""

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

DECLARED = Path(__file__).with_name("tables.yaml")
TUNED = "_tuned"
"""Ends the name of a row whose learning rate was tuned."""

Accuracies = tuple[float, float, float]


@dataclass(frozen=True)
class TableRow:
    """One row: a method with changes of the settings.

    Attributes:
        name: of the row, and of the folder of its runs.
        method: name of the method.
        base: name in `bases()`.
        change: sections and keys, nested as in ``params.yaml``: the base model's and the row's own.
        label: text of the first column; empty takes the method's.
        paper: the paper's base accuracy, novel accuracy and harmonic mean in percent, averaged over
            eleven data sets with its own backbone; None where it prints none.
        tuned: whether its learning rate was tuned.
    """

    name: str
    method: str
    base: str
    change: Mapping[str, Any]
    label: str = ""
    paper: Accuracies | None = None
    tuned: bool = False


@cache
def bases() -> Mapping[str, Mapping[str, Any]]:
    """The base models by name, each as a change of the settings."""
    return _declared().bases


@cache
def table_rows() -> Mapping[str, TableRow]:
    """All rows by name, in order; each tuned one after all others."""
    declared = _declared()
    rows = [declared.row(name) for name in declared.rows]
    rows += [declared.tuned_row(name) for name in declared.tuned.rows]
    return {row.name: row for row in rows}


def trials() -> int:
    """Learning rates that were tried for each tuned row."""
    return _declared().tuned.trials


def rows_of(names: Sequence[str], methods: Sequence[str]) -> list[TableRow]:
    """The rows of some names and all those of some methods, in order; all rows if none is given.

    Raises:
        CaptError: no such row, or a method without a row; the message lists those there are.
    """
    every = table_rows().values()
    known = list(dict.fromkeys(row.method for row in every))
    for option, asked, there in (("--row", names, table_rows()), ("--method", methods, known)):
        for name in asked:
            if name not in there:
                raise CaptError(f"{option}: no row of {shown(name)}; {meant(name, there)}")
    if not names and not methods:
        return list(every)
    return [row for row in every if row.name in names or row.method in methods]


class _RowEntry(Section):
    method: str = Field("", description="the row's name if not given")
    label: str = ""
    base: str = "on_clip"
    paper: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


class _Tuned(Section):
    trials: int = Field(ge=0)
    rows: dict[str, dict[str, Any]]


class _Declared(Section):
    paper: dict[str, list[float]]
    bases: dict[str, dict[str, Any]]
    rows: dict[str, _RowEntry]
    tuned: _Tuned

    @model_validator(mode="after")
    def _named(self) -> Self:
        for name, row in self.rows.items():
            if row.base not in self.bases:
                raise ValueError(f"{name}: no base model {row.base}")
            if row.paper is not None and row.paper not in self.paper:
                raise ValueError(f"{name}: the paper has no {row.paper}")
        unknown = self.tuned.rows.keys() - self.rows.keys()
        if unknown:
            raise ValueError(f"tuned: no rows {sorted(unknown)}")
        # A row's runs lie beside what its base model's draw leaves; see `TablesLayout`.
        if clash := {*self.bases} & {*self.rows}:
            raise ValueError(f"both a base model and a row: {sorted(clash)}")
        return self

    def row(self, name: str) -> TableRow:
        entry = self.rows[name]
        method = entry.method or name
        own = {"methods": {method: entry.settings}} if entry.settings else {}
        paper = None
        if entry.paper is not None:
            base, novel, mean = self.paper[entry.paper]
            paper = (base, novel, mean)
        change = merge(self.bases[entry.base], own)
        return TableRow(name, method, entry.base, change, entry.label, paper)

    def tuned_row(self, name: str) -> TableRow:
        row = self.row(name)
        change = merge(row.change, {"methods": {row.method: self.tuned.rows[name]}})
        return TableRow(name + TUNED, row.method, row.base, change, row.label, row.paper, True)


@cache
def _declared() -> _Declared:
    return _Declared.model_validate(load_yaml(DECLARED).value)
