"""Batches against a server that misbehaves, across restarts: nothing lost, nothing asked twice."""

from __future__ import annotations

import json
import re
import resource
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capt_core.prompts.llm import batches
from capt_core.prompts.llm.batches import BatchRun
from capt_core.prompts.llm.service import Service
from tests.prompts.conftest import PAIRS, STEPS, Desk
from tests.prompts.llm_server import KEY, LlmServer, title_of
from tests.refusals import refusal


def members(server: LlmServer) -> list[list[str]]:
    """Questions of each batch."""
    return [
        [title_of(member["params"]) for member, _ in batch["members"]]
        for batch in server.batches.values()
    ]


def everything(server: LlmServer) -> Counter[str]:
    return Counter(question for batch in members(server) for question in batch)


ONCE = dict.fromkeys((q for step in STEPS for q in step), 1)


def records(desk: Desk) -> list[Path]:
    return list((desk.folder / "batches").glob("*.json"))


def write(desk: Desk, **settings: Any) -> Any:
    return desk.write(provider="anthropic-batch", **settings)


def test_one_batch_a_step(server: LlmServer, desk: Desk) -> None:
    server.looks = 2
    spending = write(desk)
    assert members(server) == STEPS
    assert spending.dollars == pytest.approx(7 * (1000 * 2 + 200 * 10) / 2 / 1e6)
    assert len(desk.reasoning().written(PAIRS).pairs) == 2
    assert records(desk) == []
    # Live calls and batches share their answers.
    assert write(desk).calls == desk.write().calls == 0
    assert len(server.batches) == 3
    assert server.asked == []


def test_failed_members_are_asked_again(server: LlmServer, desk: Desk) -> None:
    server.batch_faults = [["expired", "api_error", "canceled"], ["api_error", None, None]]
    write(desk)
    assert members(server)[:3] == [STEPS[0], STEPS[0], ["1 banded"]]
    assert everything(server) == {**ONCE, "1 banded": 3, "1 lined": 2, "1 polka-dotted": 2}


def test_unusable_answers_are_asked_again_with_the_reason(server: LlmServer, desk: Desk) -> None:
    server.batch_faults = [[], [], ["few", "prose"]]
    write(desk)
    assert members(server)[3] == STEPS[2]
    (first, _), _ = server.batches["msgbatch_4"]["members"]
    assert "0 prompts in commonality" in first["params"]["messages"][2]["content"]


def test_a_refused_member_is_reported(server: LlmServer, desk: Desk) -> None:
    server.batch_faults = [["invalid_request_error"]]
    assert "attributes of banded: bad luck" in refusal(write, desk)
    assert len(desk.reasoning().written(PAIRS).pairs) == 1


def test_batches_that_bring_nothing_end_the_run(server: LlmServer, desk: Desk) -> None:
    server.batch_faults = [["expired"] * 3] * 9
    assert "3 batches in a row brought no answer" in refusal(write, desk, retries=2)
    write(desk, retries=9)
    assert desk.reasoning().missing(PAIRS) == []


@pytest.mark.parametrize("fault", ["half", "500", "0", "2"])
def test_results_that_break_off_are_fetched_again(
    server: LlmServer, desk: Desk, fault: str
) -> None:
    server.result_faults = [fault]
    write(desk)
    assert everything(server) == ONCE


@pytest.mark.parametrize("fault", ["half", "0", "2"])
def test_results_that_never_come_whole_name_the_record(
    server: LlmServer, desk: Desk, fault: str
) -> None:
    server.result_faults = [fault] * 5
    message = refusal(write, desk)
    (path,) = records(desk)
    assert re.search(r"batch msgbatch_1: .* 4 times in a row", message)
    assert str(path) in message
    paid = any("answers of claude-sonnet-5-5, $" in line for line in desk.said)
    assert paid == (fault != "0")
    write(desk)
    assert everything(server) == ONCE


def test_progress_of_a_batch_without_counts(server: LlmServer, desk: Desk) -> None:
    server.hide_counts, server.looks = True, 2
    write(desk)
    assert "batch msgbatch_1: in_progress" in desk.said
    assert any("after Ctrl-C, the same command goes on with it" in line for line in desk.said)


@pytest.mark.parametrize("fault", ["429 retry-after=0.05", "529", "drop", "drop-after", "html"])
def test_a_batch_that_may_have_been_taken_is_looked_for(
    server: LlmServer, desk: Desk, fault: str
) -> None:
    server.submit_faults = [fault]
    write(desk)
    assert everything(server) == ONCE
    assert records(desk) == []


@pytest.mark.parametrize("cut", [False, True])
def test_a_batch_is_recognised_without_counts_and_whole_results(
    server: LlmServer, desk: Desk, cut: bool
) -> None:
    server.hide_counts, server.submit_faults = True, ["drop-after"]
    server.result_faults = ["0", "1", "1"] if cut else []
    write(desk)
    assert everything(server) == ONCE


