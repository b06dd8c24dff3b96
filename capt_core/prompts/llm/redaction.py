"""Keeping credentials out of whatever a service sends back: answers, errors, lines of the log."""

from __future__ import annotations

import base64
import contextlib
import html
import logging
import os
import re
import string
import traceback
import urllib.parse
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from capt_core.errors import cut

SHORT_KEY = 8  # characters; a key as short as a word is looked for as a word
SHORTEST_CODE = 8  # characters of base64 or hex that are looked for
LONG_KEY = 40  # characters; of a longer key a half is looked for, too
LONGEST_LINE = 20_000  # characters of an error that are looked at
LOGGERS = ("anthropic", "httpx", "httpcore")  # beginnings of the names
PLACEHOLDER = "[key]"

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy")
_SECRET_NAME: Final = re.compile(r"auth|cookie|key|pass|secret|token", re.IGNORECASE)

# Blanks and backslashes, which wrapping and quoting put between the characters of a key.
_DROPPED: Final = re.compile(r"[\s\\\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff]+")
# Case does not matter, and base64 has another alphabet for URLs.
_ALIKE: Final = str.maketrans(f"{string.ascii_uppercase}-_", f"{string.ascii_lowercase}+/")
_URL: Final = r"(?P<octets>%[c-f][0-9a-f](?:%[89ab][0-9a-f])+|%[0-9a-f]{2})"
_HTML: Final = (
    r"(?P<tag><w?br ?/?>)|&(?P<entity>\#\d{1,7}|\#x[0-9a-f]{1,6}|[a-z]{1,8})(?:;|(?<=\d))"
)
_JSON: Final = (
    r"\\x(?P<octet>[0-9a-f]{2})"
    r"|(?P<unit>\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\u[0-9a-f]{4}|\\u\{0*[0-9a-f]{1,6}\})"
    r"|\\(?P<quoted>.)"
)
_MAIL: Final = r"=(?P<mail>[0-9a-f]{2}|\r?\n)"
# A key may hold what is an escape elsewhere, so that each kind is undone alone, too. Escapes stand
# within escapes: an address in an answer in an error.
_READINGS: Final = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), signs, layers)
    for pattern, signs, layers in (
        (f"{_URL}|{_HTML}|{_JSON}", "%&<\\", 4),
        (_URL, "%", 2),
        (_HTML, "&<", 2),
        (_JSON, "\\", 2),
        (_MAIL, "=", 1),
    )
]


class _Layer(NamedTuple):
    """A text with its escapes undone.

    Attributes:
        text: the characters.
        starts, ends: where in the original text each of them comes from.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def unescaped(self, escapes: re.Pattern[str]) -> _Layer:
        parts, position = [], 0
        starts, ends = array("L"), array("L")
        for match in escapes.finditer(self.text):
            first, last = match.span()
            meant = _meant(match)
            parts += [self.text[position:first], meant]
            starts.extend(self.starts[position:first])
            ends.extend(self.ends[position:first])
            starts.extend([self.starts[first]] * len(meant))
            ends.extend([self.ends[last - 1]] * len(meant))
            position = last
        parts.append(self.text[position:])
        starts.extend(self.starts[position:])
        ends.extend(self.ends[position:])
        return _Layer("".join(parts), starts, ends)

    def spans(self, bare: str, code: str) -> Iterator[tuple[int, int]]:
        """Where in the original text a code stands; it and the text as `_bare` makes them."""
        position = bare.find(code)
        if position < 0:
            return
        kept = [i for i, letter in enumerate(self.text) if not _DROPPED.match(letter)]
        while position >= 0:
            yield self.starts[kept[position]], self.ends[kept[position + len(code) - 1]]
            position = bare.find(code, position + 1)


def _layers(text: str) -> Iterator[_Layer]:
    """A text, and what it says when its escapes are undone, again and again."""
    plain = _Layer(text, range(len(text)), range(1, len(text) + 1))
    yield plain
    for escapes, signs, layers in _READINGS:
        layer = plain
        for _ in range(layers):
            if not any(sign in layer.text for sign in signs) or not escapes.search(layer.text):
                break
            layer = layer.unescaped(escapes)
            yield layer


def _bare(text: str) -> str:
    return _DROPPED.sub("", text).translate(_ALIKE)


def _meant(match: re.Match[str]) -> str:
    """What an escape stands for."""
    kind = match.lastgroup
    value = match[kind] if kind else ""
    if kind == "mail":
        return chr(int(value, 16)) if value.strip() else ""
    if kind == "tag":
        return ""
    if kind == "octets":
        return bytes.fromhex(value.replace("%", "")).decode("utf-8", "replace")
    if kind == "octet":
        return chr(int(value, 16))
    if kind == "unit":
        codes = [int(digits, 16) for digits in re.findall(r"[0-9a-f]+(?!u)", value, re.IGNORECASE)]
        pair = "".join(chr(min(code, 0x10FFFF)) for code in codes)
        return pair.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if kind == "entity":
        return html.unescape(f"&{value};")
    return _CONTROLS.get(value, value)


_CONTROLS: Final = dict(zip("nrtbf", "\n\r\t  ", strict=True))


class Redaction:
    """Finds credentials in any text, however they are spelled there.

    Spelled: as they are, in upper or lower case, backwards, with characters escaped for a URL
    (once or more often), HTML, JSON or mail, in hexadecimal digits, in base64 at any offset and in
    both alphabets, and with blanks or line breaks inside.

    A key as short as a word, such as people set for a server of their own, is found only where it
    stands alone: answers must not lose the letters that they share with it.

    Args:
        key: the key in use.
        others: more credentials, such as `credentials` finds.
    """

    def __init__(self, key: str, others: Iterable[str] = ()) -> None:
        secrets = [secret for secret in dict.fromkeys((key, *others)) if secret]
        self._codes = {
            _bare(code): len(secret) < SHORT_KEY for secret in secrets for code in _codes(secret)
        }
        self._codes.pop("", None)

    def found_in(self, text: str) -> bool:
        return bool(self._spans(text))

    def clean(self, text: str) -> str:
        """The text without the credentials, and without what no file can hold.

        Half a surrogate pair must not cost the rest of an answer.
        """
        parts, position = [], 0
        for start, end in self._spans(text):
            if start >= position:
                parts += [text[position:start], PLACEHOLDER]
            position = max(position, end)
        parts.append(text[position:])
        return "".join(parts).encode(errors="replace").decode()

    def line(self, error: object, limit: int = 300) -> str:
        """What an error says, in one line of bearable length, without the credentials."""
        return cut(self.clean(" ".join(str(error).split())[:LONGEST_LINE]), limit)

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where credentials stand, in order; spans may overlap."""
        found: set[tuple[int, int]] = set()
        for layer in _layers(text):
            bare = _bare(layer.text)
            for code, short in self._codes.items():
                spans = layer.spans(bare, code)
                found.update(span for span in spans if not short or _alone(text, *span))
        return sorted(found)

    @contextlib.contextmanager
    def logs(self) -> Iterator[None]:
        """Keep the credentials out of the logs of the client and of what it sends with.

        ANTHROPIC_LOG=debug makes them write the headers of responses, which may echo. Loggers may
        be made later than this, so that the making of records is what is changed.
        """
        make = logging.getLogRecordFactory()

        def cleaned(*args: Any, **named: Any) -> logging.LogRecord:
            record = make(*args, **named)
            if record.name.startswith(LOGGERS):
                record.msg, record.args = self.clean(record.getMessage()), None
                if record.exc_info:
                    trace = "".join(traceback.format_exception(*record.exc_info))
                    record.exc_info, record.exc_text = None, self.clean(trace)
            return record

        logging.setLogRecordFactory(cleaned)
        try:
            yield
        finally:
            if logging.getLogRecordFactory() is cleaned:
                logging.setLogRecordFactory(make)


