"""What an artifact was made with and made from, compared with what a later stage runs with.

A stage that runs inside `tracing` records in everything it writes the settings that shape it, by
name, and the digests of the artifacts it has read. Whoever reads such an artifact compares these
settings with its own of the same names, and the digests with the artifacts that are there, back to
the first stage. So artifacts of one fit never meet those of another, and a setting that only later
stages read invalidates nothing.

What ``prepare`` writes is compared by the data set's fingerprint instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from capt_core.advice import Remedy, run_stage
from capt_core.artifacts.digests import content_digest
from capt_core.artifacts.files import file_digest
from capt_core.artifacts.provenance import METADATA_KEY, Provenance, parse_record
from capt_core.errors import CaptError, reason, shown
from capt_core.user_paths import brief


@dataclass(frozen=True)
class Lineage:
    """A run of a stage, as its artifacts remember it.

    Attributes:
        root: folder of the artifacts; paths of inputs are relative to it.
        command: what makes the artifacts again: the words after ``capt-stage``.
        used: settings that shape what is written, by dotted name.
        settings: all settings of the run, by dotted name; those left out are not compared.
        inputs: digests of the artifacts read so far, by path relative to `root`.
    """

    root: Path
    command: str
    used: Mapping[str, Any]
    settings: Mapping[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)


# A file may say anything; only words that a shell takes as they are get into advice.
_COMMAND = re.compile(r"[\w.-]+( [\w.-]+){0,10}")
_SETTING = re.compile(r"--set [\w.-]+=[\w./,-]+")

_CURRENT: ContextVar[Lineage | None] = ContextVar("lineage", default=None)


@contextlib.contextmanager
def tracing(lineage: Lineage) -> Iterator[None]:
    """Record what is read and written in the block, and compare what is read."""
    token = _CURRENT.set(lineage)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Read artifacts of another run in the block: they are not compared with this one."""
    token = _CURRENT.set(None)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def recorded(provenance: Provenance) -> dict[str, Any]:
    """What an artifact that is written here and now says of its origin, as plain values."""
    lineage = _CURRENT.get()
    if lineage is None:
        return provenance.as_dict()
    record = provenance.as_dict() | {"made_by": lineage.command, "made_with": dict(lineage.used)}
    inputs = {**lineage.inputs, **provenance.inputs}
    return record | ({"inputs": inputs} if inputs else {})


def admit(
    path: Path, record: Mapping[str, Any], expected: Provenance, remedy: str | Remedy
) -> None:
    """Note that an artifact is read, after comparing its origin, what it was made with and from.

    Args:
        path: of the artifact.
        record: its metadata.
        expected: what its reader works with.
        remedy: for messages about an artifact that does not say which stage wrote it.

    Raises:
        CaptError: it is of foreign origin; or it, or one that it was made from, was made with
            other settings or from others than there are now. The message names the first stage to
            run again.
    """
    if foreign := Provenance.from_dict(record).mismatch(expected):
        raise CaptError(f"{path}: {foreign}; {remedy}")
    lineage = _CURRENT.get()
    # Without a backbone an artifact depends on the data set alone: its fingerprint is compared.
    if lineage is None or not expected.backbone:
        return
    _compare(lineage, path, record, remedy, set())
    lineage.inputs[_name(path, lineage.root)] = content_digest(path)


_DIGEST = "sha256:"


def file_setting(path: str, name: str) -> str:
    """What stands for a setting that names a file where settings are compared: its digest.

    Args:
        path: the setting's value.
        name: of the setting, for the message.

    Raises:
        CaptError: the file is missing or cannot be read.
    """
    try:
        return f"{_DIGEST}{file_digest(Path(path).expanduser())}"
    except OSError as error:
        said = error.strerror or reason(error)
        raise CaptError(f"{name}: {brief(path)}: {said}; correct the path") from error


def setting_difference(made_with: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """The first setting that differs between an artifact and a run, as words; None if none does.

    The words end with "or" where the option that ends the difference can be written as it is.

    Settings that only one side knows are not compared.
    """
    for name, value in sorted(made_with.items()):
        if name in settings and settings[name] != value:
            words = f"made with {name}={shown(value)}, this run has {shown(settings[name])}"
            if str(value).startswith(_DIGEST):
                return f"{words}; give --set {name}=FILE with that file here, too, or"
            given = f"--set {name}={'null' if value is None else value}"
            return words + (f"; give {given} here, too, or" * bool(_SETTING.fullmatch(given)))
    return None


def _compare(
    lineage: Lineage, path: Path, record: Mapping[str, Any], remedy: str | Remedy, seen: set[str]
) -> None:
    inputs = {}
    for name, digest in Provenance.from_dict(record).inputs.items():
        source = lineage.root / str(name)
        with contextlib.suppress(*_UNREADABLE):
            # One that is missing or damaged cannot be compared; who reads it will say so.
            inputs[source] = (digest, content_digest(source), artifact_record(source))
    for source, (_, _, below) in inputs.items():
        if str(source) not in seen:
            seen.add(str(source))
            _compare(lineage, source, below, remedy, seen)
    command = record.get("made_by")
    if isinstance(command, str) and _COMMAND.fullmatch(command):
        remedy = run_stage(command.split()[0], path)
    made_with = record.get("made_with")
    made_with = made_with if isinstance(made_with, dict) else {}
    difference = setting_difference(made_with, _plain(lineage))
    if difference:
        joint = " " if difference.endswith(" or") else "; "
        raise CaptError(f"{path}: {difference}{joint}{remedy}")
    for source, (digest, found, _) in inputs.items():
        if found != digest:
            raise CaptError(f"{path}: made from another {source.name} than is there now; {remedy}")


_UNREADABLE = (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


def _plain(lineage: Lineage) -> Mapping[str, Any]:
    """Settings as JSON gives them back: lists for tuples."""
    plain: Mapping[str, Any] = json.loads(json.dumps(lineage.settings))
    return plain


def artifact_record(path: Path) -> dict[str, Any]:
    """What a Parquet or safetensors artifact says of itself, without its content.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such record.
        PolarsError: it is no Parquet file.
    """
    if path.suffix == ".parquet":
        return parse_record(pl.read_parquet_metadata(path).get(METADATA_KEY, "{}"))
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("no safetensors file")
        header = parse_record(stream.read(length).decode())
    metadata = header.get("__metadata__", {})
    return parse_record(metadata.get(METADATA_KEY, "{}"))


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()
