"""A local HTTP server that speaks the Messages and Batches interfaces, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-ant-not-to-be-seen-0123456789"

Fault = str | None
"""What goes wrong with one call; None: it is answered well."""


class LlmServer(ThreadingHTTPServer):
    """Counts what it is asked, answers in the form that is asked for.

    Attributes:
        faults: taken one after the other by single messages; later ones are answered well.
        batch_faults: fault of each member of a batch by position, taken batch by batch.
        submit_faults: taken by requests to create a batch.
        result_faults: taken by requests for results of a batch; a number is how many lines come.
        list_faults: taken by requests for the list of batches.
        count_faults: taken by requests to count tokens.
        results_host: where the results of batches are said to be; None: on this server.
        hide_counts: do not say how many members of a batch are open or done.
        asked: bodies of single messages in order of arrival.
        answered: bodies whose good answer was sent in full.
        on_ask: called with each body before it is answered.
        looks: times a batch is in progress before it has ended.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[Fault] = []
        self.batch_faults: list[list[Fault]] = []
        self.submit_faults: list[Fault] = []
        self.result_faults: list[Fault] = []
        self.list_faults: list[Fault] = []
        self.count_faults: list[Fault] = []
        self.results_host: str | None = None
        self.hide_counts = False
        self.asked: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.counted = 0
        self.batches: dict[str, dict[str, Any]] = {}
        self.keys: set[str | None] = set()
        self.on_ask: Callable[[dict[str, Any]], None] = lambda _: None
        self.looks = 0
        self.delay = 0.0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def questions(self) -> list[str]:
        """The step and the classes of every single message asked."""
        return [title_of(body) for body in self.asked]


@contextlib.contextmanager
def running() -> Iterator[LlmServer]:
    server = LlmServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def title_of(body: dict[str, Any]) -> str:
    text = body["messages"][0]["content"]
    step = re.match(r"Step (\d)", text)
    names = re.findall(r"^Class(?: [AB])?: (.*)$", text, re.MULTILINE)
    return f"{step.group(1) if step else '?'} {'/'.join(names)}"


def good_answer(body: dict[str, Any]) -> dict[str, Any]:
    """An answer that keeps to all that the question asks for."""
    text = body["messages"][0]["content"]
    form = body["output_config"]["format"]["schema"]["title"]
    names = re.findall(r"^Class(?: [AB])?: (.*)$", text, re.MULTILINE)
    if form == "AttributesAnswer":
        return {"class_name": names[0], "attributes": [f"trait {i} to see" for i in range(5)]}
    if form == "ReasonAnswer":
        return {"reason": f"Both {names[0]} and {names[1]} show the same traits."}
    if form == "DescriptionsAnswer":
        asked = re.findall(r"^- (.*)$", text, re.MULTILINE)
        count = int(re.findall(r"write (\d+) phrases", text)[0])
        return {
            "class_name": names[0],
            "attributes": [
                {"attribute": each, "phrases": [f"{each} number {i}" for i in range(count)]}
                for each in asked
            ],
        }
    first, second = names
    medium = re.search(r"at least one of these\s+words: (\w+)", text)
    found = re.search(r"Write (\d+) commonality", text)
    assert medium
    assert found
    word, count = medium.group(1), int(found.group(1))
    return {
        "commonality": [f"a {word} of {first} or {second}, trait {i}" for i in range(count)],
        "difference": [
            {"class_name": n, "prompts": [f"a {word} of {n}, mark {j}{i}" for i in range(count)]}
            for j, n in enumerate((first, second))
        ],
    }


def _spoil_phrases(answer: dict[str, Any], fault: str) -> None:
    """Put a fault into the answer about a class alone."""
    entries = answer["attributes"]
    if fault == "lacks":
        entries.pop()
    elif fault == "wrong-class":
        answer["class_name"] = "something else"
    elif fault == "few":
        entries[0]["phrases"].pop()
    elif fault == "twice":
        entries[0]["phrases"] = entries[1]["phrases"]
    elif fault == "long":
        entries[0]["phrases"][0] += " and so on" * 60


