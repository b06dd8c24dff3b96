"""The JSON store of written prompts: commonality and difference prompts of class pairs."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from capt_core.errors import CaptError, cut, reason, shown
from capt_core.text import normal, unfit_character
from capt_core.text_file import read_json


def _printable(text: str) -> str:
    if unfit := unfit_character(text):
        raise ValueError(f"holds the character {unfit}, which no prompt or name can have")
    return text


Line = Annotated[str, AfterValidator(_printable)]
Text = Annotated[Line, Field(pattern=r"\S")]
Name = Annotated[Text, AfterValidator(normal)]


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassEntry(_Written):
    """What is visible in one class."""

    attributes: list[Text] = Field(min_length=1)


class PairEntry(_Written):
    """What was written about an unordered pair of classes.

    Attributes:
        classes: the two class names.
        reason: why an image model mixes them up.
        commonality: prompts that hold for both; may be left out.
        difference: class name to prompts that distinguish it from the other.
    """

    classes: tuple[Name, Name] = Field(strict=False)  # JSON has lists
    reason: Line
    commonality: Annotated[list[Text], Field(min_length=1)] = []
    difference: dict[Name, Annotated[list[Text], Field(min_length=1)]]

    @model_validator(mode="after")
    def _both_directions(self) -> PairEntry:
        if set(self.difference) != set(self.classes) or len(set(self.classes)) != 2:
            raise ValueError("difference must have one entry for each of two classes")
        return self


class ClassPrompts(_Written):
    """Prompts of one class that were not written about one partner.

    Attributes:
        commonality: what the class shares with others.
        difference: what distinguishes it from others.
        by_attribute: what is said of it by named attribute, such as `colour`: phrases that stand
            behind the class's name, or sentences that name it.
    """

    commonality: list[Text] = []
    difference: list[Text] = []
    by_attribute: dict[Name, Annotated[list[Text], Field(min_length=1)]] = {}


class PromptStore(_Written):
    """The written prompts of one data set.

    `class_prompts` may be left out; they serve pairs that `pairs` says nothing about.
    """

    schema_version: int
    dataset: str
    domain: Line
    source: Line
    classes: dict[Name, ClassEntry]
    pairs: list[PairEntry]
    class_prompts: dict[Name, ClassPrompts] = {}

    @field_validator("pairs")
    @classmethod
    def _each_pair_once(cls, pairs: list[PairEntry]) -> list[PairEntry]:
        seen: set[frozenset[str]] = set()
        for entry in pairs:
            if frozenset(entry.classes) in seen:
                raise ValueError(f"the pair {cut('/'.join(entry.classes))} is written twice")
            seen.add(frozenset(entry.classes))
        return pairs

    def by_pair(self) -> dict[frozenset[str], PairEntry]:
        return {frozenset(entry.classes): entry for entry in self.pairs}


SCHEMA_VERSION = 1


def store_text(store: PromptStore) -> str:
    """A store as the file's text: one phrase a line, without what is empty in it."""
    content = store.model_dump(mode="json")
    content["pairs"] = [
        entry.model_dump(mode="json", exclude_defaults=True) for entry in store.pairs
    ]
    content["class_prompts"] = {
        name: entry.model_dump(mode="json", exclude_defaults=True)
        for name, entry in store.class_prompts.items()
    }
    if not store.class_prompts:
        del content["class_prompts"]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def shipped_store(dataset: str, edition: str = "") -> Path | None:
    """File of the store that the package ships for a data set, if it ships one.

    Args:
        dataset: its name.
        edition: of a store that was written otherwise; empty for the usual one.
    """
    name = f"{dataset}.{edition}.json" if edition else f"{dataset}.json"
    with resources.as_file(resources.files("capt_core.prompts") / "stores") as folder:
        path = folder / name
    return path if path.is_file() else None


def load_store(path: Path, dataset: str | None = None) -> PromptStore:
    """Read and check a store; one written for another data set than the given is refused.

    Raises:
        CaptError: as `read_json`, or not of the store's form; the message says where.
    """
    document = read_json(path, "correct it or name another file in generate_prompts.store")
    try:
        store = PromptStore.model_validate(document)
    except ValidationError as error:
        problem = error.errors()[0]
        where = cut(".".join(str(part) for part in problem["loc"])) or "top level"
        raise CaptError(f"{path}: {where}: {_explain(problem)}") from error
    if store.schema_version != SCHEMA_VERSION:
        version = shown(store.schema_version)
        raise CaptError(f"{path}: schema_version {version}, this program reads {SCHEMA_VERSION}")
    if dataset is not None and store.dataset != dataset:
        raise CaptError(
            f"{path}: written for data set {shown(store.dataset)}, not {shown(dataset)}"
        )
    return store


def _explain(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown key; remove it"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "value_error":
        return reason(problem["ctx"]["error"])
    message = problem["msg"].partition(" or instance of")[0].removeprefix("Input ")
    return f"{message[0].lower()}{message[1:]}, found {shown(problem['input'])}"
