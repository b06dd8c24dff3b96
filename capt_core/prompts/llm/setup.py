"""From a prepared data set and its settings to the questions about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from capt_core.backbone.loading import load_tokenizer
from capt_core.data.dataset import Dataset
from capt_core.data.registry import dataset_spec
from capt_core.params import Backbone, GeneratePrompts
from capt_core.prompts.llm.answers import AnswerStore, default_root
from capt_core.prompts.llm.checks import Rules
from capt_core.prompts.llm.describing import Describing
from capt_core.prompts.llm.instructions import load_instructions
from capt_core.prompts.llm.questions import medium_words
from capt_core.prompts.llm.reasoning import Reasoning
from capt_core.user_paths import user_path

MOST_WORDS = 40
WORDS_PER_TOKEN = 0.6  # CLIP splits rare words and counts punctuation


def answers_root(settings: GeneratePrompts) -> Path:
    """Folder of the answers that the settings name.

    Raises:
        CaptError: no folder can be called so.
    """
    if not settings.answers:
        return default_root()
    return user_path(settings.answers, "generate_prompts.answers")


def rules_for(dataset: str, backbone: Backbone) -> Rules:
    """Rules of a data set's prompts with a backbone's text encoder.

    Raises:
        CaptError: unknown model.
    """
    spec = dataset_spec(dataset)
    tokenizer = load_tokenizer(backbone)
    return Rules(
        tokenizer.token_count,
        tokenizer.context_length,
        tuple(medium_words(spec.template, spec.domain)),
    )


def reasoning_for(
    prepared: Dataset,
    settings: GeneratePrompts,
    backbone: Backbone,
    warn: Callable[[str], None],
) -> Reasoning:
    """The questions about pairs of classes of a prepared data set.

    Args:
        warn: called for damaged answers that were set aside.

    Raises:
        CaptError: unusable instruction texts, paths that cannot be, unknown model.
    """
    return Reasoning(**_parts(prepared, settings, backbone, warn))


def describing_for(
    prepared: Dataset,
    settings: GeneratePrompts,
    backbone: Backbone,
    warn: Callable[[str], None],
    attributes: Sequence[str],
) -> Describing:
    """The questions about single classes of a prepared data set, attribute by attribute.

    Args:
        warn: called for damaged answers that were set aside.
        attributes: that are asked for.

    Raises:
        CaptError: as `reasoning_for`.
    """
    return Describing(**_parts(prepared, settings, backbone, warn), attributes=attributes)


def _parts(
    prepared: Dataset,
    settings: GeneratePrompts,
    backbone: Backbone,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """What all questions about a data set share."""
    templates = dict(prepared.classes.select("class_name", "template").iter_rows())
    rules = replace(rules_for(prepared.name, backbone), templates=templates)
    folder = settings.instructions
    own = user_path(folder, "generate_prompts.instructions") if folder else None
    return {
        "dataset": prepared.name,
        "domain": dataset_spec(prepared.name).domain,
        "templates": templates,
        "words": min(MOST_WORDS, int((rules.context_length - 2) * WORDS_PER_TOKEN)),
        "settings": settings,
        "instructions": load_instructions(own),
        "rules": rules,
        "answers": AnswerStore(answers_root(settings), warn),
    }
