"""Reading text and JSON files that people, other programs or a language model wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from capt_core.errors import CaptError, reason, shown
from capt_core.text import normal
from capt_core.user_paths import brief

LARGEST_TEXT = 256 * 2**20
# A number of more digits is damage, and Python refuses to convert those of thousands.
MOST_DIGITS = 300
NO_CHARACTERS = "escapes that are no characters (\\ud800...)"


def read_text(path: Path, advice: str = "", largest: int = LARGEST_TEXT) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        advice: what to do where it cannot be read, for the message.
        largest: bytes that such a file can have at most.

    Raises:
        CaptError: it cannot be read, is too large or no UTF-8.
    """
    remedy = f"; {advice}" if advice else ""
    try:
        with path.open("rb") as stream:
            content = stream.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        why = getattr(error, "strerror", None) or reason(error)
        raise CaptError(f"{brief(path)}: cannot be read ({why}){remedy}") from error
    if len(content) > largest:
        raise CaptError(
            f"{brief(path)}: larger than {largest // 2**20} MiB, which no such file is{remedy}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptError(
            f"{brief(path)}: not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error


def read_json(path: Path, advice: str = "", any_text: bool = False) -> Any:
    """The JSON of a file in UTF-8, with or without a byte order mark.

    People edit these files: what a lenient reader would silently drop or change is an error.

    Args:
        path: the file.
        advice: what to do where it is of no use, for the message.
        any_text: let escapes that are no characters pass, for callers that name their place.

    Raises:
        CaptError: as `read_text`; no JSON; a key twice, of which only the last would be kept;
            numbers that are not finite or of hundreds of digits; escapes that are no characters;
            endless nesting.
    """
    text = read_text(path, advice)
    remedy = f"; {advice}" if advice else ""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        forms: set[str] = set()
        for key, value in pairs:
            # Equal names in another Unicode form look alike and are one to who wrote them.
            form = normal(key)
            if form in forms:
                repeated.append(key)
            forms.add(form)
            found[key] = value
        return found

    try:
        if not text.strip():
            raise ValueError("the file is empty")
        document = json.loads(
            text,
            object_pairs_hook=unique,
            parse_constant=_not_finite,
            parse_float=_finite,
            parse_int=_whole,
        )
        strange = not any_text and holds_no_characters(text, document)
    except RecursionError as error:
        raise CaptError(f"{brief(path)}: nested too deeply{remedy}") from error
    except ValueError as error:
        raise CaptError(f"{brief(path)}: not valid JSON ({reason(error)}){remedy}") from error
    if strange:
        raise CaptError(f"{brief(path)}: holds {NO_CHARACTERS}{remedy}")
    if repeated:
        raise CaptError(
            f"{brief(path)}: the key {shown(min(repeated))} occurs twice; only one would be kept"
        )
    return document


def holds_no_characters(text: str, document: Any) -> bool:
    """Whether a JSON document, parsed from a text, holds halves of surrogate pairs."""
    if "\\u" not in text:  # only an escape can bring them into text that was UTF-8
        return False
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _not_finite(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(digits)} is too large")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
