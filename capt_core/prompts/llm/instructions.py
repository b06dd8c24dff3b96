"""The instruction texts: files that a user can read and replace, and their version."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final, Literal

from capt_core.errors import CaptError
from capt_core.text_file import read_text

Step = Literal["attributes", "reason", "prompts", "descriptions"]
STEPS: Final[tuple[Step, ...]] = ("attributes", "reason", "prompts")
"""Those that lead to the prompts of a pair, in order."""
DESCRIPTIONS: Final = "descriptions"
"""The step that describes a class alone, by attribute."""
EVERY_STEP: Final[tuple[Step, ...]] = (*STEPS, DESCRIPTIONS)

_COMMON = ("system", "correction")
_PAIR = {"domain", "class_a", "class_b", "attributes_a", "attributes_b"}
_PLACEHOLDERS: Mapping[str, frozenset[str]] = {
    "system": frozenset(),
    "correction": frozenset({"problems"}),
    "attributes": frozenset({"domain", "class_a"}),
    "reason": frozenset({*_PAIR, "count_ab", "count_ba"}),
    "prompts": frozenset({*_PAIR, "reason", "count", "words", "medium", "photo_a"}),
    "descriptions": frozenset({"domain", "class_a", "attributes", "count", "words", "photo_a"}),
}


@dataclass(frozen=True)
class Instructions:
    """Texts by name: `system`, `correction`, and one per step."""

    texts: Mapping[str, str]

    @property
    def system(self) -> str:
        """What every question of every step begins with; the part that is cached by the service."""
        return self.texts["system"]

    def version(self, step: Step) -> str:
        """First 16 hex digits of SHA-256 over all texts that bear on the answers of a step.

        A later step of pairs builds on the answers of the earlier ones, so their texts count too.
        """
        alone = step == DESCRIPTIONS
        names = (*_COMMON, *([step] if alone else STEPS[: STEPS.index(step) + 1]))
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{name}\0{self.texts[name]}\0".encode())
        return digest.hexdigest()[:16]

    def fill(self, name: str, values: Mapping[str, object]) -> str:
        """A text with its placeholders replaced."""
        return Template(self.texts[name]).substitute({k: str(v) for k, v in values.items()})


def load_instructions(folder: Path | None = None) -> Instructions:
    """The packaged texts, or those of a folder; what the folder lacks comes from the package.

    Raises:
        CaptError: the folder is not there, holds none of the texts, or a text is empty, unreadable
            or has a placeholder that is not known.
    """
    texts = {name: _packaged(name) for name in _PLACEHOLDERS}
    if folder is not None:
        own = {name: folder / f"{name}.md" for name in texts if (folder / f"{name}.md").is_file()}
        if not own:
            wanted = ", ".join(f"{name}.md" for name in texts)
            raise CaptError(f"generate_prompts.instructions: {folder} holds none of {wanted}")
        for name, path in own.items():
            texts[name] = _plain(read_text(path))
            _check(name, texts[name], path)
    return Instructions(texts)


def _packaged(name: str) -> str:
    file = resources.files("capt_core.prompts.llm") / "texts" / f"{name}.md"
    return _plain(file.read_text(encoding="utf-8"))


def _plain(text: str) -> str:
    """Line ends and trailing blanks, which editors and git change, do not make another version."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def _check(name: str, text: str, path: Path) -> None:
    if not text:
        raise CaptError(f"{path}: empty; write the instruction or remove the file")
    template = Template(text)
    if not template.is_valid():
        raise CaptError(f"{path}: a $ that begins no placeholder; write $$ for a dollar sign")
    unknown = set(template.get_identifiers()) - _PLACEHOLDERS[name]
    if unknown:
        known = ", ".join(f"${word}" for word in sorted(_PLACEHOLDERS[name])) or "none"
        raise CaptError(f"{path}: unknown placeholder ${min(unknown)[:60]}; known: {known}")
