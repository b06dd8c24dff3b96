"""Characters and names: what none can hold, and one normal form for comparing them."""

from __future__ import annotations

import re
import unicodedata

# What sorts folders: "001.Black_footed_Albatross" of CUB, "n02085620-Chihuahua" of ImageNet.
_NUMBERING = re.compile(r"^(?:\d{1,5}\.|n\d{8}[-_. ])[\s_]*(?=[^\W\d_])")
_TELLS_NOTHING = re.compile(
    r"""[+-]?\d+(?:[.,]\d+)?(?:e[+-]?\d+)?      # a number
    | [\[({].*[\])}]                            # a list
    | nan | none | null | n/?a | true | false
    | n\d{8}                                    # an id of WordNet
    | (?=[a-f]*\d)[0-9a-f]{7,} | [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}  # hashes
    | (?:c|class|cls|label|category|cat|id|idx|folder|group|type)[\s_.-]*\d+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def unfit_character(text: str) -> str | None:
    """The first character that no name, path or prompt can hold, as an escape; None without one.

    Such are control characters but tab and line feed, and halves of surrogate pairs.
    """
    found = _UNFIT.search(text)
    return None if found is None else f"\\x{ord(found[0]):02x}"


def normal(text: str) -> str:
    """Text in Unicode's composed normal form (NFC), in which equal names are equal strings.

    macOS and some archives decompose letters (``ä`` as ``a`` and a mark), which looks the same.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean_name(text: str) -> str:
    """A name in normal form, without blanks and characters that do not show at its ends."""
    name = normal(text)
    while name and (name[0].isspace() or unicodedata.category(name[0]) in ("Cc", "Cf")):
        name = name[1:]
    while name and (name[-1].isspace() or unicodedata.category(name[-1]) in ("Cc", "Cf")):
        name = name[:-1]
    return name


def spoken(name: str) -> str:
    """A class name as it stands in prompts: underscores are spaces, numbering is left out.

    ``001.Black_footed_Albatross`` is spoken ``Black footed Albatross``.
    """
    return _NUMBERING.sub("", name).replace("_", " ")


def name_key(name: str) -> str:
    """Equal for names that a tokenizer cannot tell apart: case and runs of blanks do not count."""
    return normal(" ".join(clean_name(spoken(name)).split()).casefold())


def tells_nothing(name: str) -> bool:
    """Whether a class name is a number, an id or a list, which a text tower knows nothing of."""
    return _TELLS_NOTHING.fullmatch(spoken(clean_name(name)).strip()) is not None
