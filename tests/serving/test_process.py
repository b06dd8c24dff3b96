"""The command as a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from capt_core.methods.trained import TrainedModel
from tests.conftest import PROJECT
from tests.pipeline.commands import command
from tests.processes import environment
from tests.serving.conftest import NAMES, png


@pytest.fixture
def saved(model: TrainedModel, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    model.save(path)
    return path


def test_it_serves_until_it_is_ended(saved: Path) -> None:
    words = [sys.executable, "-m", "stages.cli", "serve", str(saved), "--port", "0", "--json"]
    with subprocess.Popen(
        words,
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            # The document is printed when requests are taken.
            lines = iter(process.stdout.readline, "}\n")
            document = json.loads("".join([*lines, "}"]))
            url = document["url"]
            reply = httpx2.post(f"{url}/predict", files={"image": ("secret.png", png())})
            assert reply.status_code == 200
            assert reply.json()["prediction"] in NAMES
            process.send_signal(signal.SIGTERM)
            rest, told = process.communicate()
        finally:
            process.kill()
    assert (document["classes"], document["images"]) == (len(NAMES), 0)
    assert process.returncode == 128 + signal.SIGTERM
    assert rest == ""
    assert "secret" not in told
    assert "Traceback" not in told
    assert "POST /predict 200" in told
    assert told.splitlines()[-1].startswith("terminated; no image was kept; to go on, run:")


def test_a_port_that_is_taken_is_one_line(saved: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command(["-q", "serve", str(saved), "--port", str(port)])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"--port {port}: taken" in done.stderr
