"""Which methods can be used with a backbone, told without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from capt_core import params
from capt_core.advice import setting
from capt_core.backbone.architecture import outline
from capt_core.errors import CaptError
from capt_core.methods.method import Method, Need
from capt_core.methods.registry import method_class, method_names
from capt_core.prompts.llm.setup import answers_root
from capt_core.prompts.sources import written_store


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


def unstartable(methods: Iterable[Method], base: Method) -> Iterator[str]:
    """One line for each method that cannot start from a base model of some method, saying why."""
    for method in methods:
        if Need.BASE_MODEL not in method.needs:
            continue
        try:
            method.check_base(base)
        except CaptError as error:
            yield str(error)


def check_described(methods: Iterable[str], settings: params.GeneratePrompts, dataset: str) -> None:
    """Refuse methods that need sentences about the classes where none can come from anywhere.

    Args:
        methods: names.
        settings: where sentences come from.
        dataset: name of the data set.

    Raises:
        CaptError: names the method, and what to give.
    """
    asked = settings.provider.startswith("anthropic")
    answered = answers_root(settings).is_dir()
    if asked or answered or written_store(settings, dataset) is not None:
        return
    for name in methods:
        if Need.CLASS_DESCRIPTIONS in method_class(name).needs:
            raise CaptError(
                f"{name}: needs what is written about the classes, and nothing is about {dataset}; "
                f"{setting('generate_prompts.store', 'FILE.json')}, or have it written: "
                f"{setting('generate_prompts.provider', 'anthropic')}"
            )


def _suits(method: Method, clip: object) -> bool:
    try:
        method.check_clip(clip)
    except CaptError:
        return False
    return True
