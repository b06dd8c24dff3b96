"""The weights of a model among whatever tensors a file holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from capt_core.backbone.archive import StoredTensor
from capt_core.backbone.hugging_face import from_hugging_face
from capt_core.backbone.named import Named

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch's own wrappers of modules put into names, at any place."""

OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")
"""Facts of the model that OpenAI keeps beside its weights."""


@dataclass(frozen=True)
class Match:
    """What a file holds for a model.

    Attributes:
        found: tensors by the model's names.
        missing: the model's names without a tensor.
        unknown: names beside those found that the model does not have.
        rivals: the prefixes, where the file has several sets that match and are not the same.
        openai: the file has OpenAI's extra entries.
        hugging_face: the names are those of transformers.
    """

    found: Mapping[str, StoredTensor]
    missing: list[str]
    unknown: list[str]
    rivals: list[str]
    openai: bool
    hugging_face: bool


def match_weights(tensors: Iterable[Named], expected: Iterable[str]) -> Match:
    """Find a model's weights under the common prefix that makes most names known to the model.

    Args:
        tensors: of a file.
        expected: names of the model's state dict.
    """
    expected = list(expected)
    wrappers = WRAPPERS - {part for name in expected for part in name.split(".")}
    stripped = [
        Named(
            ".".join(part for part in each.path.split(".") if part not in wrappers),
            each.group,
            each.tensor,
        )
        for each in tensors
    ]
    readings = [
        (each, names, _prefixes(each, names))
        for each in (stripped, from_hugging_face(stripped))
        for names in _spellings(expected)
    ]
    chosen, names, prefixes = max(readings, key=lambda one: max(one[2].values(), default=0))
    most = max(prefixes.values(), default=0)
    best = sorted((prefix for prefix, n in prefixes.items() if n == most), key=len)
    sets = [_below(prefix, chosen, names) for prefix in best or [""]]
    found, beside = sets[0]
    same = all(other.keys() == found.keys() for other, _ in sets) and all(
        other[name] is tensor for other, _ in sets for name, tensor in found.items()
    )
    return Match(
        found=found,
        missing=[name for name in expected if name not in found],
        unknown=[name for name in beside if not _needless(name)],
        rivals=[] if same else best,
        openai=set(OPENAI_ENTRIES) <= set(beside),
        hugging_face=chosen is not stripped,
    )


def _below(
    prefix: str, tensors: Iterable[Named], names: Mapping[str, str]
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Tensors by the model's names behind a prefix, and other names in the same mappings."""
    found: dict[str, StoredTensor] = {}
    groups: set[str] = set()
    others: list[Named] = []
    for each in tensors:
        name = each.path.removeprefix(prefix)
        if each.path.startswith(prefix) and name in names:
            found.setdefault(names[name], each.tensor)
            groups.add(each.group)
        elif each.path.startswith(prefix):
            others.append(Named(name, each.group, each.tensor))
    return found, [each.path for each in others if each.group in groups]


def _needless(name: str) -> bool:
    """Whether an unknown tensor is none of the weights: facts and what a model makes by itself.

    torch's averaged models count in ``n_averaged``.
    """
    last = name.split(".")[-1]
    return name in OPENAI_ENTRIES or last in ("position_ids", "attn_mask", "n_averaged")


def _prefixes(tensors: Iterable[Named], names: Mapping[str, str]) -> Counter[str]:
    """How many known names stand behind each prefix."""
    counts: Counter[str] = Counter()
    for each in tensors:
        starts = [0, *(mark.end() for mark in re.finditer(r"\.", each.path))]
        counts.update(each.path[:start] for start in starts if each.path[start:] in names)
    return counts


def _spellings(expected: Iterable[str]) -> list[dict[str, str]]:
    """The model's names as they are, and with its text tower inside or outside of ``text``."""
    own = {name: name for name in expected}
    inner = {name.removeprefix("text."): name for name in expected}
    outer = {
        name if name.startswith(("visual.", "logit_", "text.")) else f"text.{name}": name
        for name in expected
    }
    return [own, inner, outer]
