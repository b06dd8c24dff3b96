"""Reading JSON that people edit: what a lenient reader would silently drop is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from capt_core.errors import CaptError


def read_json(path: Path) -> Any:
    """The JSON of a file in UTF-8, with or without a byte order mark.

    Raises:
        CaptError: it cannot be read, is no UTF-8 or no JSON, holds escapes that are no characters,
            or has a key twice, of which only the last would be kept.
    """
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                repeated.append(key)
            found[key] = value
        return found

    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
        json.dumps(document, ensure_ascii=False).encode()
    except OSError as error:
        raise CaptError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CaptError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except UnicodeEncodeError as error:
        raise CaptError(f"{path}: holds escapes that are no characters (\\ud800...)") from error
    except RecursionError as error:
        raise CaptError(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise CaptError(f"{path}: not valid JSON ({error})") from error
    if repeated:
        raise CaptError(f"{path}: the key {min(repeated)!r} occurs twice; only one would be kept")
    return document
