"""CLIP's byte-pair encoding, cut down to the tokens the tiny model knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final

import torch

CONTEXT_LENGTH: Final = 32
PADDING: Final = 0
UNKNOWN: Final = 1
_RESERVED: Final = 2  # padding and unknown


class Tokenizer:
    """Texts to tokens of the tiny model.

    Known CLIP tokens are renumbered in ascending order behind padding and the unknown token;
    start and end come last, so that the end token has the highest number, which is where
    open_clip's text tower looks for the summary of a text.

    A full stop that it does not know is left out: published prompts end with one, and an unknown
    token in front of the end would stand for something that no caption of the model says.
    """

    def __init__(self, clip_ids: Sequence[int] | None = None) -> None:
        """Make a tokenizer.

        Args:
            clip_ids: the CLIP tokens it knows; by default those of the packaged vocabulary.
        """
        known = sorted(set(_packaged_ids() if clip_ids is None else clip_ids))
        self._number = {clip_id: i + _RESERVED for i, clip_id in enumerate(known)}
        self.start_token = len(known) + _RESERVED
        self.end_token = self.start_token + 1
        self.vocabulary_size = self.end_token + 1
        self.context_length = CONTEXT_LENGTH

    def __call__(self, texts: str | Sequence[str]) -> torch.LongTensor:
        """Tokens of the texts, int64 of shape (texts, context_length), padded with zeros.

        Raises:
            ValueError: a text needs more tokens than the context holds.
        """
        rows = [self._encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        tokens = torch.full((len(rows), self.context_length), PADDING, dtype=torch.long)
        for row, numbers in zip(tokens, rows, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
        return torch.LongTensor(tokens)

    def token_count(self, text: str) -> int:
        """Number of tokens the text needs, with start and end."""
        return len(self._read(text)) + 2

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; a question mark for each that the model has none for."""
        clip_ids = {number: clip_id for clip_id, number in self._number.items()}
        words = [
            _clip_tokenizer().decode([clip_ids[number]]) if number in clip_ids else "? "
            for number in ids
        ]
        return "".join(words).strip()

    def unknown_words(self, text: str) -> list[str]:
        """Words of the text that the model has no tokens for, in order, without repetition."""
        clip = _clip_tokenizer()
        words = dict.fromkeys(clip.pat.findall(clip.clean_fn(text)))
        return [word for word in words if not all(i in self._number for i in self._read(word))]

    def _read(self, text: str) -> list[int]:
        """CLIP tokens of a text, without full stops that are unknown."""
        found: list[int] = _clip_tokenizer().encode(text)
        stop = _full_stop()
        return found if stop in self._number else [i for i in found if i != stop]

    def _encode(self, text: str) -> list[int]:
        numbers = [self._number.get(i, UNKNOWN) for i in self._read(text)]
        if len(numbers) + 2 > self.context_length:
            raise ValueError(
                f"text of {len(numbers) + 2} tokens exceeds the context of "
                f"{self.context_length}: {text!r}"
            )
        return [self.start_token, *numbers, self.end_token]


def clip_ids(texts: Iterable[str]) -> list[int]:
    """CLIP tokens that occur in the texts, sorted."""
    clip = _clip_tokenizer()
    return sorted({clip_id for text in texts for clip_id in clip.encode(text)})


@cache
def _clip_tokenizer() -> Any:
    from capt_core.backbone.light_open_clip import open_clip

    return open_clip.SimpleTokenizer()


@cache
def _full_stop() -> int:
    (number,) = _clip_tokenizer().encode(".")
    return int(number)


@cache
def _packaged_ids() -> tuple[int, ...]:
    file = resources.files(__package__) / "vocabulary.json"
    return tuple(json.loads(file.read_text(encoding="utf-8"))["clip_ids"])
