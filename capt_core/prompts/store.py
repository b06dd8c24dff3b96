"""The JSON store of written prompts: commonality and difference prompts of class pairs."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from capt_core.errors import CaptError

Text = Annotated[str, Field(pattern=r"\S")]


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassEntry(_Written):
    """What is visible in one class."""

    attributes: list[Text] = Field(min_length=1)


class PairEntry(_Written):
    """What was written about an unordered pair of classes.

    Attributes:
        classes: the two class names.
        reason: why an image model mixes them up.
        commonality: prompts that hold for both.
        difference: class name to prompts that distinguish it from the other.
    """

    classes: tuple[str, str]
    reason: str
    commonality: list[Text] = Field(min_length=1)
    difference: dict[str, Annotated[list[Text], Field(min_length=1)]]

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
    """

    commonality: list[Text] = []
    difference: list[Text] = []


class PromptStore(_Written):
    """The written prompts of one data set.

    `class_prompts` may be left out; they serve pairs that `pairs` says nothing about.
    """

    schema_version: int
    dataset: str
    domain: str
    source: str
    classes: dict[str, ClassEntry]
    pairs: list[PairEntry]
    class_prompts: dict[str, ClassPrompts] = {}

    @field_validator("pairs")
    @classmethod
    def _each_pair_once(cls, pairs: list[PairEntry]) -> list[PairEntry]:
        seen: set[frozenset[str]] = set()
        for entry in pairs:
            if frozenset(entry.classes) in seen:
                raise ValueError(f"the pair {'/'.join(entry.classes)} is written twice")
            seen.add(frozenset(entry.classes))
        return pairs

    def by_pair(self) -> dict[frozenset[str], PairEntry]:
        return {frozenset(entry.classes): entry for entry in self.pairs}


SCHEMA_VERSION = 1


def store_text(store: PromptStore) -> str:
    """A store as the file's text: one phrase a line, without an empty `class_prompts`."""
    content = store.model_dump(mode="json")
    if not store.class_prompts:
        del content["class_prompts"]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """The JSON of a file in UTF-8, with or without a byte order mark.

    People edit these files: what a lenient reader would silently drop is an error.

    Raises:
        CaptError: it cannot be read, is no UTF-8 or no JSON, holds escapes that are no characters,
            or has a key twice, of which only the last would be kept.
    """
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                repeated.append(key)
            found[key] = value
        return found

    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
        json.dumps(document, ensure_ascii=False).encode()
    except OSError as error:
        raise CaptError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CaptError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except UnicodeEncodeError as error:
        raise CaptError(f"{path}: holds escapes that are no characters (\\ud800...)") from error
    except RecursionError as error:
        raise CaptError(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise CaptError(f"{path}: not valid JSON ({error})") from error
    if repeated:
        raise CaptError(f"{path}: the key {min(repeated)!r} occurs twice; only one would be kept")
    return document


def shipped_store(dataset: str) -> Path | None:
    """File of the store that the package ships for a data set, if it ships one."""
    with resources.as_file(resources.files("capt_core.prompts") / "stores") as folder:
        path = folder / f"{dataset}.json"
    return path if path.is_file() else None


def load_store(path: Path, dataset: str | None = None) -> PromptStore:
    """Read and check a store; one written for another data set than the given is refused.

    Raises:
        CaptError: as `read_json`, or not of the store's form; the message says where.
    """
    if not path.is_file():
        what = "Is a directory" if path.is_dir() else "No such file"
        raise CaptError(f"generate_prompts.store: {path}: {what}")
    try:
        store = PromptStore.model_validate(read_json(path))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "top level"
        raise CaptError(f"{path}: {where}: {problem['msg']}") from error
    if store.schema_version != SCHEMA_VERSION:
        raise CaptError(
            f"{path}: schema_version {store.schema_version}, this program reads {SCHEMA_VERSION}"
        )
    if dataset is not None and store.dataset != dataset:
        raise CaptError(f"{path}: written for data set {store.dataset!r}, not {dataset!r}")
    return store
