"""Exact retrieval of the most similar images of a cell of the bank (eq. 8).

`nearest` is where candidates are compared with anchors: an approximate index would take its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import polars as pl
import torch

from capt_core.artifacts.features import Features
from capt_core.evaluation.predictions import ranked_classes

_HELD = 1 << 28  # bytes of features of anchors, or of candidates, that are in memory at once
_ANCHORS = 8192  # rows of a matrix product


class Cells(Protocol):
    """Images that may represent a pair."""

    @property
    def samples(self) -> np.ndarray:
        """All of them."""

    def candidates(self, pseudo_label: int, paired_class: int, source: int) -> np.ndarray:
        """Those for a pair, from one source."""


@dataclass(frozen=True)
class Asked:
    """The P pairs that images are chosen for.

    Attributes:
        anchors: sample ids [P].
        pseudo: pseudo-labels of the anchors, [P].
        paired: classes of the pairs, [P].
    """

    anchors: np.ndarray
    pseudo: np.ndarray
    paired: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """What represents each of P pairs, up to R images, the first found first.

    Attributes:
        sample: ids [P, R]; -1 where there is none.
        cosine: to the anchor, [P, R].
        source: number of the source, [P, R]; -1 where there is none.
        found: how many there are, [P].
    """

    sample: np.ndarray
    cosine: np.ndarray
    source: np.ndarray
    found: np.ndarray

    @staticmethod
    def none(pairs: int, count: int) -> Chosen:
        """Nothing chosen yet for some pairs, up to `count` each."""
        return Chosen(
            np.full((pairs, count), -1, dtype=np.int64),
            np.zeros((pairs, count)),
            np.full((pairs, count), -1, dtype=np.int8),
            np.zeros(pairs, dtype=np.int64),
        )

    def add(self, pair: int, sample: int, source: int, cosine: float = 0.0) -> None:
        """One more image for a pair."""
        place = pair, int(self.found[pair])
        self.sample[place], self.cosine[place], self.source[place] = sample, cosine, source
        self.found[pair] += 1


def most_similar(
    anchor: torch.Tensor, candidates: torch.Tensor, count: int = 1
) -> list[tuple[int, float]]:
    """Eq. 8: the candidates with the highest cosine to the anchor, lowest index on ties.

    Args:
        anchor: feature [d], unit length.
        candidates: features [n, d], unit length.
        count: how many; all if there are fewer.

    Returns:
        Index and cosine of each, the most similar first.
    """
    cosines = candidates @ anchor
    order = cosines.argsort(descending=True, stable=True)[:count].tolist()
    return [(index, float(cosines[index])) for index in order]


def nearest(
    anchors: torch.Tensor,
    candidates: torch.Tensor,
    barred: tuple[np.ndarray, np.ndarray],
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 8 of many anchors: the candidates with the highest cosines, lowest index on ties.

    Args:
        anchors: features [m, d], unit length.
        candidates: features [n, d], unit length.
        barred: anchors [b] and the candidates [b] that they may not get; their cosine is -inf.
        count: how many; all if there are fewer.

    Returns:
        Indices and cosines [m, min(count, n)], the most similar first.
    """
    # Anchors are many, candidates often some tens: this way round a product takes a fifth less.
    cosines = (candidates @ anchors.T).T.contiguous()
    cosines.numpy()[barred] = -np.inf
    index = ranked_classes(cosines, count)
    return index.numpy(), cosines.gather(1, index).double().numpy()


def retrieve_each(
    chosen: Chosen, asked: Asked, cells: Cells, sources: Sequence[int], features: Features
) -> None:
    """`retrieve`, pair by pair; all features that are needed are in memory at once."""
    needed = np.unique(np.concatenate([asked.anchors, cells.samples]))
    held = features.rows(pl.Series(needed))
    count = chosen.sample.shape[1]
    columns = (asked.anchors.tolist(), asked.pseudo.tolist(), asked.paired.tolist())
    for pair, (anchor, label, other) in enumerate(zip(*columns, strict=True)):
        own = held[int(np.searchsorted(needed, anchor))]
        for source in sources:
            found = int(chosen.found[pair])
            if found == count:
                break
            samples = cells.candidates(label, other, source)
            rest = samples[(samples != anchor) & ~np.isin(samples, chosen.sample[pair, :found])]
            candidates = held[torch.from_numpy(np.searchsorted(needed, rest))]
            for index, cosine in most_similar(own, candidates, count - found):
                chosen.add(pair, int(rest[index]), source, cosine)


