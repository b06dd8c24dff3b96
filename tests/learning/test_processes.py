"""Sharing a step among processes: by hand in one, and for real in two."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

from capt_core.learning.processes import Processes
from tests.learning import train_toy
from tests.methods.capt.toy import toy_files
from tests.processes import python

EPOCHS = 3


def alone() -> Processes:
    return Processes(torch.device("cpu"))


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def test_one_process_has_all_the_rows() -> None:
    processes = alone()
    assert (processes.count, processes.first) == (1, True)
    assert processes.share(5) == [0, 1, 2, 3, 4]
    part = torch.arange(6.0).reshape(3, 2)
    assert processes.gather(part, 3) is part
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    processes.average_gradients([parameter])
    assert parameter.grad.tolist() == [1.0, 2.0]
    processes.wait()


@given(rows=st.integers(1, 40), count=st.integers(1, 8))
def test_shares_cover_the_rows_in_order_and_are_equally_long(rows: int, count: int) -> None:
    processes = alone()
    processes.count = count
    shares = []
    for processes.rank in range(count):
        shares.append(processes.share(rows))
    assert len({len(share) for share in shares}) == 1
    # What is gathered in order and cut off at the number of rows is the batch.
    assert [row for share in shares for row in share][:rows] == list(range(rows))
    assert len(shares[0]) * count < rows + count


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        toy_files(folder)
    train_toy.main("capt", one, EPOCHS)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = ["-m", "tests.learning.train_toy", "capt", two, EPOCHS]
    done = python(*launcher, *script, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "Starting with 2 processes" in done.stderr
    # Batches of odd numbers of rows are among them: the last row fills up a share.
    rows = pl.read_csv(one / "log.csv")["rows"]
    assert any(number % 2 for number in rows)
    assert json.loads((two / "steps.json").read_text()) == list(range(1, len(rows) + 1))
    expected = load_file(one / "model.safetensors")
    found = load_file(two / "model.safetensors")
    assert list(found) == list(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=name)
    assert_frame_equal(
        pl.read_csv(two / "log.csv"), pl.read_csv(one / "log.csv"), rel_tol=1e-5, abs_tol=1e-5
    )