def test_a_batch_that_cannot_be_looked_for_names_the_record(server: LlmServer, desk: Desk) -> None:
    server.submit_faults = ["drop-after"]
    for _ in range(2):
        server.list_faults = ["404"]
        message = refusal(write, desk)
        (path,) = records(desk)
        assert "taken" in message
        assert f"remove {path} to ask anew" in message or f"ask anew, remove {path}" in message
    write(desk)
    assert everything(server) == ONCE


def test_a_batch_named_like_the_key_is_written_nowhere(server: LlmServer, desk: Desk) -> None:
    server.submit_faults = ["echo"] * 8
    message = refusal(write, desk)
    assert "the batch has the key in its name" in message
    (path,) = records(desk)
    assert KEY not in f"{message}{desk.said}{path.read_text()}"


def test_few_open_files_suffice(server: LlmServer, desk: Desk) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, open_now + 200), hard))
    try:
        write(desk)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert everything(server) == ONCE


@pytest.mark.parametrize("fault", ["400", "413", "431"])
def test_a_refused_look_for_a_batch_is_one_line(server: LlmServer, desk: Desk, fault: str) -> None:
    server.submit_faults, server.list_faults = ["drop-after"], [fault]
    message = refusal(write, desk)
    assert f"batch that may have been taken: the service refuses: {fault}" in message
    assert "to give it up and ask anew, remove" in message
    write(desk)
    assert everything(server) == ONCE


def test_a_batch_that_is_not_taken_leaves_no_record(server: LlmServer, desk: Desk) -> None:
    server.submit_faults = ["400"]
    assert "was not taken: 400" in refusal(write, desk)
    assert records(desk) == []


class Killed(BaseException):
    """Stands for the end of the process."""


def write_until(desk: Desk, owner: type, method: str, before: Callable[..., object]) -> None:
    """Write prompts, and end the process in a method, after what is to be done before its end."""

    def die(*arguments: Any) -> None:
        before(*arguments)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, die)
        with pytest.raises(Killed):
            write(desk)


def killed_with_a_batch(desk: Desk) -> Path:
    """The record of a batch that was submitted and not collected."""
    write_until(desk, BatchRun, "_finish", lambda *_: None)
    (path,) = records(desk)
    return path


def test_a_restart_goes_on_with_the_batch(server: LlmServer, desk: Desk) -> None:
    path = killed_with_a_batch(desk)
    assert json.loads(path.read_text())["batch_id"] == "msgbatch_1"
    assert KEY not in path.read_text()
    write(desk)
    assert everything(server) == ONCE


@pytest.mark.parametrize("taken", [True, False])
def test_a_restart_finds_a_batch_whose_id_was_never_written(
    server: LlmServer, desk: Desk, taken: bool
) -> None:
    submit = Service.submit
    write_until(desk, Service, "submit", submit if taken else lambda *_: None)
    (path,) = records(desk)
    assert json.loads(path.read_text())["batch_id"] is None
    write(desk)
    assert everything(server) == ONCE
    assert records(desk) == []


def test_a_restart_in_the_middle_of_the_results(server: LlmServer, desk: Desk) -> None:
    keep = BatchRun._keep
    write_until(desk, BatchRun, "_keep", keep)
    assert len(list(desk.reasoning().answers.entries())) == 1
    write(desk)
    assert everything(server) == ONCE


def test_a_batch_that_the_service_forgot_is_asked_again(server: LlmServer, desk: Desk) -> None:
    killed_with_a_batch(desk)
    server.batches.clear()
    write(desk)
    assert everything(server) == ONCE
    assert records(desk) == []
    assert any("does not know it any more" in line for line in desk.said)


def test_live_calls_keep_away_from_questions_in_a_batch(server: LlmServer, desk: Desk) -> None:
    path = killed_with_a_batch(desk)
    message = refusal(desk.write)
    assert "in a batch that is not collected yet" in message
    assert str(path) in message
    assert server.asked == []


def test_a_damaged_record_is_named_and_left(server: LlmServer, desk: Desk) -> None:
    path = desk.reasoning().answers.batches() / "x.json"
    path.write_text('{"created": ')
    for provider in ("anthropic", "anthropic-batch"):
        message = refusal(desk.write, provider=provider)
        assert "damaged record of a batch" in message
        assert str(path) in message
    assert path.exists()


def test_two_runs_at_once_ask_each_question_once(server: LlmServer, desk: Desk) -> None:
    server.looks = 3
    errors: list[BaseException] = []

    def run() -> None:
        try:
            write(Desk(desk.folder))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert everything(server) == ONCE


def test_large_jobs_are_handed_in_in_parts(
    server: LlmServer, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LARGEST", 2)
    write(desk)
    assert members(server)[:2] == [["1 banded", "1 lined"], ["1 polka-dotted"]]
    assert everything(server) == ONCE
