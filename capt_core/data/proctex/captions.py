"""Captions for pretraining: noisy, and seldom as exact as the class names.

On the web few captions name a texture exactly, many use an everyday word for its family, and
some describe what can be seen. :func:`caption` imitates that, which is what leaves a model
pretrained on it able to tell textures apart better than their names let it show.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np

from capt_core.data.proctex.classes import (
    CLASS_NAMES,
    GROUPS,
    NEIGHBOURS,
    TEMPLATE,
    coarse_word,
)
from capt_core.data.proctex.images import COLOURS, ORIENTATIONS, SIZE_LIMITS, ImageFacts
from capt_core.errors import CaptError

_STORE: Final = "proctex.json"
_NOUNS: Final = ("texture", "pattern", "surface", "fabric")
_NOUN_SHARES: Final = (0.5, 0.25, 0.15, 0.1)
_SIZES: Final = {"small": ("small", "fine", "tiny"), "large": ("large", "coarse", "big")}
_DIRECTED: Final = (*GROUPS["stripes"], "zigzagged", "stratified", "braided")
_VISIBLE_OVERLAY: Final = 0.28
_CLASS_NAME: Final = re.compile(
    r"(?<![\w-])(" + "|".join(sorted(CLASS_NAMES, key=len, reverse=True)) + r")(?![\w-])"
)


@dataclass(frozen=True)
class CaptionStyle:
    """How exact the captions are; each number is a probability.

    Attributes:
        fine_name: the class is named, rather than its family.
        overlay_name: a clearly visible second texture is described instead of the first.
        wrong_name: otherwise, a neighbouring class is described instead.
        name_only: force a caption with a name and nothing else.
        attribute: describe a visible attribute, when the caption is not forced.
        full_stop: end with a full stop, as the texts of prompt-learning methods do.
    """

    fine_name: float = 1.0
    overlay_name: float = 0.75
    wrong_name: float = 0.10
    name_only: float = 0.0
    attribute: float = 0.35
    full_stop: float = 0.0


@cache
def attributes() -> dict[str, tuple[str, ...]]:
    """Visible attributes of each class, by class name, from the packaged prompt store.

    Raises:
        CaptError: the store does not describe every class.
    """
    classes = _read_store()["classes"]
    missing = [name for name in CLASS_NAMES if not classes.get(name, {}).get("attributes")]
    if missing:
        raise CaptError(
            f"prompts/stores/{_STORE} has no attributes for {', '.join(missing)}: "
            "restore the packaged file"
        )
    return {name: tuple(classes[name]["attributes"]) for name in CLASS_NAMES}


@cache
def differences() -> dict[str, tuple[str, ...]]:
    """What tells each class from its neighbours, by class name; empty for classes in no pair."""
    found: dict[str, list[str]] = {name: [] for name in CLASS_NAMES}
    for pair in _read_store().get("pairs", []):
        for name, phrases in pair["difference"].items():
            found[name].extend(phrases)
    return {name: tuple(dict.fromkeys(phrases)) for name, phrases in found.items()}


def store_phrases() -> list[str]:
    """Every phrase of the packaged prompt store, sorted, without repetition."""
    phrases = {phrase for group in attributes().values() for phrase in group}
    for pair in _read_store().get("pairs", []):
        phrases.update(pair["commonality"])
        phrases.update(phrase for group in pair["difference"].values() for phrase in group)
    return sorted(phrases)


def caption(rng: np.random.Generator, facts: ImageFacts, style: CaptionStyle) -> tuple[str, int]:
    """One caption of an image.

    Args:
        rng: source of the caption's chances.
        facts: what the image shows.
        style: how exact the caption is.

    Returns:
        The caption, lower case, and the label of the class it describes, right or wrong.
    """
    name = _described(rng, facts, style)
    word = name if rng.random() < style.fine_name else coarse_word(name)
    noun = _NOUNS[int(rng.choice(len(_NOUNS), p=_NOUN_SHARES))]
    if rng.random() < style.name_only:
        text = TEMPLATE.format(word) if rng.random() < 0.8 else f"{word} {noun}"
    elif rng.random() < style.attribute:
        text = _with_attribute(rng, facts, name, word, noun)
    else:
        text = _plain(rng, facts, name, word, noun)
    # Nothing is drawn for a style without full stops, so that its captions do not depend on this.
    stop = "." if style.full_stop and rng.random() < style.full_stop else ""
    return " ".join(text.split()) + stop, CLASS_NAMES.index(name)


def vocabulary_texts() -> list[str]:
    """Texts whose words the vocabulary must hold: every caption's, prompt's and template's."""
    sizes = [size for group in _SIZES.values() for size in group]
    frames = [
        TEMPLATE.format("medium"),
        "a blurry noisy bright low contrast close-up , in and on of with an image",
        "a good bad clean dark cropped sharp clear smooth rough picture rendering of many the",
        "itap art this is one my type kind looks like is not but rather than both show",
    ]
    words = [*CLASS_NAMES, *map(coarse_word, CLASS_NAMES), *_NOUNS, *sizes, *COLOURS, *ORIENTATIONS]
    return [*frames, *words, *store_phrases()]


