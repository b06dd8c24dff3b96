"""The shipped stores: complete, short enough for CLIP, no stamped patterns."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from open_clip.tokenizer import SimpleTokenizer

from capt_core.data.proctex import CLASS_NAMES
from capt_core.data.protocol import halves
from capt_core.data.registry import dataset_spec
from capt_core.prompts.generation import pair_prompts
from capt_core.prompts.store import PairEntry, PromptStore, load_store, shipped_store

# In the order of the labels in the published split files.
_TEXTURES = """
    banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted
    fibrous flecked freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined
    marbled matted meshed paisley perforated pitted pleated polka-dotted porous potholed scaly
    smeared spiralled sprinkled stained stratified striped studded swirly veined waffled woven
    wrinkled zigzagged
"""
DTD = tuple(_TEXTURES.split())
EUROSAT = (
    "Annual Crop Land",
    "Forest",
    "Herbaceous Vegetation Land",
    "Highway or Road",
    "Industrial Buildings",
    "Pasture Land",
    "Permanent Crop Land",
    "Residential Buildings",
    "River",
    "Sea or Lake",
)
# Six words in a row, class names masked, are shared by no more prompts than this.
MOST_SHARED_RUNS = 2
RUN = 6
MOST_ALIKE = 0.05  # of all prompts, by their first or last three words


@dataclass(frozen=True)
class Written:
    """A shipped store beside what is known of its data set."""

    classes: tuple[str, ...]
    split_file: str
    partners: int  # that every class has at least in its own half
    most_tokens: int  # start and end tokens included; CLIP's context holds 77
    store: PromptStore

    def masked(self, text: str) -> str:
        """`text` in lower case with every class name replaced by a star."""
        return self._name_pattern().sub("*", text.lower())

    def named(self, text: str) -> set[str]:
        """Classes that `text` names, matched as whole words; ``polka-dotted`` is not ``dotted``."""
        found = set(self._name_pattern().findall(text.lower()))
        return {name for name in self.classes if name.lower() in found}

    def _name_pattern(self) -> re.Pattern[str]:
        names = sorted(self.classes, key=len, reverse=True)
        return re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, names)) + r")(?![\w-])", re.I)


KNOWN = {
    "dtd": (DTD, "split_zhou_DescribableTextures.json", 5, 40),
    "eurosat": (EUROSAT, "split_zhou_EuroSAT.json", 5, 40),
    "proctex": (CLASS_NAMES, "", 14, 32),  # every pair within a half
}
# proctex is drawn, and its prompts may be alike.
photographs = pytest.mark.parametrize("written", ["dtd", "eurosat"], indirect=True)


@pytest.fixture(scope="module", params=KNOWN)
def written(request: pytest.FixtureRequest) -> Written:
    path = shipped_store(request.param)
    assert path is not None
    return Written(*KNOWN[request.param], load_store(path, request.param))


def texts_of(entry: PairEntry) -> Iterator[str]:
    yield from entry.commonality
    for texts in entry.difference.values():
        yield from texts


def texts(store: PromptStore) -> list[str]:
    return [text for entry in store.pairs for text in texts_of(entry)]


@photographs
def test_classes_are_those_of_the_split_file(written: Written, shared: Path) -> None:
    document = json.loads((shared / "data/splits" / written.split_file).read_text())
    names = {label: name for split in document.values() for _, label, name in split}
    assert written.classes == tuple(names[label] for label in sorted(names))


def test_every_class_has_its_own_attributes(written: Written) -> None:
    assert tuple(written.store.classes) == written.classes
    lists = [entry.attributes for entry in written.store.classes.values()]
    assert all(5 <= len(attributes) <= 6 for attributes in lists)
    phrases = [phrase for attributes in lists for phrase in attributes]
    assert len(set(phrases)) == len(phrases)


def test_domain_and_source_are_given(written: Written) -> None:
    assert written.store.domain == dataset_spec(written.store.dataset).domain
    assert written.store.source not in {"", "template"}


def test_pairs_stand_once_in_label_order(written: Written) -> None:
    pairs = [entry.classes for entry in written.store.pairs]
    assert pairs == [pair for pair in combinations(written.classes, 2) if pair in set(pairs)]


def test_every_class_has_partners_in_its_own_half(written: Written) -> None:
    group = dict(zip(written.classes, halves(len(written.classes)), strict=True))
    everywhere: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for entry in written.store.pairs:
        everywhere.update(entry.classes)
        if group[entry.classes[0]] == group[entry.classes[1]]:
            within.update(entry.classes)
    for name in written.classes:
        others = list(group.values()).count(group[name]) - 1
        assert within[name] >= min(written.partners, others), name
        assert everywhere[name] >= written.partners, name


def test_two_prompts_of_every_kind(written: Written) -> None:
    for entry in written.store.pairs:
        assert len(entry.commonality) == 2, entry.classes
        assert {len(texts) for texts in entry.difference.values()} == {2}, entry.classes


def test_prompts_name_their_own_classes_and_no_third_one(written: Written) -> None:
    for entry in written.store.pairs:
        both = set(entry.classes)
        for text in entry.commonality:
            assert written.named(text) == both, text
        for name, mine in entry.difference.items():
            for text in mine:
                assert name in written.named(text) <= both, text


def test_prompts_fit_and_are_plain(written: Written) -> None:
    tokenizer = SimpleTokenizer()
    for text in texts(written.store):
        assert len(tokenizer.encode(text)) + 2 <= written.most_tokens, text
        assert text == " ".join(text.split()), text
        assert not text.endswith("."), text


def test_reasons_are_single_sentences_of_their_own(written: Written) -> None:
    reasons = [entry.reason for entry in written.store.pairs]
    assert all(reason[0].isupper() and reason.find(".") == len(reason) - 1 for reason in reasons)
    assert len(set(reasons)) == len(reasons)


def test_no_prompt_repeats_another_even_with_other_class_names(written: Written) -> None:
    shapes = Counter(written.masked(text) for text in texts(written.store))
    assert [shape for shape, count in shapes.items() if count > 1] == []


@photographs
def test_no_turn_of_phrase_is_stamped_over_the_pairs(written: Written) -> None:
    runs: Counter[str] = Counter()
    for text in texts(written.store):
        words = re.sub(r"[,:;]", "", written.masked(text)).split()
        runs.update({" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)})
    assert {run: count for run, count in runs.items() if count > MOST_SHARED_RUNS} == {}


@photographs
def test_openings_and_endings_vary(written: Written) -> None:
    # Class names count as one word each; a list of two names may open or end some prompts.
    prompts = texts(written.store)
    for cut in (slice(None, 3), slice(-3, None)):
        shares = Counter(" ".join(written.masked(text).split()[cut]) for text in prompts)
        words, count = shares.most_common(1)[0]
        assert count <= MOST_ALIKE * len(prompts), words


def test_pairs_among_the_first_five_textures_are_all_written() -> None:
    # A folder with only some of the classes renumbers them; the first five then pair up freely.
    path = shipped_store("dtd")
    assert path is not None
    by_pair = load_store(path, "dtd").by_pair()
    assert all(frozenset(pair) in by_pair for pair in combinations(DTD[:5], 2))


def test_the_stored_prompts_are_what_generation_gives(written: Written) -> None:
    entry = written.store.pairs[0]
    first, second = entry.classes
    pairs = pl.DataFrame(
        {
            "class_id": [1],
            "class_name": [second],
            "paired_class_id": [0],
            "paired_class": [first],
        }
    )
    frame = pair_prompts(pairs, {}, [written.store], 2, fill=False)
    assert frame["prompt"].to_list() == [*entry.commonality, *entry.difference[second]]
    assert set(frame["source"]) == {written.store.source}
