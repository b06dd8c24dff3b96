"""Which methods can be used with a backbone, told without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from capt_core import params
from capt_core.backbone.architecture import outline
from capt_core.errors import CaptError
from capt_core.methods.method import Method
from capt_core.methods.registry import method_class, method_names


def unsuited(methods: Iterable[Method], backbone: params.Backbone) -> Iterator[str]:
    """One line for each method that the backbone cannot be used with, saying why and what can.

    Args:
        methods: with their settings.
        backbone: of a known name; its weights are not needed.

    Raises:
        CaptError: unknown backbone.
    """
    clip = outline(backbone.name)
    for method in methods:
        try:
            method.check_clip(clip)
        except CaptError as error:
            able = [name for name in method_names() if _suits(method_class(name)(), clip)]
            with_it = f"; with {backbone.name}, {', '.join(able)} can be used" if able else ""
            yield f"{method.name} cannot be used with backbone {backbone.name}: {error}{with_it}"


def _suits(method: Method, clip: object) -> bool:
    try:
        method.check_clip(clip)
    except CaptError:
        return False
    return True
