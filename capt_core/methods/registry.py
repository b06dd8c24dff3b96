"""Methods by name: those of the project, of installed packages, and registered ones."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capt_core.advice import meant
from capt_core.errors import CaptError, shown
from capt_core.params import method_section

if TYPE_CHECKING:
    from capt_core.methods.method import Method

ENTRY_POINTS = "capt_core.methods"
"""Group under which a package names its methods, so that installing it is enough."""

BASE_METHOD = "clip"
"""The method that every table compares with, listed first."""

_BUILT_IN = {
    "clip": "capt_core.methods.clip:Clip",
    "clip_prompts": "capt_core.methods.clip_prompts:ClipPrompts",
    "cupl": "capt_core.methods.cupl:CuPL",
    "fudd": "capt_core.methods.fudd:FuDD",
    "linear_probe": "capt_core.methods.linear_probe:LinearProbe",
    "tip_adapter": "capt_core.methods.tip_adapter:TipAdapter",
    "gda": "capt_core.methods.gda:Gda",
    "gda_prompts": "capt_core.methods.gda:GdaPrompts",
    "coop": "capt_core.methods.coop:CoOp",
    "maple": "capt_core.methods.maple:Maple",
    "promptsrc": "capt_core.methods.promptsrc:PromptSRC",
    "promptkd": "capt_core.methods.promptkd:PromptKD",
    "spotlighter": "capt_core.methods.spotlighter.method:Spotlighter",
    "spotlighter_promptkd": "capt_core.methods.spotlighter.plugin:SpotlighterPromptKD",
    "dpc": "capt_core.methods.dpc.method:Dpc",
    "tac": "capt_core.methods.tac.method:TAC",
    "tap": "capt_core.methods.tap.method:TAP",
    "lweib": "capt_core.methods.lweib.method:LwEIB",
    "twosfs": "capt_core.methods.twosfs:TwoStage",
    "clip_lora": "capt_core.methods.clip_lora:ClipLora",
    "clip_lora_prompts": "capt_core.methods.clip_lora:ClipLoraPrompts",
    "clip_adapter": "capt_core.methods.clip_adapter:ClipAdapter",
    "clip_adapter_prompts": "capt_core.methods.clip_adapter:ClipAdapterPrompts",
    "tip_adapter_f": "capt_core.methods.tip_adapter:TipAdapterF",
    "tip_adapter_f_prompts": "capt_core.methods.tip_adapter:TipAdapterFPrompts",
    "residual_adapter": "capt_core.methods.residual_adapter:ResidualAdapter",
    "capt": "capt_core.methods.capt.method:Capt",
}
_registered: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Make a method known under its name; may be used as a decorator."""
    _registered[method.name] = method
    return method


def method_names() -> list[str]:
    """Names of all known methods."""
    return list(dict.fromkeys([*_BUILT_IN, *_installed(), *_registered]))


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        CaptError: unknown name; the message lists the known ones.
    """
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        module, _, member = _BUILT_IN[name].partition(":")
        found: type[Method] = getattr(importlib.import_module(module), member)
        return found
    check_methods([name])
    loaded: type[Method] = _installed()[name].load()
    return loaded


def configured_method(
    name: str,
    path: Path | None,
    dataset: str | None = None,
    overrides: Sequence[str] = (),
    change: Mapping[str, Any] | None = None,
) -> Method:
    """A method with its section of the settings, which `params.method_section` merges.

    Raises:
        CaptError: unknown method, or a mistake in its section.
    """
    found = method_class(name)
    return found(method_section(name, found.Settings, path, dataset, overrides, change))


def configured_methods(
    names: Iterable[str],
    path: Path | None,
    dataset: str | None = None,
    overrides: Sequence[str] = (),
    change: Mapping[str, Any] | None = None,
) -> list[Method]:
    """Each of some methods once; see `configured_method`."""
    return [
        configured_method(name, path, dataset, overrides, change) for name in dict.fromkeys(names)
    ]


def check_methods(names: Iterable[str], where: str = "") -> None:
    """Refuse unknown names, without importing any method.

    Raises:
        CaptError: the message lists the known ones.
    """
    known = method_names()
    for name in names:
        if name not in known:
            place = f"{where}: " if where else ""
            raise CaptError(f"{place}unknown method {shown(name)}; {meant(name, known)}")


def check_sections(
    path: Path | None, dataset: str | None = None, overrides: Sequence[str] = ()
) -> None:
    """Check the sections of all known methods, as `load_settings` checks the others.

    Raises:
        CaptError: unknown key, wrong type or value; the message names it.
    """
    for name in method_names():
        configured_method(name, path, dataset, overrides)


def method_label(name: str) -> str:
    """The label of a method in tables; the name itself where the method is not installed here."""
    return method_class(name).label if name in method_names() else name


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