def retrieve(
    chosen: Chosen, asked: Asked, cells: Cells, sources: Sequence[int], features: Features
) -> None:
    """Choose from the bank for P pairs, one matrix product for all pairs of a cell.

    Args:
        chosen: what has been chosen; is added to.
        asked: the pairs.
        cells: of the bank.
        sources: of `BankCells.candidates`, in order.
        features: by sample id.
    """
    place = np.full(max(asked.anchors.max(initial=0), cells.samples.max(initial=0)) + 2, -1)
    for source in sources:
        pairs = np.flatnonzero(chosen.found < chosen.sample.shape[1])
        # Side by side stand the pairs whose candidates are read together.
        keys = (asked.pseudo, asked.paired) if source == 1 else (asked.paired, asked.pseudo)
        pairs = pairs[np.lexsort([key[pairs] for key in keys])]
        for part in _loads(pairs, asked, cells, source, features.width):
            _fill(chosen, part, asked.anchors, source, features, place)


@dataclass(frozen=True)
class _Cell:
    """Pairs [m] with the same candidates [n]."""

    pairs: np.ndarray
    candidates: np.ndarray


def _groups(pseudo: np.ndarray, paired: np.ndarray) -> list[slice]:
    """Runs of equal (pseudo-label, class), none of them longer than a product takes rows."""
    if not len(pseudo):
        return []
    change = (pseudo[1:] != pseudo[:-1]) | (paired[1:] != paired[:-1])
    edges = [0, *(np.flatnonzero(change) + 1).tolist(), len(pseudo)]
    return [
        slice(start, min(start + _ANCHORS, end))
        for begin, end in pairwise(edges)
        for start in range(begin, end, _ANCHORS)
    ]


def _loads(
    pairs: np.ndarray, asked: Asked, cells: Cells, source: int, width: int
) -> Iterator[list[_Cell]]:
    """Cells in the order of `pairs`, as many at a time as have their features in memory."""
    most = max(_HELD // (4 * width), _ANCHORS)
    load, rows, known = list[_Cell](), 0, 0
    for group in _groups(asked.pseudo[pairs], asked.paired[pairs]):
        members = pairs[group]
        first = members[0]
        candidates = cells.candidates(int(asked.pseudo[first]), int(asked.paired[first]), source)
        if not len(candidates):
            continue
        if load and (rows + len(members) > most or known + len(candidates) > most):
            yield load
            load, rows, known = [], 0, 0
        load.append(_Cell(members, candidates))
        rows += len(members)
        known += len(candidates)
    if load:
        yield load


def _fill(
    chosen: Chosen,
    load: Sequence[_Cell],
    anchors: np.ndarray,
    source: int,
    features: Features,
    place: np.ndarray,
) -> None:
    """Choose for the pairs of some cells; `place` holds -1 for every sample, and once more."""
    pairs = np.concatenate([cell.pairs for cell in load])
    own, own_places = _read(features, [anchors[cell.pairs] for cell in load])
    others, other_places = _read(features, [cell.candidates for cell in load])
    count, taken = chosen.sample.shape[1], int(chosen.found[pairs].max())
    found, cosines = np.full((len(pairs), count), -1), np.full((len(pairs), count), -np.inf)
    start = 0
    for cell, mine, known in zip(load, own_places, other_places, strict=True):
        place[cell.candidates] = np.arange(len(cell.candidates))
        out = place[np.vstack([anchors[cell.pairs], *chosen.sample[cell.pairs, :taken].T])]
        place[cell.candidates] = -1
        row, barred = np.nonzero(out >= 0)[1], out[out >= 0]
        index, values = nearest(
            own.index_select(0, mine), others.index_select(0, known), (row, barred), count
        )
        part = slice(start, start + len(index)), slice(index.shape[1])
        found[part], cosines[part] = cell.candidates[index], values
        start += len(index)
    for column in range(count):
        free = np.isfinite(cosines[:, column]) & (chosen.found[pairs] < count)
        filled = pairs[free]
        spot = filled, chosen.found[filled]
        chosen.sample[spot], chosen.cosine[spot] = found[free, column], cosines[free, column]
        chosen.source[spot] = source
        chosen.found[filled] += 1


def _read(
    features: Features, ids: Sequence[np.ndarray]
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Features of samples, each once, and where among them those of each list are."""
    together = np.concatenate(ids)
    found = np.unique(together)
    places = torch.from_numpy(np.searchsorted(found, together))
    return features.rows(pl.Series(found)), torch.split(places, [len(each) for each in ids])
