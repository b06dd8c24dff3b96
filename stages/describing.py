"""Which methods take descriptions of classes, and in which form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from capt_core.methods.method import Method, Need
from capt_core.methods.registry import method_class
from capt_core.params import Settings
from capt_core.prompts.shapes import DescriptionForm


def description_forms(settings: Settings, methods: Iterable[str]) -> set[DescriptionForm]:
    """Forms in which methods, and the teacher of one that distils, take descriptions.

    Args:
        settings: name the teacher's method.
        methods: names.

    Raises:
        CaptError: unknown method.
    """
    teacher = settings.teacher.method
    found = [method_class(name) for name in methods]
    if any(Need.TEACHER in each.needs for each in found):
        found.append(method_class(teacher))
    return {each.description_form for each in found if Need.CLASS_DESCRIPTIONS in each.needs}


def may_ask(settings: Settings, methods: Sequence[Method]) -> bool:
    """Whether a language model may be asked about classes for some methods, beyond mined pairs."""
    if not settings.generate_prompts.provider.startswith("anthropic"):
        return False
    forms = description_forms(settings, [method.name for method in methods])
    return bool(forms - {"pairs"}) or describes_names(methods)


def describes_names(methods: Iterable[Method]) -> bool:
    """Whether any of some methods describes classes that only their name is known of."""
    return any(method.described_by_name > 0 for method in methods)
