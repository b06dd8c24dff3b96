"""Single calls against a server that misbehaves: nothing lost, nothing asked twice."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from capt_core.errors import CaptError
from capt_core.prompts.llm import live, waiting
from capt_core.prompts.llm.answers import Entry
from capt_core.prompts.llm.asking import ConfusedPair
from capt_core.prompts.llm.service import Service
from capt_core.prompts.llm.writing import estimate, write_prompts
from tests.prompts.conftest import PAIRS, STEPS, Desk, quiet
from tests.prompts.llm_server import KEY, LlmServer, running, title_of
from tests.refusals import refusal

QUESTIONS = [question for step in STEPS for question in step]


def stored(desk: Desk) -> list[Entry]:
    entries = [entry for _, entry in desk.reasoning().answers.entries()]
    assert all(isinstance(entry, Entry) for entry in entries)
    return [entry for entry in entries if isinstance(entry, Entry)]


def everything_on_disk(desk: Desk) -> str:
    files = [path for path in desk.folder.rglob("*") if path.is_file()]
    return "\n".join(path.read_text() for path in files) + "\n".join((*desk.said, *desk.warned))


def test_three_steps_for_each_pair(server: LlmServer, desk: Desk) -> None:
    spending = desk.write()
    assert server.questions() == QUESTIONS
    assert spending.calls == 7
    assert spending.dollars == pytest.approx(7 * (1000 * 2 + 200 * 10) / 1e6)
    written = desk.reasoning().written(PAIRS)
    assert [entry.classes for entry in written.pairs] == [pair.classes for pair in PAIRS]
    assert written.pairs[0].commonality == [
        "a texture of banded or lined, trait 0",
        "a texture of banded or lined, trait 1",
    ]
    assert written.pairs[0].difference["lined"] == [
        "a texture of lined, mark 10",
        "a texture of lined, mark 11",
    ]
    assert written.classes["lined"].attributes == [f"trait {i} to see" for i in range(5)]
    assert written.source == "anthropic/claude-sonnet-5-5"
    assert KEY not in everything_on_disk(desk)


def test_a_later_step_is_told_what_the_earlier_ones_found(server: LlmServer, desk: Desk) -> None:
    desk.write()
    reason, prompts = (server.asked[i]["messages"][0]["content"] for i in (3, 5))
    assert '"banded" for\n"lined" 7 times, and "lined" for "banded" 3 times' in reason
    assert "- trait 0 to see" in reason
    assert "photographs of textures" in reason
    assert "Both banded and lined show the same traits." in prompts
    assert "at most 40 words" in prompts
    system = {str(body["system"]) for body in server.asked}
    assert len(system) == 1
    assert server.asked[0]["system"][0]["cache_control"] == {"type": "ephemeral"}


def test_a_second_run_asks_nothing(server: LlmServer, desk: Desk) -> None:
    desk.write()
    before = {path: path.read_bytes() for path in desk.folder.rglob("*.json")}
    assert desk.write().calls == 0
    assert len(server.asked) == 7
    assert before == {path: path.read_bytes() for path in desk.folder.rglob("*.json")}
    # Another few-shot draw has other counts; the answers serve all draws.
    others = [ConfusedPair(pair.classes, (50, 50)) for pair in PAIRS]
    assert desk.reasoning().missing(others) == []
    # A shorter context needs shorter prompts.
    assert len(desk.reasoning(limit=9).missing(PAIRS)) == 2


def test_every_answer_is_on_disk_before_the_next_question(server: LlmServer, desk: Desk) -> None:
    missing = []

    def look(_: dict[str, Any]) -> None:
        on_disk = sum(len(entry.attempts) for entry in stored(desk))
        if on_disk != len(server.asked) - 1:
            missing.append((on_disk, len(server.asked) - 1))

    server.on_ask = look
    desk.write()
    assert missing == []


WAITS = ("0.05", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", "nan")
TRANSIENT = [
    *("408", "409", "429", "500", "502", "503", "529"),
    *(f"429 retry-after={wait}" for wait in WAITS),
    "429 retry-after-ms=30",
    *("drop", "half", "html", "deep", "empty", "broken", "fields", "list"),
]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_failed_call_is_made_again(server: LlmServer, desk: Desk, fault: str) -> None:
    server.faults = [None, fault, fault]
    assert desk.write().calls == 7
    assert Counter(server.questions()) == {**dict.fromkeys(QUESTIONS, 1), "1 lined": 3}
    assert KEY not in everything_on_disk(desk)


@pytest.mark.parametrize("fault", ["stall", "trickle"])
def test_a_call_that_takes_too_long_is_made_again(
    server: LlmServer, desk: Desk, fault: str
) -> None:
    server.faults = [None, fault]
    assert desk.write(timeout=0.3).calls == 7
    assert Counter(server.questions()) == {**dict.fromkeys(QUESTIONS, 1), "1 lined": 2}


@pytest.mark.parametrize(("asked", "usual", "wait"), [(0.4, 0.01, 0.4), (0, 0.4, 0.2)])
def test_retry_after_is_honoured_and_a_wait_of_nothing_is_still_a_wait(
    server: LlmServer,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    asked: float,
    usual: float,
    wait: float,
) -> None:
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", usual)
    monkeypatch.setattr("anthropic._base_client.MAX_RETRY_DELAY", usual)
    server.faults = [f"429 retry-after={asked}"]
    desk.write()
    assert server.times[1] - server.times[0] >= wait


def test_an_endless_wait_is_left_to_the_user(server: LlmServer, desk: Desk) -> None:
    server.faults = [None, "429 retry-after=7200"]
    assert "asks to wait 7200 s" in refusal(desk.write)
    assert len(stored(desk)) == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts: shells have what they start in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_a_wait(server: LlmServer, desk: Desk) -> None:
    server.faults = ["429 retry-after=300"]
    interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    server.on_ask = lambda _: interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        desk.write(timeout=60.0)  # longer than any stall of the machine
    assert len(server.asked) == 1
    assert "run the same command again to go on" in desk.said[-1]


def test_without_the_client_library_only_asking_fails(
    server: LlmServer, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    for provider in ("anthropic", "anthropic-batch"):
        assert refusal(desk.write, provider=provider) == (
            f"generate_prompts.provider={provider} needs the extra [llm]; "
            'run: pip install "capt-stage[llm]"'
        )
    assert "not counted" in "".join(estimate(desk.reasoning(), PAIRS, None))
    assert server.asked == []


def test_a_service_that_stays_away_ends_the_run_and_loses_nothing(
    server: LlmServer, desk: Desk
) -> None:
    server.faults = [None, None, None, *["529"] * 4]
    message = refusal(desk.write)
    assert "failed 4 times in a row, last: 529" in message
    assert KEY not in message
    assert len(stored(desk)) == 3
    desk.write()
    assert len(server.asked) == 7 + 4
    assert Counter(server.questions())["2 banded/lined"] == 5


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("401", "refuses the key in ANTHROPIC_API_KEY"),
        ("403", "refuses the key"),
        ("402", "payment"),
        ("404", "generate_prompts.model (claude-sonnet-5-5)"),
        ("500 x-should-retry=false", "not to try again"),
    ],
)
def test_a_refusal_of_the_service_ends_the_run_at_once(
    server: LlmServer, desk: Desk, fault: str, words: str
) -> None:
    server.faults = [None, fault]
    message = refusal(desk.write)
    assert len(server.asked) == 2
    assert words in message
    assert KEY not in message
    assert "[key]" in message


def test_one_refused_request_does_not_keep_the_others(server: LlmServer, desk: Desk) -> None:
    server.faults = ["400"]
    assert "1 questions have no usable answer" in refusal(desk.write)
    assert server.questions() == [q for q in QUESTIONS if not q.endswith(" banded/lined")]
    assert any(line.startswith("attributes of banded: 400") for line in desk.said)
    desk.write()
    assert Counter(server.questions())["1 banded"] == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("400", "look at generate_prompts.model (claude-sonnet-5-5) and generate_prompts.max_"),
        ("413", "lower generate_prompts.prompts (2), shorten the class names"),
        ("422", "422 no luck with Bearer [key]"),
    ],
)
def test_a_refused_request_says_what_to_look_at(
    server: LlmServer, desk: Desk, fault: str, words: str
) -> None:
    server.faults = [fault]
    message = refusal(desk.write)
    assert f"attributes of banded: {fault} no luck with Bearer [key]" in message
    assert words in message
    assert len(message) < 500


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("provider", ["anthropic", "anthropic-batch"])
def test_a_redirect_is_named_and_not_followed(
    server: LlmServer, desk: Desk, status: int, provider: str
) -> None:
    with running() as other:
        where = other.url.replace("//", "//user:secret@") + "/v1/messages"
        server.faults = server.submit_faults = [f"{status} location={where}"]
        message = refusal(desk.write, provider=provider)
        assert other.keys == set()
    host = other.url.removeprefix("http://")
    assert f"the service answers {status}, a redirect to {host}; requests are never" in message
    assert "secret" not in message


def test_the_key_is_not_sent_to_where_results_are_said_to_be(server: LlmServer, desk: Desk) -> None:
    with running() as other:
        server.results_host = other.url
        message = refusal(desk.write, provider="anthropic-batch")
        assert "sends to " + other.url.removeprefix("http://") in message
        assert other.keys == set()
    server.results_host = None
    desk.write(provider="anthropic-batch")
    assert len(server.batches) == 3


def test_a_refused_count_ends_a_dry_run(server: LlmServer, desk: Desk) -> None:
    server.count_faults = ["400"]
    reasoning = desk.reasoning()
    with closing(Service(KEY, reasoning.settings)) as service:
        message = refusal(lambda: list(estimate(reasoning, PAIRS, service)))
    assert message.startswith("the service refuses: 400")


def test_a_wait_is_said(server: LlmServer, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_LINE", 0.05)
    server.faults = ["503 retry-after=0.4"]
    desk.write()
    assert (
        "waiting for answers of claude-sonnet-5-5: 0 here, 2 questions not asked yet; last "
        "attempt: status 503, asks to wait 0 s" in desk.said
    )


def test_classes_that_no_prompt_can_name_are_refused_before_anything_is_asked(
    server: LlmServer, desk: Desk
) -> None:
    alike = [ConfusedPair(("St", "St."), (1, 1))]
    long = [ConfusedPair(("a " * 40 + "b", "c " * 40 + "d"), (1, 1))]
    for pairs, words in ((alike, "cannot be told apart"), (long, "more than the 77 of the text")):
        message = refusal(write_prompts, desk.reasoning(), pairs, KEY, quiet, desk.said.append)
        assert words in message
        assert "data.classes" in message
    assert server.asked == []


def test_refused_requests_in_a_row_end_the_run(
    server: LlmServer, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "REFUSALS_IN_A_ROW", 2)
    server.faults = [None, "413", "413"]
    assert "refused 2 requests in a row, last: 413" in refusal(desk.write)
    assert len(server.asked) == 3
    assert len(stored(desk)) == 1


CONTENT = {
    "prose": "no JSON",
    "shape": "another form",
    "refusal": "refused",
    "truncated": "cut off (max_tokens)",
    "wrong-class": "difference is for",
    "names-other": 'does not name "',
    "long": "more than 77",
    "few": "0 prompts in commonality",
    "twice": "occurs twice",
    "domain": "what kind of image",
}


@pytest.mark.parametrize("fault", CONTENT)
def test_an_unusable_answer_is_kept_and_asked_for_again_with_the_reason(
    server: LlmServer, desk: Desk, fault: str
) -> None:
    server.faults = [None] * 5 + [fault]
    assert desk.write().calls == 8
    assert Counter(server.questions()) == {**dict.fromkeys(QUESTIONS, 1), "3 banded/lined": 2}
    (entry,) = [entry for entry in stored(desk) if len(entry.attempts) == 2]
    assert CONTENT[fault] in "; ".join(
        Entry(entry.question, entry.attempts[:1]).problems(desk.reasoning().rules)
    )
    first, again = (b for b in server.asked if title_of(b) == "3 banded/lined")
    if fault in ("refusal", "truncated"):
        assert again["messages"] == first["messages"]
        assert again["max_tokens"] == first["max_tokens"] * (2 if fault == "truncated" else 1)
    else:
        assert [m["role"] for m in again["messages"]] == ["user", "assistant", "user"]
        assert CONTENT[fault] in again["messages"][2]["content"]
    assert len(desk.reasoning().written(PAIRS).pairs) == 2


def test_an_answer_that_stays_unusable_is_reported_and_not_paid_for_again(
    server: LlmServer, desk: Desk
) -> None:
    server.faults = [None] * 5 + ["few"] * 3
    with pytest.raises(CaptError, match=r"1 questions .* first prompts of banded/lined: 0 prompts"):
        desk.write()
    assert len(server.asked) == 9
    assert "generate_prompts.attempts (3)" in refusal(desk.write)
    assert len(server.asked) == 9
    desk.write(attempts=4)
    assert len(server.asked) == 10


@pytest.mark.parametrize("fault", ["echo", "echo-escaped", "echo-stop"])
def test_a_key_in_an_answer_is_not_stored(server: LlmServer, desk: Desk, fault: str) -> None:
    server.faults = [None] * 3 + [fault]
    desk.write()
    text = everything_on_disk(desk)
    assert KEY not in text
    assert "[key]" in text
    assert server.keys == {f"Bearer {KEY}"}


def test_a_short_key_costs_an_answer_no_letters(server: LlmServer, desk: Desk) -> None:
    assert write_prompts(desk.reasoning(), PAIRS, "x", quiet, desk.said.append).calls == 7
    assert "[key]" not in everything_on_disk(desk)


def test_a_key_that_a_header_echoes_is_not_logged(
    server: LlmServer, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults = [f"500 x-echo=Bearer {KEY}"]
    with caplog.at_level("DEBUG"):
        desk.write()
    assert "x-echo" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("fault", ["infinite", "nested", "endless", "digits"])
def test_what_no_file_can_hold_as_json_is_kept_as_text(
    server: LlmServer, desk: Desk, fault: str
) -> None:
    server.faults = [None] * 3 + [fault]
    assert desk.write().calls == 8
    (entry,) = [entry for entry in stored(desk) if len(entry.attempts) == 2]
    assert isinstance(entry.attempts[0].answer, str)


@pytest.mark.parametrize(
    ("fault", "calls"), [("surrogate", 8), ("outer-surrogate", 7), ("blocks", 7), ("no-stop", 8)]
)
def test_an_odd_answer_is_kept(server: LlmServer, desk: Desk, fault: str, calls: int) -> None:
    server.faults = [fault]
    assert desk.write().calls == calls
    assert len(stored(desk)) == 7


@pytest.mark.parametrize("fault", ["no-usage", "odd-usage"])
def test_an_answer_without_token_counts_is_kept(server: LlmServer, desk: Desk, fault: str) -> None:
    server.faults = [fault]
    assert desk.write().calls == 7
    assert len(server.asked) == 7
    assert {entry.attempts[0].tokens.input for entry in stored(desk)} == {0, 1000}


def test_several_calls_at_once(server: LlmServer, desk: Desk) -> None:
    server.delay = 0.05
    server.faults = ["500", None, "drop", None, "529"]
    desk.write(concurrency=8)
    assert Counter(server.questions()).keys() == set(QUESTIONS)
    assert len(server.asked) == 7 + 3
