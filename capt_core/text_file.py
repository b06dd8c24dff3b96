"""Reading text and JSON files that people, other programs or a language model wrote."""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from pathlib import Path
from typing import Any, NoReturn

from capt_core.errors import CaptError, one_line, reason, shown

LARGEST_TEXT = 256 * 2**20
# A number of more digits is damage, and Python refuses to convert those of thousands.
MOST_DIGITS = 300
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def unfit_character(text: str) -> str | None:
    """The first character that no name, path or prompt can hold, as an escape; None without one.

    Such are control characters but tab and line feed, and halves of surrogate pairs.
    """
    found = _UNFIT.search(text)
    return None if found is None else f"\\x{ord(found[0]):02x}"


def usable_path(path: str | None) -> str | None:
    """A path of the settings, unchanged, if a file could have it at all.

    Raises:
        ValueError: control characters, a name too long for any file system, an unknown ``~user``.
    """
    if path is None:
        return path
    if unfit := unfit_character(path):
        raise ValueError(f"no path holds the character {unfit}")
    names = path.split(os.sep)
    if len(os.fsencode(path)) >= 4096 or any(len(os.fsencode(name)) > 255 for name in names):
        raise ValueError(f"longer than a path can be: {shown(path)}")
    try:
        Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"no such user's home folder: {shown(path)}") from error
    return path


def user_path(path: Path | str, where: str) -> Path:
    """A path that is given as an argument or option, named `where`, with ``~`` written out.

    Raises:
        CaptError: as `usable_path`.
    """
    try:
        usable_path(str(path))
    except ValueError as error:
        raise CaptError(f"{where}: {error}") from error
    return Path(path).expanduser()


def named(path: Path) -> str:
    """A path as messages name it; one too long for any file system is shown in part."""
    text = str(path)
    return text if len(text) <= 250 else shown(text)


def cut(text: str) -> str:
    """A key or an argument as messages name it, without quotes, at most a hundred characters."""
    text = one_line(text)
    return text if len(text) <= 100 else f"{text[:97]}..."


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
    except OSError as error:
        why = error.strerror or reason(error)
        raise CaptError(f"{named(path)}: cannot be read ({why}){remedy}") from error
    except ValueError as error:  # a NUL character in the path
        raise CaptError(f"{named(path)}: cannot be read ({reason(error)}){remedy}") from error
    if len(content) > largest:
        raise CaptError(
            f"{named(path)}: larger than {largest // 2**20} MiB, which no such file is{remedy}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptError(
            f"{named(path)}: not UTF-8 text (byte {error.start}); save it as UTF-8"
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
            form = unicodedata.normalize("NFC", key)
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
        # Only an escape can bring half of a surrogate pair into text that was UTF-8.
        if "\\u" in text and not any_text:
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CaptError(
            f"{named(path)}: holds escapes that are no characters (\\ud800...){remedy}"
        ) from error
    except RecursionError as error:
        raise CaptError(f"{named(path)}: nested too deeply{remedy}") from error
    except ValueError as error:
        raise CaptError(f"{named(path)}: not valid JSON ({reason(error)}){remedy}") from error
    if repeated:
        raise CaptError(
            f"{named(path)}: the key {shown(min(repeated))} occurs twice; only one would be kept"
        )
    return document


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
