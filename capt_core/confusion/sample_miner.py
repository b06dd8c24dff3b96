"""SAM, retrieval: the misclassified image that represents a confusion best."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from capt_core import params
from capt_core.artifacts.features import Features
from capt_core.artifacts.schemas import REPRESENTATIVES
from capt_core.artifacts.table_blocks import spans
from capt_core.confusion.bank_cells import BankCells
from capt_core.confusion.retrieval import Asked, Chosen, retrieve, retrieve_each
from capt_core.confusion.training_cells import TrainingCells
from capt_core.data.dataset import Dataset

SOURCES = (
    *("confused_with_anchor", "confused_class", "anchor_class_confused"),
    *("random_train", "zone", "nearest"),
)
"""Where representatives come from: the bank, the best source first, or training images."""

FEW_PAIRS = 20_000
FEW_IMAGES = 1 << 17
_BLOCK_PAIRS = 65_536
_FROM_BANK = range(3)
_RANDOM = SOURCES.index("random_train")


class WholeBank:
    """Eq. 8 over the whole bank, whatever an image was taken for.

    Args:
        bank: the table `confusion_bank`.
        features: of all samples of the data set, by sample id.
        class_ids: B classes, in the order of the columns.
    """

    def __init__(self, bank: pl.DataFrame, features: Features, class_ids: Sequence[int]) -> None:
        members = bank.select("true_class_id", "sample_id").unique().sort("sample_id")
        self._members = [members.filter(true_class_id=each)["sample_id"] for each in class_ids]
        self._features = features

    def similarities(self, sample_ids: pl.Series) -> torch.Tensor:
        """Cosine of the most similar misclassified image of each class.

        Args:
            sample_ids: N anchors; an anchor is never compared with itself.

        Returns:
            Cosines [N, B] in fp64; -inf where the bank holds no other image of the class.
        """
        shape = len(sample_ids), len(self._members)
        found = torch.full(shape, float("-inf"), dtype=torch.float64)
        anchors, ids = self._features.rows(sample_ids), sample_ids.to_numpy()[:, None]
        for column, members in enumerate(self._members):
            if members.is_empty():
                continue
            cosines = (anchors @ self._features.rows(members).T).double()
            cosines[torch.from_numpy(ids == members.to_numpy())] = float("-inf")
            found[:, column] = cosines.amax(dim=1)
        return found


@dataclass(frozen=True)
class Representatives:
    """Most representative confusing samples of pairs.

    Attributes:
        dataset: samples and classes.
        pairs: rows of the table `pairs`, P of them.
        chosen: for each pair.
    """

    dataset: Dataset
    pairs: pl.DataFrame
    chosen: Chosen

    def __len__(self) -> int:
        return int(self.chosen.found.sum())

    def counts(self) -> list[tuple[str, int]]:
        """Sources by name, and how many representatives are from each."""
        source = self.chosen.source[self.chosen.sample >= 0]
        counted = zip(SOURCES, np.bincount(source, minlength=len(SOURCES)).tolist(), strict=True)
        return sorted((name, count) for name, count in counted if count)

    def error_share(self, bank: pl.DataFrame) -> float | None:
        """Share of rows whose image the base model misclassifies, from 0 to 1; None of no rows.

        Args:
            bank: the table `confusion_bank`.
        """
        chosen = self.chosen.sample[self.chosen.sample >= 0]
        if not len(chosen):
            return None
        return float(np.isin(chosen, bank["sample_id"].to_numpy()).mean())

    def blocks(self) -> Iterator[pl.DataFrame]:
        """Rows as in the table `representatives`, in the order of `pairs`, then of choice."""
        names, paths = self.dataset.classes["class_name"], self.dataset.samples["path"]
        sources, chosen = pl.Series(SOURCES), self.chosen
        for span in spans(len(self.pairs), _BLOCK_PAIRS):
            pairs = self.pairs[span.start : span.stop]
            row, order = np.nonzero(chosen.sample[span.start : span.stop] >= 0)
            place = row + span.start, order
            samples, classes = chosen.sample[place], pairs["class_id"].gather(row)
            yield REPRESENTATIVES.frame(
                {
                    "sample_id": pairs["sample_id"].gather(row),
                    "rank": pairs["rank"].gather(row),
                    "class_id": classes,
                    "class_name": names.gather(classes),
                    "order": order + 1,
                    "representative_id": samples,
                    "representative_path": paths.gather(samples),
                    "cosine": chosen.cosine[place],
                    "source": sources.gather(chosen.source[place]),
                }
            )

    def table(self) -> pl.DataFrame:
        """All `blocks` as one frame."""
        return pl.concat([REPRESENTATIVES.frame(), *self.blocks()])


def mine_representatives(
    dataset: Dataset,
    pairs: pl.DataFrame,
    bank: pl.DataFrame,
    train_samples: pl.DataFrame,
    features: Features,
    settings: params.MineSamples,
    seed: int,
    whole_bank: bool = False,
) -> Representatives:
    """Most representative confusing samples of every (sample, pair).

    Better sources come first (`BankCells.candidates`), the most similar images of a source first;
    an image represents a pair once, and the anchor itself never.

    The pairs of a few-shot draw are looked at one by one, so that what an image gets does not
    depend, not even in the last bit of a cosine, on which other images are drawn. Of more pairs
    those of one cell of the bank are one matrix product.

    Args:
        dataset: samples and classes.
        pairs: the table `pairs`: `sample_id`, `pseudo_label_id`, `rank`, `class_id`.
        bank: the table `confusion_bank`: `sample_id`, `true_class_id`, `predicted_class_id`.
        train_samples: the training images (`sample_id`, `class_id`) that random images of the
            paired class are drawn from.
        features: of all samples of the data set, by sample id.
        settings: `choice` other than `representative` looks for training images, right or wrong,
            instead of into the bank: `nearest` takes the most similar ones of the paired class,
            `zone` those of them whose pseudo-label and first pair are the pair's two classes,
            `random` draws, `none` takes nothing; `representatives` per pair; `fallback`
            `random_train` draws what is lacking, `skip` does without.
        seed: of the random draws.
        whole_bank: take any misclassified image of the paired class, whatever it was taken for.
    """
    anchors, pseudo, paired = (
        pairs[name].to_numpy() for name in ("sample_id", "pseudo_label_id", "class_id")
    )
    chosen = Chosen.none(len(pairs), settings.representatives)
    if settings.choice == "none":
        return Representatives(dataset, pairs, chosen)
    cells: BankCells | TrainingCells = BankCells.from_bank(bank, len(dataset.classes))
    sources = _FROM_BANK[1:2] if whole_bank else _FROM_BANK
    if settings.choice in ("zone", "nearest"):
        cells = TrainingCells.of(train_samples, pairs, settings.choice == "zone")
        source = SOURCES.index(settings.choice)
        sources = range(source, source + 1)
    few = len(pairs) <= FEW_PAIRS and len(cells.samples) <= FEW_IMAGES
    if settings.choice != "random":
        search = retrieve_each if few else retrieve
        search(chosen, Asked(anchors, pseudo, paired), cells, sources, features)
    if settings.choice == "random" or settings.fallback == "random_train":
        _draw(chosen, anchors, paired, train_samples, seed)
        _compare(chosen, anchors, features)
    return Representatives(dataset, pairs, chosen)


def _draw(
    chosen: Chosen, anchors: np.ndarray, paired: np.ndarray, train_samples: pl.DataFrame, seed: int
) -> None:
    """Fill up with random training images of the paired class, none of them twice."""
    count = chosen.sample.shape[1]
    lacking = np.flatnonzero(chosen.found < count).tolist()
    if not lacking:
        return
    lists = train_samples.group_by("class_id", maintain_order=True).agg("sample_id")
    members = {
        int(class_id): samples.to_numpy()
        for class_id, samples in zip(lists["class_id"], lists["sample_id"], strict=True)
    }
    sizes = [len(each) for each in members.values()]
    listed = np.concatenate([*members.values(), np.zeros(0, dtype=np.int64)])
    # Where each training image stands in the list of its class.
    place = np.full(int(max(listed.max(initial=0), chosen.sample.max(), anchors.max())) + 1, -1)
    place[listed] = np.concatenate([np.arange(size) for size in (*sizes, 0)])
    generator = random.Random(seed)
    for pair in lacking:
        own, found = members.get(int(paired[pair]), listed[:0]), int(chosen.found[pair])
        taken = {int(anchors[pair]), *chosen.sample[pair, :found].tolist()}
        spots = ((sample, int(place[sample])) for sample in taken)
        out = sorted(spot for sample, spot in spots if 0 <= spot < len(own) and own[spot] == sample)
        left = len(own) - len(out)
        for index in generator.sample(range(left), min(count - found, left)):
            spot = index
            for skipped in out:
                spot += spot >= skipped
            chosen.add(pair, int(own[spot]), _RANDOM)


def _compare(chosen: Chosen, anchors: np.ndarray, features: Features) -> None:
    """Fill in the cosines of the images that were drawn."""
    pair, order = np.nonzero(chosen.source == _RANDOM)
    for span in spans(len(pair)):
        part = slice(span.start, span.stop)
        others = features.rows(pl.Series(chosen.sample[pair[part], order[part]]))
        own = features.rows(pl.Series(anchors[pair[part]]))
        cosines = torch.stack([other @ anchor for other, anchor in zip(others, own, strict=True)])
        chosen.cosine[pair[part], order[part]] = cosines.double().numpy()
