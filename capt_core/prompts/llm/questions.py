"""The questions to the language model, the form of its answers, and the key of both."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from capt_core.prompts.llm.instructions import Step

PROVIDER: Final = "anthropic"


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AttributesAnswer(_Answer):
    """Step 1."""

    class_name: str
    attributes: list[str] = Field(description="4 to 8 short phrases, most reliable first")


class ReasonAnswer(_Answer):
    """Step 2."""

    reason: str = Field(description="one or two sentences")


class ClassPrompts(_Answer):
    """Difference prompts of one direction."""

    class_name: str = Field(description="the class that these prompts are for")
    prompts: list[str]


class PromptsAnswer(_Answer):
    """Step 3."""

    commonality: list[str] = Field(description="each names both classes")
    difference: list[ClassPrompts] = Field(description="one entry per class")


class AttributePhrases(_Answer):
    """What is said of one attribute."""

    attribute: str = Field(description="as it was asked for")
    phrases: list[str]


class DescriptionsAnswer(_Answer):
    """The step that describes a class alone."""

    class_name: str
    attributes: list[AttributePhrases] = Field(description="one entry per attribute asked for")


FORMS: Final[Mapping[Step, type[_Answer]]] = {
    "attributes": AttributesAnswer,
    "reason": ReasonAnswer,
    "prompts": PromptsAnswer,
    "descriptions": DescriptionsAnswer,
}


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Question:
    """One question to the language model; equal questions have equal keys and are asked once.

    Attributes:
        step: `attributes` (one class), `reason` or `prompts` (a pair).
        model: the language model.
        instructions: version of the instruction texts.
        domain: what the images of the data set show.
        classes: class names as the data set has them, sorted.
        prompts: prompts per kind and direction; 0 in the steps that write none.
        provider: the service. A live call and a batch are the same service.
    """

    step: Step
    model: str
    instructions: str
    domain: str
    classes: tuple[str, ...]
    prompts: int = 0
    provider: str = PROVIDER

    @property
    def key(self) -> str:
        """SHA-256 over all fields in canonical JSON, 64 hex digits."""
        return checksum(asdict(self))

    @property
    def title(self) -> str:
        """The step and its classes, for messages."""
        return f"{self.step} of {'/'.join(self.classes)}"

    @property
    def file_name(self) -> str:
        """Readable name of the answer's file, made unique by part of the key."""
        parts = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in self.classes]
        words = "--".join(part[:40] for part in parts)
        return f"{words.strip('-') or 'class'}-{self.key[:16]}.json"


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class DescriptionsQuestion(Question):
    """What one class looks like, attribute by attribute.

    A form of its own, since a further field of `Question` would change every key.

    Attributes:
        attributes: that phrases are asked for, `prompts` of each; the same for every class.
    """

    attributes: tuple[str, ...] = field(kw_only=True)


AnyQuestion = Question | DescriptionsQuestion


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 over a value in canonical JSON, 64 hex digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def medium_words(template: str, domain: str) -> list[str]:
    """Words that say what kind of image a prompt describes, in singular, in order.

    Taken from the data set's template and its domain; "a photo of a {}, a type of pet." with the
    domain "cat and dog breeds" gives photo, pet, cat, dog, breed.
    """
    found = re.findall(r"[a-z]+", f"{template.replace('{}', ' ')} {domain}".lower())
    words = dict.fromkeys(_singular(word) for word in found)
    return [word for word in words if word not in _NO_MEDIUM and len(word) > 2]


def _singular(word: str) -> str:
    if word.startswith("photo"):
        return "photo"
    for ending in ("shes", "ches", "sses"):
        if word.endswith(ending):
            return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


_NO_MEDIUM: Final = frozenset(
    {"the", "and", "for", "with", "type", "kind", "centered", "doing"}
    | {"land", "cover", "human", "video", "person", "synthetic", "model", "variant"}
)