def _alone(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is no part of a word, and no words."""
    around = text[max(0, start - 1) : start] + text[end : end + 1]
    return not re.search(r"\w", around) and not re.search(r"\s", text[start:end])


def credentials(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Credentials of an environment that the client could send.

    Tokens, headers and the address of the service, users and passwords of proxies.
    """
    found: list[str] = []
    for name, value in environment.items():
        if name.lower() in _PROXIES or name == "ANTHROPIC_BASE_URL":
            found += _of_address(value)
        elif name == "ANTHROPIC_CUSTOM_HEADERS":
            for header in value.splitlines():
                title, _, content = header.partition(":")
                found += content.split()[-1:] if _SECRET_NAME.search(title) else []
        elif name.startswith("ANTHROPIC_") and _SECRET_NAME.search(name):
            found.append(value.strip())
    return [secret for secret in dict.fromkeys(found) if len(secret) > 3]


def _of_address(address: str) -> list[str]:
    """The user information of a URL: both parts together, the password, a token as the user."""
    authority = re.split(r"[/?#]", address.partition("://")[2] or address)[0]
    information, at, _ = authority.rpartition("@")
    if not at:  # a password with a slash that should have been escaped
        information = (address.partition("://")[2] or address).rpartition("@")[0]
    user, colon, password = information.partition(":")
    parts = [information, password] if colon else [user]
    return [*parts, *map(urllib.parse.unquote, parts)]


def _codes(secret: str) -> Iterator[str]:
    """A secret and the texts that stand for it."""
    yield secret
    yield secret.replace(" ", "+")
    if len(secret) >= SHORT_KEY:
        yield secret[::-1]
    if len(secret) >= LONG_KEY:
        yield secret[: len(secret) // 2]
        yield secret[len(secret) // 2 :]
    data = secret.encode(errors="surrogateescape")
    # Encoded once, or the code of an address, of base64 or of hexadecimal digits.
    for inner in (
        data,
        urllib.parse.quote_from_bytes(data, safe="").encode(),
        base64.b64encode(data),
        data.hex().encode(),
    ):
        yield from (code for code in _encoded(inner) if len(code) >= SHORTEST_CODE)


def _encoded(data: bytes) -> Iterator[str]:
    """Hexadecimal digits of a secret, and base64 of it at any offset."""
    yield from (data.hex(), data.hex(":"), data.hex("-"))
    for offset in range(3):
        # Without the characters that also hold bits of what stands before and behind.
        code = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        yield code[-(-offset * 8 // 6) : len(code) - bool((offset + len(data)) % 3)]
