"""Credentials in what comes back, in every form in which a service or a library may spell them."""

from __future__ import annotations

import base64
import html
import json
import logging
import quopri
import textwrap
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capt_core.prompts.llm.redaction import Redaction, credentials
from tests.prompts.llm_server import KEY

Spelling = Callable[[str], str]


def quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def encoded(offset: int, encode: Callable[[bytes], bytes]) -> Spelling:
    return lambda key: encode(b"ab"[:offset] + key.encode() + b"::").decode()


def units(text: str) -> str:
    return "".join(f"\\u{ord(letter):04X}" for letter in text)


SPELLINGS: dict[str, Spelling] = {
    "plain": str,
    "upper case": str.upper,
    "url": quoted,
    "url, lower": lambda key: "".join(f"%{octet:02x}" for octet in key.encode()),
    "url, twice": lambda key: quoted(quoted(key)),
    "form": urllib.parse.quote_plus,
    "html": html.escape,
    "html, numbers": lambda key: "".join(f"&#{ord(letter)};" for letter in key),
    "html, hexadecimal": lambda key: "".join(f"&#x{ord(letter):X};" for letter in key),
    "html, twice": lambda key: html.escape(html.escape(key)),
    "html, to be broken": lambda key: "<wbr>".join(map(html.escape, key)),
    "json": lambda key: json.dumps(key)[1:-1],
    "json, twice": lambda key: json.dumps(json.dumps(key))[3:-3],
    "json, units": units,
    "repr": lambda key: repr(key)[1:-1],
    "bytes": lambda key: "".join(f"\\x{octet:02x}" for octet in key.encode()),
    "hex": lambda key: key.encode().hex(),
    "hex, upper": lambda key: key.encode().hex().upper(),
    "hex, spaced": lambda key: key.encode().hex(" "),
    "hex, colons": lambda key: key.encode().hex(":"),
    "hex, dashes": lambda key: key.encode().hex("-"),
    "hex of base64": lambda key: base64.b64encode(key.encode()).hex(),
    "base64 of an address": lambda key: base64.b64encode(quoted(key).encode()).decode(),
    "base64 of base64": lambda key: base64.b64encode(base64.b64encode(key.encode())).decode(),
    "base64 of hex": lambda key: base64.b64encode(key.encode().hex().encode()).decode(),
    "reversed": lambda key: key[::-1],
    "mail": lambda key: quopri.encodestring(key.encode(), quotetabs=True).decode(),
    "wrapped": lambda key: "\n".join(key),
    "indented": lambda key: textwrap.indent("\r\n".join(key), "    "),
    "wrapped in JSON": lambda key: json.dumps("\n".join(key))[1:-1],
    "basic": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "basic, in a URL": lambda key: quoted(base64.b64encode(f"user:{key}".encode()).decode()),
    "mime": lambda key: base64.encodebytes(f"{'x' * 50}{key}".encode()).decode(),
    **{f"base64 at {i}": encoded(i, base64.b64encode) for i in range(3)},
    **{f"base64url at {i}": encoded(i, base64.urlsafe_b64encode) for i in range(3)},
}

# What the client takes for a key: printable ASCII without blanks.
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
@settings(max_examples=40, deadline=None)
@example(KEY)
@example("pa%41ss&lt;\\u0041\\n+/=")
@given(KEYS)
def test_a_key_is_found_however_it_is_spelled(spelling: Spelling, key: str) -> None:
    redaction = Redaction(key)
    for text in (spelling(key), f"Basic {spelling(key)} for you", f'"key={spelling(key)}"'):
        cleaned = redaction.clean(text)
        assert "[key]" in cleaned
        assert not redaction.found_in(cleaned.replace("[key]", ""))


@settings(deadline=None)
@given(KEYS, st.text(max_size=200))
def test_the_rest_of_a_text_stays(key: str, text: str) -> None:
    redaction = Redaction(key)
    if not redaction.found_in(text):
        assert redaction.clean(text) == text.encode(errors="replace").decode()
    assert redaction.clean(f"a banded texture {key} of zebras") == (
        "a banded texture [key] of zebras"
    )


def test_half_of_a_long_key_is_found() -> None:
    key = "sk-ant-api03-" + "aB3-_x9Z" * 10
    assert Redaction(key).clean(f"cut: {key[:50]}") == f"cut: [key]{key[46:50]}"


@pytest.mark.parametrize(("key", "text"), [("x", "x-ray of a box"), ("lined", "outlined, li ned")])
def test_a_key_as_short_as_a_word_costs_no_letters_of_others(key: str, text: str) -> None:
    redaction = Redaction(key)
    assert redaction.clean(text) == text.replace("x-", "[key]-")
    assert redaction.clean(f"({key})") == "([key])"


def test_a_password_with_a_blank_is_found_in_a_form() -> None:
    redaction = Redaction(KEY, ["open the gate"])
    assert redaction.clean("?p=open+the+gate&q=open%20the%20gate") == "?p=[key]&q=[key]"


def test_credentials_of_the_environment() -> None:
    assert set(
        credentials(
            {
                "ANTHROPIC_AUTH_TOKEN": "token-of-mine",
                "ANTHROPIC_CUSTOM_HEADERS": "X-Api-Key: Bearer from-header\nX-Team: research",
                "ANTHROPIC_BASE_URL": "https://gate:p%40ss-word@host:8000/v1@2",
                "HTTPS_PROXY": "http://bob:hunter22@proxy:3128",
                "all_proxy": "socks5://only-a-token@proxy",
                "HOME": "/root",
                "ANTHROPIC_MODEL": "claude",
            }
        )
    ) == {
        "token-of-mine",
        "from-header",
        *("gate:p%40ss-word", "p%40ss-word", "gate:p@ss-word", "p@ss-word"),
        *("bob:hunter22", "hunter22"),
        "only-a-token",
    }


def test_logs_of_the_client_and_their_tracebacks_are_clean(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    with Redaction(KEY).logs():
        logger = logging.getLogger("httpcore2.made_later")
        try:
            raise ValueError(f"Illegal header value {KEY}")
        except ValueError:
            logger.debug("sent %s", KEY, exc_info=True)
        logging.getLogger("other").debug("untouched %s", "text")
    assert KEY not in caplog.text
    assert "Illegal header value [key]" in caplog.text
    assert "untouched text" in caplog.text
