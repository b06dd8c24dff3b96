"""The classes a checkpoint was trained on, read from the token embeddings that it keeps.

Dassl's prompt learners keep the embeddings of each class's text in front of the context
(``token_prefix``, the start token) and behind it (``token_suffix``: what remains of the words, the
name, the full stop, the end token, padding). The nearest embedding of the backbone is the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from capt_core.backbone.encoding import check_lengths
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError, shown
from capt_core.methods.importing.checkpoint import Checkpoint
from capt_core.methods.prompting.start import texts_with_context
from capt_core.methods.prompting.text import token_embedding

_APART = 0.02  # relative; half precision and averages over epochs round the embeddings
_AT_ONCE = 256


@dataclass(frozen=True)
class TrainedTexts:
    """Texts that a checkpoint was trained with, by row of its class-wise tensors.

    Attributes:
        ids: tokens behind the context, [R, T].
    """

    ids: torch.Tensor

    def beginning(self, rest: Sequence[int]) -> bool:
        """Whether all texts begin with some tokens."""
        return all(row[: len(rest)] == list(rest) for row in self.ids.tolist())

    def words_before(self, names: Sequence[str], backbone: Backbone) -> list[int] | None:
        """The tokens that all texts have before a class name and full stop.

        None if not every text ends with one of some names (as they stand in prompts), or they have
        different ones before it.

        Raises:
            CaptError: a name is too long for the backbone.
        """
        alone = [f"{name}." for name in names]
        check_lengths(alone, backbone)
        tokens = backbone.tokenizer(alone)[:, 1:].tolist()
        ends = sorted((row[: row.index(max(row)) + 1] for row in tokens), key=len, reverse=True)
        before: set[tuple[int, ...]] = set()
        for row in self.ids.tolist():
            text = row[: row.index(max(row)) + 1]
            end = next((each for each in ends if text[-len(each) :] == each), None)
            if end is None:
                return None
            before.add(tuple(text[: -len(end)]))
        return list(before.pop()) if len(before) == 1 else None

    def classes(
        self, names: Sequence[str], words: str | None, length: int, backbone: Backbone
    ) -> list[int | None]:
        """Which of some class names each row stands for; None where it is none of them.

        Args:
            names: as they stand in prompts.
            words: in front of the name, of which a context replaces the first; None for none.
            length: n, vectors of the context.
            backbone: whose tokenizer reads the texts.

        Raises:
            CaptError: a name is too long for the backbone behind this context.
        """
        texts = texts_with_context(names, words, length)
        check_lengths(texts, backbone)
        expected = backbone.tokenizer(texts)[:, 1 + length :].tolist()
        places: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(expected):
            places.setdefault(tuple(row), []).append(place)
        found: list[int | None] = []
        for row in self.ids.tolist():
            same = places.get(tuple(row), [])
            # Names of which the tokenizer knows nothing read alike; they are taken in turn.
            found.append(same.pop(0) if same else None)
        return found

    def text(self, row: int, backbone: Backbone, skip: int = 0) -> str:
        """The text of a row behind the context and further tokens, for messages."""
        ids = self.ids[row].tolist()
        end = ids.index(max(ids))  # the end token has the highest number
        return backbone.tokenizer.decode(ids[skip:end])


def left_over(words: str | None, length: int, backbone: Backbone) -> list[int] | None:
    """Tokens of the words that a context of `length` vectors does not replace.

    None if there are fewer words than vectors.
    """
    if words is None:
        return []
    count = backbone.tokenizer.token_count(words) - 2
    if count < length or count + 2 > backbone.tokenizer.context_length:
        return None
    rest: list[int] = backbone.tokenizer([words])[0, 1 + length : 1 + count].tolist()
    return rest


def trained_texts(
    checkpoint: Checkpoint, prefix: str, length: int, backbone: Backbone
) -> TrainedTexts | None:
    """The texts that a checkpoint was trained with; None if it does not keep them.

    Args:
        checkpoint: open.
        prefix: of the names of its prompt learner.
        length: n, vectors of its context.
        backbone: that it should have been trained on.

    Raises:
        CaptError: the embeddings are not the backbone's, or of another length of text.
    """
    names = f"{prefix}token_prefix", f"{prefix}token_suffix"
    if not any(name in checkpoint for name in names):
        return None
    width = token_embedding(backbone.clip).embedding_dim
    behind = backbone.tokenizer.context_length - 1 - length
    start = checkpoint.take(names[0], None, 1, width)
    rest = checkpoint.take(names[1], len(start), behind, width)
    ids = nearest_tokens(torch.cat([start, rest], dim=1), token_embedding(backbone.clip).weight)
    first = int(backbone.tokenizer(["a"])[0, 0])
    if ids is None or bool((ids[:, 0] != first).any()):
        raise CaptError(
            f"{checkpoint.where}: its token embeddings are not those of {backbone.identity}; set "
            "backbone.name and backbone.checkpoint to those that it was trained on"
        )
    return TrainedTexts(ids[:, 1:])


@torch.no_grad()
def nearest_tokens(embedded: torch.Tensor, table: torch.Tensor) -> torch.Tensor | None:
    """Tokens whose embeddings some vectors are, up to rounding.

    Args:
        embedded: [R, T, W].
        table: embeddings, [V, W].

    Returns:
        Ids [R, T]; None if a vector is none of them.
    """
    table = table.detach().to("cpu", embedded.dtype)
    distinct, places = torch.unique(embedded.flatten(0, 1), dim=0, return_inverse=True)
    squares = table.square().sum(dim=1)
    found = []
    for start in range(0, len(distinct), _AT_ONCE):
        part = distinct[start : start + _AT_ONCE]
        ids = (squares - 2 * part @ table.T).argmin(dim=1)
        if bool(((part - table[ids]).norm(dim=1) > _APART * table[ids].norm(dim=1)).any()):
            return None
        found.append(ids)
    return torch.cat(found)[places].reshape(embedded.shape[:2])


def examples(texts: TrainedTexts, rows: Sequence[int], backbone: Backbone, skip: int = 0) -> str:
    """Up to three of the texts, quoted, without their first tokens."""
    listed = ", ".join(shown(texts.text(row, backbone, skip), 40) for row in rows[:3])
    return listed + (", ..." if len(rows) > 3 else "")
