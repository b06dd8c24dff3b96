"""Names of the thirty textures, what resembles what, and the everyday words for each family."""

from __future__ import annotations

from typing import Final

TEMPLATE: Final = "a photo of a {} texture"

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "stripes": ("banded", "striped", "lined", "grooved"),
    "dots": ("dotted", "polka-dotted", "flecked", "sprinkled"),
    "relief": ("bubbly", "bumpy", "pitted", "porous"),
    "cracks": ("cracked", "cobwebbed", "veined"),
    "lattices": ("grid", "chequered", "meshed", "crosshatched", "waffled"),
    "weaves": ("woven", "braided", "zigzagged"),
    "cells": ("honeycombed", "scaly"),
    "flows": ("marbled", "swirly", "spiralled", "stratified", "blotchy"),
}
"""Families of textures that are easily mistaken for each other."""

CLASS_NAMES: Final[tuple[str, ...]] = tuple(name for group in GROUPS.values() for name in group)
"""Class names in label order. The first fifteen are the base half, the last fifteen the novel one;
each half holds whole families, since only classes of one half compete in base-to-novel tests."""

COARSE_WORDS: Final[dict[str, str]] = {
    "stripes": "striped",
    "dots": "dotted",
    "relief": "rough",
    "cracks": "cracked",
    "lattices": "checked",
    "weaves": "woven",
    "cells": "scaly",
    "flows": "wavy",
}
"""What people who do not name the texture exactly call it, by family. Some are class names too."""

NEIGHBOURS: Final[dict[str, tuple[str, ...]]] = {
    "banded": ("striped", "lined"),
    "striped": ("banded", "lined"),
    "lined": ("striped", "grooved"),
    "grooved": ("lined", "striped"),
    "dotted": ("polka-dotted", "flecked", "sprinkled"),
    "polka-dotted": ("dotted", "bubbly"),
    "flecked": ("sprinkled", "dotted"),
    "sprinkled": ("flecked", "dotted"),
    "bubbly": ("bumpy", "polka-dotted"),
    "bumpy": ("pitted", "bubbly"),
    "pitted": ("porous", "bumpy"),
    "porous": ("pitted", "flecked"),
    "cracked": ("veined", "cobwebbed"),
    "cobwebbed": ("cracked", "veined"),
    "veined": ("cracked", "cobwebbed"),
    "grid": ("chequered", "meshed", "waffled"),
    "chequered": ("grid", "woven"),
    "meshed": ("grid", "crosshatched"),
    "crosshatched": ("meshed", "grid"),
    "waffled": ("grid", "chequered"),
    "woven": ("braided", "chequered"),
    "braided": ("woven", "zigzagged"),
    "zigzagged": ("braided", "woven"),
    "honeycombed": ("scaly", "meshed"),
    "scaly": ("honeycombed", "waffled"),
    "marbled": ("swirly", "blotchy"),
    "swirly": ("marbled", "spiralled"),
    "spiralled": ("swirly", "marbled"),
    "stratified": ("marbled", "swirly"),
    "blotchy": ("marbled", "stratified"),
}
"""Textures a photograph may show beside its own class; the first is the commonest."""

_COARSE_OF: Final = {name: COARSE_WORDS[group] for group, names in GROUPS.items() for name in names}


def coarse_word(name: str) -> str:
    """Everyday word for the family of a class, such as ``checked`` for ``waffled``.

    Raises:
        KeyError: no texture has this name.
    """
    return _COARSE_OF[name]