def _read_store() -> dict[str, Any]:
    file = resources.files("capt_core.prompts") / "stores" / _STORE
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _described(rng: np.random.Generator, facts: ImageFacts, style: CaptionStyle) -> str:
    name = CLASS_NAMES[facts.class_id]
    overlaid = facts.neighbour_id is not None and facts.neighbour_weight > _VISIBLE_OVERLAY
    if overlaid and rng.random() < style.overlay_name:
        assert facts.neighbour_id is not None
        return CLASS_NAMES[facts.neighbour_id]
    if rng.random() < style.wrong_name:
        neighbours = NEIGHBOURS[name]
        return neighbours[0 if rng.random() < 0.7 else int(rng.integers(len(neighbours)))]
    return name


def _with_attribute(
    rng: np.random.Generator, facts: ImageFacts, name: str, word: str, noun: str
) -> str:
    phrases = attributes()[name]
    telling = differences()[name]
    if telling and rng.random() < 0.3:
        phrases = telling
    phrase = phrases[int(rng.integers(len(phrases)))]
    if word != name:
        phrase = _CLASS_NAME.sub(lambda found: coarse_word(found[0]), phrase)
    frames = (
        f"a {noun} with {phrase}",
        f"a {word} {noun} with {phrase}",
        f"a photo of a {word} {noun} with {phrase}",
        f"{facts.foreground} {noun} on {facts.background} with {phrase}",
        phrase,
    )
    return frames[int(rng.choice(len(frames), p=(0.3, 0.3, 0.15, 0.15, 0.1)))]


def _plain(rng: np.random.Generator, facts: ImageFacts, name: str, word: str, noun: str) -> str:
    size = _size(rng, facts)
    running = facts.orientation if name in _DIRECTED and rng.random() < 0.6 else ""
    quality = _quality(rng, facts)
    ink, paper = facts.foreground, facts.background
    frames = (
        f"a photo of a {word} {noun}",
        f"a {quality} photo of a {word} {noun}",
        f"a photo of a {size} {running} {ink} {word} {noun}",
        f"a {ink} and {paper} {word} {noun}",
        f"close-up of a {size} {word} {noun} , {ink} on {paper}",
        f"{running} {word} {noun} in {ink} and {paper}",
    )
    return frames[int(rng.choice(len(frames), p=(0.25, 0.1, 0.2, 0.2, 0.15, 0.1)))]


def _size(rng: np.random.Generator, facts: ImageFacts) -> str:
    words: tuple[str, ...]
    if facts.scale < SIZE_LIMITS[0]:
        words = _SIZES["small"]
    elif facts.scale > SIZE_LIMITS[1]:
        words = _SIZES["large"]
    else:
        words = ("", "medium")
    return words[int(rng.integers(len(words)))]


def _quality(rng: np.random.Generator, facts: ImageFacts) -> str:
    words = [
        word
        for word, applies in (
            ("blurry", facts.blur > 0.55),
            ("noisy", facts.noise > 0.025),
            ("low contrast", facts.contrast < 0.7),
            ("bright", facts.contrast > 0.9),
        )
        if applies
    ]
    return words[int(rng.integers(len(words)))] if words else ""