def _spoil(prompts: dict[str, Any], fault: str) -> None:
    """Put a fault into the answer of the last step."""
    common, (first, second) = prompts["commonality"], prompts["difference"]
    if fault == "wrong-class":
        first["class_name"] = "something else"
    elif fault == "names-other":
        first["prompts"] = second["prompts"]
    elif fault == "long":
        common[0] += " and so on" * 60
    elif fault == "few":
        common.clear()
    elif fault == "twice":
        common[:] = [common[0]] * len(common)
    elif fault == "domain":
        common[:] = [text.partition(" of ")[2] for text in common]


TEXT_FAULTS: dict[str, Callable[[str], str]] = {
    "shape": lambda text: f'{{"prompts": [{text}]}}',
    "truncated": lambda text: text[: len(text) // 2],
    "surrogate": lambda text: text.replace("to see", r"\ud800 to see"),
    "outer-surrogate": lambda text: text.replace("to see", "\ud800 to see"),
    "prose": lambda _: "Certainly! Here is what I see: bands.",
    "echo": lambda _: json.dumps({"reason": f"The key is {KEY}."}),
    "echo-escaped": lambda _: (
        '{"reason": "' + "".join(f"\\u{ord(letter):04X}" for letter in KEY) + '"}'
    ),
    "infinite": lambda _: '{"reason": 1e999}',
    "nested": lambda _: '{"reason": ' * 250 + "1" + "}" * 250,
    "endless": lambda _: "[" * 50_000,
    "digits": lambda _: '{"reason": ' + "9" * 5000 + "}",
}
STOPS = {"truncated": "max_tokens", "echo-stop": KEY, "refusal": "refusal"}


def message(body: dict[str, Any], fault: Fault = None) -> dict[str, Any]:
    """The message that answers a request, with a fault in its content."""
    answer = good_answer(body)
    if fault and "commonality" in answer:
        _spoil(answer, fault)
    if fault and "attributes" in answer and isinstance(answer["attributes"][0], dict):
        _spoil_phrases(answer, fault)
    text = TEXT_FAULTS.get(fault or "", str)(json.dumps(answer))
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if fault == "blocks":
        content = [{"type": "zebra", "stripes": 1}, {"type": "thinking"}, *content]
    usage: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 200}
    if fault == "odd-usage":
        usage = {"input_tokens": 10**4000, "output_tokens": -5}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [] if fault == "refusal" else content,
        "stop_reason": None if fault == "no-stop" else STOPS.get(fault or "", "end_turn"),
        "stop_sequence": None,
        "usage": None if fault == "no-usage" else usage,
    }


# Declared length, content type and bytes sent of bodies that are not what was asked for.
BODIES = {
    "half": (5000, "application/json", b'{"id": "msg_1", "content": ['),
    "html": (20, "text/html", b"<html>moment</html>."),
    "empty": (0, "application/json", b""),
    "broken": (10, "application/json", b'{"id": "ms'),
    "deep": (100_000, "application/json", b"[" * 100_000),
}
ENDS, ERRORS = ("expired", "canceled"), ("invalid_request_error", "api_error")
VALUES: dict[str, Any] = {"fields": {"type": "message", "id": "msg_1"}, "list": [1, 2]}


