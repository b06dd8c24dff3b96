"""Keeping the key out of whatever a service sends back: answers, errors, lines of the log."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

SHORT_KEY = 16  # characters; a key as short as a word is looked for as a word
LOGGERS = ("anthropic", "httpx", "httpcore")  # beginnings of the names


class Redaction:
    """Finds a key in any text, also where JSON escapes stand for its characters.

    A key as short as a word, such as people set for a server of their own, is found only where it
    stands alone: answers must not lose the letters that they share with it.
    """

    def __init__(self, key: str) -> None:
        spelled = []
        for letter in key:
            forms = [re.escape(letter), rf"\\u(?i:{ord(letter):04x})"]
            if letter in '"\\/':
                forms.insert(0, re.escape("\\" + letter))
            spelled.append(f"(?:{'|'.join(forms)})")
        pattern = "".join(spelled)
        self._key = re.compile(rf"(?<!\w){pattern}(?!\w)" if len(key) < SHORT_KEY else pattern)

    def found_in(self, text: str) -> bool:
        return self._key.search(text) is not None

    def clean(self, text: str) -> str:
        """The text without the key, and without what no file can hold.

        Half a surrogate pair must not cost the rest of an answer.
        """
        return self._key.sub("[key]", text).encode(errors="replace").decode()

    def line(self, error: object) -> str:
        """What an error says, in one line of bearable length, without the key."""
        return " ".join(self.clean(str(error)).split())[:300]

    @contextlib.contextmanager
    def logs(self) -> Iterator[None]:
        """Keep the key out of the logs of the client and of what it sends with.

        ANTHROPIC_LOG=debug makes them write the headers of responses, which may echo.
        """

        def clean(record: logging.LogRecord) -> bool:
            record.msg, record.args = self.clean(record.getMessage()), None
            return True

        # A filter covers one logger, not its children.
        names = [name for name in logging.root.manager.loggerDict if name.startswith(LOGGERS)]
        loggers = [logging.getLogger(name) for name in names]
        for logger in loggers:
            logger.addFilter(clean)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(clean)
