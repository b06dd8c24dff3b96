"""Advice of the command line: commands that carry the running command's options."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from capt_core.advice import Adviser, axes_of, command
from capt_core.artifacts.layout import Layout
from capt_core.artifacts.provenance import METADATA_KEY, Provenance
from capt_core.artifacts.tables import read_provenance
from capt_core.backbone.identity import backbone_identity
from capt_core.data.splits import QUARANTINE
from capt_core.errors import CaptError
from capt_core.methods.registry import method_class
from capt_core.params import Matrix, Settings, load_settings

from . import options
from .commands import PIPELINE, module_of
from .stage import Place
from .variation import variation, variation_at

if TYPE_CHECKING:
    from capt_core.methods.method import Need

_OF_TOOLS = {"fetch": (), "init": (), "predict": ("params", "set"), "export": ("params", "set")}
"""Shared options that a command takes, where it does not take all of them."""


@dataclass(frozen=True)
class CommandAdviser(Adviser):
    """Advice while a command runs.

    Attributes:
        dataset: of the running command; empty where it covers all.
        params: settings file of the running command; None stands for the packaged settings.
        artifacts: its folder of the artifacts.
        overrides: its ``section.key=value`` strings.
        variant: of the study or the table of all methods; None outside them.
        seed: few-shot draw; None stands for the first of the settings.
        method: name of the method.
    """

    dataset: str = ""
    params: Path | None = None
    artifacts: Path = options.ARTIFACTS
    overrides: Sequence[str] = ()
    variant: str | None = None
    seed: int | None = None
    method: str = ""

    @staticmethod
    def of(values: Mapping[str, Any]) -> CommandAdviser:
        """From a command's options by the names of their parameters."""
        method = values.get("method")
        return CommandAdviser(
            values.get("dataset") or "",
            values.get("params"),
            values.get("artifacts") or options.ARTIFACTS,
            tuple(values.get("set_") or ()),
            values.get("variant"),
            values.get("seed"),
            method if isinstance(method, str) else "",
        )

    def stage(self, stage: str, path: Path, dataset: str | None = None) -> str:
        found = axes_of(path)
        variant = variation_at(path, self.artifacts, found.method) or self.variant
        if variation(self.variant).base == variant:
            variant = self.variant  # a row's run on the base model
        asked = replace(
            self,
            variant=variant,
            seed=self.seed if found.seed is None else found.seed,
            method=variation(variant).method or found.method or self.method or options.METHOD,
        )
        return asked._command(stage, dataset or found.dataset)

    def prepare(self, *settings: str) -> str:
        current, _ = self._settings(self.dataset)
        # An image that prepare does not look at is not found to be left out.
        if QUARANTINE in settings and current.prepare.check_images != "decode":
            settings = (*settings, "prepare.check_images=decode")
        changed = replace(self, overrides=(*self.overrides, *settings))
        return f"run: {changed._command('prepare', self.dataset)}"

    def tool(self, tool: str, **options: object) -> str:
        return command(tool, **options, **self._shared(tool))

    def setting(self, key: str, value: str) -> str:
        # Under DVC, --set is refused.
        return (
            f"{key}={value} in params.yaml"
            if os.environ.get("DVC_STAGE")
            else f"--set {key}={value}"
        )

    def _command(self, stage: str, dataset: str) -> str:
        settings, matrix = self._settings(dataset)
        seed = matrix.seeds[0] if self.seed is None else self.seed
        first = self._first(stage, dataset, settings, seed)
        per = module_of(first).STAGE.per
        # prepare draws the lists of the settings' seeds, or that of the one it is given.
        usual = matrix.seeds[:1] if "seed" in per else matrix.seeds
        return command(
            first,
            dataset=dataset,
            method=self.method if "method" in per else None,
            seed=None if seed in usual else seed,
            variant=self.variant if "seed" in per else None,
            **self._shared(first),
        )

    def _shared(self, name: str) -> dict[str, object]:
        given: dict[str, object] = {
            "params": None if self.params == options.PARAMS_HERE else self.params,
            "artifacts": None if self.artifacts == options.ARTIFACTS else self.artifacts,
            "set": list(self.overrides),
        }
        taken = _OF_TOOLS.get(name, tuple(given))
        return {key: value for key, value in given.items() if key in taken}

    def _settings(self, dataset: str) -> tuple[Settings, Matrix]:
        change = variation(self.variant).change
        return load_settings(self.params, dataset, self.overrides, change)

    def _first(self, stage: str, dataset: str, settings: Settings, seed: int) -> str:
        """The first stage in the pipeline that must run for another one to run through."""
        varied = variation(self.variant)
        layout = varied.layout(self.artifacts, dataset)
        entry = varied.entry(self.method)
        at = Place.of(layout.root, dataset, entry, seed, settings.fewshot.shots, layout.shared)
        try:
            needs = method_class(self.method).needs
            waiting = list(_missing(stage, at, needs, _expected(at.data, settings)))
        # A method that is not known here, a folder that cannot be looked into: the stage itself
        # says so.
        except (CaptError, OSError):
            waiting = [stage]
        return min(waiting, key=PIPELINE.index)


def _missing(stage: str, at: Place, needs: Collection[Need], expected: Provenance) -> Iterable[str]:
    """A stage, and every earlier one that it waits for."""
    yield stage
    for path in module_of(stage).STAGE.needed(at, needs):
        if not _usable(path, expected):
            made_by = next((name for name in PIPELINE if _writes(name, path, at)), stage)
            if made_by != stage:
                yield from _missing(made_by, at, needs, expected)


def _writes(name: str, path: Path, at: Place) -> bool:
    return any(path.is_relative_to(each) for each in module_of(name).STAGE.outputs(at))


def _expected(layout: Layout, settings: Settings) -> Provenance:
    """What artifacts must have been made from, as far as that can be found out."""
    prepared = _origin(layout.samples)
    fingerprint = prepared.dataset_fingerprint if prepared else ""
    try:
        return Provenance(layout.dataset, fingerprint, backbone_identity(settings.backbone))
    except (CaptError, OSError):
        return Provenance(layout.dataset, fingerprint)


def _usable(path: Path, expected: Provenance) -> bool:
    if path.suffix not in (".parquet", ".safetensors"):
        return path.exists()
    origin = _origin(path)
    return origin is not None and origin.mismatch(expected) is None


def _origin(path: Path) -> Provenance | None:
    try:
        if path.suffix == ".parquet":
            return read_provenance(path)
        with safe_open(path, framework="np") as file:
            return Provenance.from_dict(json.loads((file.metadata() or {}).get(METADATA_KEY, "")))
    # Whatever a damaged file is answered with: its stage must write it anew.
    except Exception:
        return None