class _Handler(BaseHTTPRequestHandler):
    server: LlmServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.keys.add(self.headers.get("authorization"))
        if self.path == "/v1/messages":
            self._message(body)
        elif self.path == "/v1/messages/count_tokens":
            self.server.counted += 1
            faults = self.server.count_faults
            if not self._failed(faults.pop(0) if faults else None):
                self._send(200, {"input_tokens": 1234})
        elif self.path == "/v1/messages/batches":
            self._create(body)
        else:
            self._send(404, _error("not_found_error", self.path))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.removeprefix("/v1/messages/batches").strip("/").partition("/")[0]
        if not name:
            faults = self.server.list_faults
            if self._failed(faults.pop(0) if faults else None):
                return
            made = [_public(self.server, b) for b in reversed(self.server.batches.values())]
            self._send(200, {"data": made, "has_more": False, "first_id": None, "last_id": None})
        elif name not in self.server.batches:
            self._send(404, _error("not_found_error", "no such batch"))
        elif path.endswith("/results"):
            self._results(self.server.batches[name])
        else:
            batch = self.server.batches[name]
            batch["looks"] -= 1
            self._send(200, _public(self.server, batch))

    def _message(self, body: dict[str, Any]) -> None:
        with self.server.lock:
            self.server.asked.append(body)
            self.server.times.append(time.monotonic())
            fault = self.server.faults.pop(0) if self.server.faults else None
        self.server.on_ask(body)
        if self.server.delay:
            time.sleep(self.server.delay)
        if self._failed(fault):
            return
        self._send(200, message(body, fault))
        if fault is None:
            with self.server.lock:
                self.server.answered.append(body)

    def _failed(self, fault: Fault) -> bool:
        """Break the call in the way that a fault says; False if it says nothing about the call."""
        if fault is None:
            return False
        status, _, extra = fault.partition(" ")
        if status.isdigit():
            headers = dict([extra.split("=", 1)]) if extra else {}
            echo = f"no luck with {self.headers.get('authorization')}"
            self._send(int(status), _error("api_error", echo), headers)
        elif fault == "drop":
            self._drop()
        elif fault == "stall":
            time.sleep(3)
            self._drop()
        elif fault == "trickle":
            self._start(200, 5000)
            with contextlib.suppress(OSError):
                for _ in range(40):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
        elif fault in BODIES:
            length, kind, data = BODIES[fault]
            self._start(200, length, kind)
            self.wfile.write(data)
            if len(data) < length:
                self._drop()
        elif fault in VALUES:
            self._send(200, VALUES[fault])
        else:
            return False
        return True

    def _create(self, body: dict[str, Any]) -> None:
        server = self.server
        fault = server.submit_faults.pop(0) if server.submit_faults else None
        if fault not in (None, "drop-after", "echo") and self._failed(fault):
            return
        with server.lock:
            name = f"msgbatch_{len(server.batches) + 1}" + (KEY if fault == "echo" else "")
            members = body["requests"]
            faults = server.batch_faults.pop(0) if server.batch_faults else []
            faults = (faults + [None] * len(members))[: len(members)]
            now = datetime.now(UTC)
            server.batches[name] = {
                "id": name,
                "created": now,
                "members": list(zip(members, faults, strict=True)),
                "looks": server.looks,
            }
        if fault == "drop-after":
            self._drop()
            return
        self._send(200, _public(server, server.batches[name]))

    def _results(self, batch: dict[str, Any]) -> None:
        fault = self.server.result_faults.pop(0) if self.server.result_faults else None
        lines = []
        for member, member_fault in reversed(batch["members"]):
            result: dict[str, Any]
            if member_fault in ENDS:
                result = {"type": member_fault}
            elif member_fault in ERRORS:
                result = {"type": "errored", "error": _error(member_fault, "bad luck")}
            else:
                result = {"type": "succeeded", "message": message(member["params"], member_fault)}
            lines.append(json.dumps({"custom_id": member["custom_id"], "result": result}))
        text = ("\n".join(lines) + "\n").encode()
        if fault is not None and fault.isdigit():  # so many lines, and no sign that it is not all
            text = "".join(f"{line}\n" for line in lines[: int(fault)]).encode()
        self._start(200, len(text), "application/x-jsonl")
        self.wfile.write(text[: len(text) // 2] if fault == "half" else text)
        if fault == "half":
            self._drop()

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        with contextlib.suppress(OSError):
            self._start(status, len(data), **(headers or {}))
            self.wfile.write(data)

    def _start(
        self, status: int, length: int, kind: str = "application/json", **headers: str
    ) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": length, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _drop(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


def _public(server: LlmServer, batch: dict[str, Any]) -> dict[str, Any]:
    ended = batch["looks"] <= 0
    faults = [fault for _, fault in batch["members"]]
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    counts["processing"] = 0 if ended else len(faults)
    if ended:
        counts["errored"] = sum(fault in ERRORS for fault in faults)
        counts["expired"] = sum(fault in ENDS for fault in faults)
        counts["succeeded"] = len(faults) - counts["errored"] - counts["expired"]
    host = server.results_host or server.url
    return {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": None if server.hide_counts else counts,
        "created_at": batch["created"].isoformat(),
        "expires_at": (batch["created"] + timedelta(days=1)).isoformat(),
        "ended_at": batch["created"].isoformat() if ended else None,
        "results_url": f"{host}/v1/messages/batches/{batch['id']}/results" if ended else None,
    }


def _error(kind: str, text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text}}
