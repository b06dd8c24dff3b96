"""The control of the benchmark of difference prompts for all classes."""

from __future__ import annotations

import json

from benchmarks.described import EDITION, shuffled
from capt_core.data.proctex import CLASS_NAMES
from capt_core.prompts.store import PromptStore, load_store, shipped_store, store_text


def test_shuffled_sentences_are_those_of_another_class_of_the_half() -> None:
    path = shipped_store("proctex", EDITION)
    assert path is not None
    content = json.loads(store_text(load_store(path)))
    control = PromptStore.model_validate(shuffled(content))
    half = {name: position < 15 for position, name in enumerate(CLASS_NAMES)}
    sources: dict[str, set[str]] = {}
    for entry in control.pairs:
        for name, texts in entry.difference.items():
            source = texts[0].removeprefix("a photo of a ").split(" texture")[0]
            sources.setdefault(name, set()).add(source)
    assert len(sources) == len(CLASS_NAMES)
    assert all(len(found) == 1 for found in sources.values())
    moved = {name: found.pop() for name, found in sources.items()}
    assert set(moved.values()) == set(CLASS_NAMES)
    assert all(half[name] == half[source] for name, source in moved.items())
    assert all(name != source for name, source in moved.items())
