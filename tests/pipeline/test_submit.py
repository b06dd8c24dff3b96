"""Jobs of a queue: what is sent, in which order, and what becomes of those that fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from capt_core.errors import CaptError
from capt_core.method_table import rows_of
from stages import local_queue, plans, sending, slurm_queue, submitted
from stages.cli import app
from stages.console import output
from stages.job_arrays import Job, JobArray, needed_by, outstanding
from stages.queued_command import QueuedCommand
from stages.sending import Plan, send
from stages.submitted import Executor, Ledger, Resources, State, states
from stages.tables import Work
from tests.conftest import PROJECT

SECRET = "sk-not-to-be-written"


def job(name: str, *shell: str, done: Callable[[], bool] = lambda: False) -> Job:
    return Job(name, shell or ("true",), done)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are lines of shell, and looks at them come fast."""

    def command(words: Sequence[str], variables: Mapping[str, str | None]) -> QueuedCommand:
        return QueuedCommand(["sh", "-c", *words], os.getcwd(), variables)

    for module in (local_queue, slurm_queue):
        monkeypatch.setattr(module, "queued_command", command)
    monkeypatch.setattr(sending, "_LOOKS", dict.fromkeys(Executor, (0.02, 0.05)))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)


def failing(folder: Path) -> Plan:
    """An array with a job that fails, one that needs it, and one that runs at any rate."""
    good = job("good", f"echo $OMP_NUM_THREADS > {folder}/good")
    bad = job("bad", f"echo 'error: no images' >&2; test -e {folder}/mended")
    last = JobArray("last", (job("last", f"touch {folder}/last"),), ("rows",), at_any_rate=True)
    needing = JobArray("needing", (job("needing", f"touch {folder}/needing"),), ("rows",))
    arrays = [JobArray("rows", (good, bad)), needing, last]
    return Plan("plan", folder, arrays, folder / "last")


def test_only_what_is_out_of_date_and_what_needs_that_is_outstanding() -> None:
    arrays = [
        JobArray("a", (job("a1", done=lambda: True), job("a2"))),
        JobArray("b", (job("b1", done=lambda: True),), ("a",)),
        JobArray("c", (job("c1", done=lambda: True),)),
        JobArray("d", (job("d1", done=lambda: True), job("d2", done=lambda: True)), ("c",)),
    ]
    found = {array.name: [each.name for each in array.jobs] for array in outstanding(arrays)}
    assert found == {"a": ["a2"], "b": ["b1"]}
    assert [array.name for array in outstanding(arrays, ["d2"])] == ["a", "b", "d"]
    assert needed_by(outstanding(arrays)) == {"a2": [], "b1": ["a2"]}


@pytest.mark.usefixtures("shell")
def test_local_jobs_that_fail_are_listed_and_can_be_sent_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptError, match=r"^2 jobs failed or were not run.*run the same command"):
        send(failing(tmp_path), Executor.local, Resources(at_once=2, cpus=3), wait=False)
    assert (tmp_path / "good").read_text() == "3\n"
    assert (tmp_path / "last").exists()
    assert not (tmp_path / "needing").exists()
    out, told = capsys.readouterr()
    assert f"-> {tmp_path / 'last'}\n" in out
    (line,) = (line for line in told.splitlines() if line.startswith("warning: bad: "))
    assert "failed (error: no images); log: " in line
    assert "no images" in Path(line.rpartition("log: ")[2]).read_text()
    assert "warning: needing: not run" in told

    ledger = Ledger(tmp_path / "runs" / "jobs" / "plan.json")
    ended = dict(zip(ledger.jobs, states(list(ledger.jobs.values())), strict=True))
    assert ended == {"good": State.finished, "bad": State.failed, "last": State.finished}


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.usefixtures("shell")
def test_a_page_is_named_unless_writing_it_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], done: bool
) -> None:
    arrays = [JobArray("page", (job("page", "exit 1", done=lambda: done),))]
    plan = Plan("plan", tmp_path, arrays, tmp_path / "page.html")
    with contextlib.nullcontext() if done else pytest.raises(CaptError, match="1 jobs failed"):
        send(plan, Executor.local, Resources(), wait=False)
    lines = capsys.readouterr().out.splitlines()
    assert (f"-> {tmp_path / 'page.html'}" in lines) is done


@pytest.mark.usefixtures("shell")
def test_an_interrupt_ends_local_jobs_as_a_signal_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = f"trap 'touch {tmp_path}/ended; exit 143' TERM; touch {tmp_path}/began; sleep 60 & wait"
    plan = Plan("plan", tmp_path, [JobArray("long", (job("long", waits),))])

    def interrupt() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr(local_queue, "_LOOK", 0.02)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            send(plan, Executor.local, Resources(), wait=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "ended").exists()
    assert states(list(Ledger(tmp_path / "runs/jobs/plan.json").jobs.values())) != [State.queued]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Slurm's commands on the path; its queue."""
    folder = tmp_path / "bin"
    queue = tmp_path / "queue"
    folder.mkdir()
    queue.mkdir()
    stand_in = Path(__file__).with_name("slurm_stand_in.py")
    for name in ("sbatch", "squeue", "srun"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -SE {stand_in} {queue} {name} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setattr(submitted, "_PATIENCE", None)  # the stand-in runs the jobs meanwhile
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return queue


@pytest.mark.usefixtures("shell")
def test_slurm_gets_arrays_with_their_dependencies(
    tmp_path: Path,
    slurm: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    resources = Resources(
        at_once=7, minutes=90, cpus=3, gpus=1, memory=1.5, partition="gpu", slurm={"account": "us"}
    )
    for name in ("SLURM_CONF", "SBATCH_ACCOUNT", "SLURM_JOB_ID", "SBATCH_CPU_BIND"):
        monkeypatch.setenv(name, "value")
    send(failing(tmp_path), Executor.slurm, resources, wait=False)
    told = capsys.readouterr().out
    assert "4 jobs submitted (101, 102, 103)" in told
    assert f"capt-stage submit status --artifacts {tmp_path}" in told
    handed = [json.loads(path.read_text()) for path in sorted(slurm.glob("*.json"))]
    options = [each["options"] for each in handed]
    variables = handed[0]["variables"]
    assert (variables.get("SLURM_CONF"), variables.get("SBATCH_ACCOUNT")) == ("value", "value")
    assert variables.keys().isdisjoint({"SLURM_JOB_ID", "SBATCH_CPU_BIND"})
    for given in options:
        assert (given["time"], given["signal"]) == ("90", "USR2@90")
        assert (given["cpus-per-task"], given["gpus-per-node"]) == ("3", "1")
        assert (given["mem"], given["partition"], given["account"]) == ("1536M", "gpu", "us")
    assert options[0]["array"] == "0-1%2"
    kinds = [given.get("dependency") for given in options]
    assert kinds == [None, "afterok:101", "afterany:101"]

    # The first look runs them; those that have ended are sent again, and no others.
    app(["submit", "status", "--artifacts", str(tmp_path)], standalone_mode=False)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "needing" in line)
    what = "ended without a result (slurm 102); no log, so it was not started"
    assert line == f"plan: needing: {what}"
    app(["submit", "status", "--artifacts", str(tmp_path), "--json"], standalone_mode=False)
    found = {each["name"]: each["state"] for each in json.loads(capsys.readouterr().out)["jobs"]}
    assert found == {"good": "finished", "bad": "failed", "last": "finished", "needing": "lost"}
    assert (tmp_path / "good").read_text() == "3\n"
    files = [path for path in (tmp_path / "runs" / "jobs").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not any(SECRET.encode() in path.read_bytes() for path in files)

    (tmp_path / "mended").touch()
    plan = failing(tmp_path)
    rows = JobArray("rows", (job("good", done=lambda: True), plan.arrays[0].jobs[1]))
    send(Plan("plan", tmp_path, [rows, *plan.arrays[1:]]), Executor.slurm, Resources(), wait=True)
    told = capsys.readouterr().err
    assert "3 of 4 jobs to run" in told
    assert [f"{name}: finished" in told for name in ("good", "bad", "needing", "last")] == [
        False,
        True,
        True,
        True,
    ]
    assert (tmp_path / "needing").exists()


@pytest.mark.usefixtures("shell", "slurm")
def test_all_that_waits_for_a_failed_job_is_told_not_to_have_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = [JobArray("0", (job("0", "exit 1"),))]
    arrays += [JobArray(f"{n}", (job(f"{n}"),), (f"{n - 1}",)) for n in range(1, 6)]
    with pytest.raises(CaptError, match="6 jobs failed"):
        send(Plan("plan", tmp_path, arrays), Executor.slurm, Resources(), wait=True)
    told = [line for line in capsys.readouterr().err.splitlines() if "not run" in line]
    assert [line.split(":")[1] for line in told] == [f" {n}" for n in range(1, 6)]


@pytest.mark.usefixtures("shell", "slurm")
def test_what_is_queued_already_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan("plan", tmp_path, [JobArray("a", (job("a"),))])
    send(plan, Executor.slurm, Resources(), wait=False)
    monkeypatch.setattr(output, "json", False)
    monkeypatch.setattr(sending, "states", lambda jobs: [State.queued] * len(jobs))
    send(plan, Executor.slurm, Resources(), wait=False)
    told = capsys.readouterr().out
    assert "1 of 1 jobs to run, 1 of them in the queue already" in told
    assert "nothing new is submitted" in told


@pytest.mark.usefixtures("shell")
def test_what_sums_up_waits_for_new_jobs_though_it_is_queued(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*names: str) -> Plan:
        cells = JobArray("cells", tuple(map(job, names)))
        return Plan("plan", tmp_path, [cells, JobArray("sum", (job("sum"),), ("cells",), True)])

    monkeypatch.setattr(sending, "states", lambda jobs: [State.queued] * len(jobs))
    send(plan("a"), Executor.slurm, Resources(), wait=False)
    send(plan("a", "b"), Executor.slurm, Resources(), wait=False)
    paths = sorted(slurm.glob("*.json"))
    found = [json.loads(path.read_text())["options"].get("dependency") for path in paths]
    assert found == [None, "afterany:101", None, "afterany:101:103:102"]


@pytest.mark.parametrize(("minutes", "signal"), [(None, 90), (12, 90), (2, 15), (1, 7)])
def test_short_jobs_are_warned_late(minutes: int | None, signal: int) -> None:
    # Slurm may be a minute early, and a warned job ends.
    given = slurm_queue._parameters(Resources(minutes=minutes))
    assert given["signal_delay_s"] == signal


def test_slurm_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CaptError, match=r"Slurm does not take the jobs of rows.*--executor local"):
        send(failing(tmp_path), Executor.slurm, Resources(), wait=False)


@pytest.mark.usefixtures("shell", "slurm")
def test_what_slurm_has_finished_is_known_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan("plan", tmp_path, [JobArray("a", (job("a"),))])
    send(plan, Executor.slurm, Resources(), wait=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = list(Ledger(tmp_path / "runs" / "jobs" / "plan.json").jobs.values())
    assert states(jobs) == [State.finished]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--partition", "gpu"], "--partition: only Slurm has it"),
        (["--executor", "slurm", "--slurm", "array=1"], "--slurm array: follows from the jobs"),
        (["--executor", "slurm", "--slurm", "time=9"], "--slurm time: give --time"),
        (["--executor", "slurm", "--slurm", "a b"], "expected an option of sbatch"),
        (["--executor", "slurm", "--setup", "a\nb"], "must be one line"),
        (["--variant", "nothing"], "no variant 'nothing'"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(
    tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(CaptError, match=message):
        app(["submit", "study", "--artifacts", str(tmp_path), *words], standalone_mode=False)
    assert not list(tmp_path.rglob("*.json"))


def test_shared_stages_come_before_rows_and_rows_before_the_table(tmp_path: Path) -> None:
    shared = plans.Shared("proctex", None, tmp_path, ["runtime.workers=1"])
    rows = rows_of(["gda", "dpc_coop_released", "clip"], ())
    work = Work.of(rows, "proctex", [1, 3], None, tmp_path, shared.overrides)
    arrays = plans.tables_plan(shared, rows, work, shards=2)
    needed = needed_by(arrays)
    assert needed["shard-2"] == ["prepare"]
    assert needed["features"] == ["shard-1", "shard-2"]
    assert needed["on_coop-seed3"] == ["features"]
    assert needed["gda-seed3"] == ["on_clip-seed1", "on_clip-seed3"]
    assert needed["dpc_coop_released-seed1"] == ["on_coop-seed1", "on_coop-seed3"]
    assert len(needed["table"]) == 6
    words = {each.name: " ".join(each.words) for array in arrays for each in array.jobs}
    options = f"--dataset proctex --artifacts {tmp_path}"
    assert words["shard-2"] == (f"extract-features {options} --set runtime.workers=1 --shard 2/2")
    assert words["gda-seed3"] == (
        f"tables {options} --seed 3 --set runtime.workers=1 --only rows --row gda"
    )
    # Nothing is there yet.
    assert [array.name for array in outstanding(arrays)] == [array.name for array in arrays]


def test_predictions_take_paths_that_look_like_options(tmp_path: Path) -> None:
    arrays = plans.prediction_plan(["--out", "t.csv"], ["model", "-photos"], 2)
    assert arrays[0].jobs[1].words == (
        "predict", "--out", "t.csv", "--shard", "2/2", "--", "model", "-photos"
    )  # fmt: skip
    assert needed_by(arrays)["predictions"] == ["shard-1", "shard-2"]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """What would be sent."""
    found: list[Plan] = []
    monkeypatch.setattr("stages.submit.send", lambda plan, *_: found.append(plan))
    return found


def submit_predict(folder: Path, image: str, *more: str) -> None:
    (folder / "model").touch()
    words = ["submit", "predict", f"{folder / 'model'}", image, "--out", "t.csv", *more]
    app([*words, "--artifacts", str(folder)], standalone_mode=False)


@pytest.mark.parametrize(
    "image",
    ["https://host.org/1.jpg", "s3://bucket/new", "t-{0..1}.tar", "gs://bucket/t-{0..1}.tar"],
)
def test_predictions_take_images_elsewhere(tmp_path: Path, sent: list[Plan], image: str) -> None:
    submit_predict(tmp_path, image)
    (only,) = sent[0].arrays[0].jobs
    assert only.words[-1] == str(Path(image))


def test_predictions_choose_among_names(tmp_path: Path, sent: list[Plan]) -> None:
    submit_predict(tmp_path, "s3://bucket/new", "--class", "sea lion", "--class", "seal")
    (only,) = sent[0].arrays[0].jobs
    words = " ".join(only.words)
    assert "--class sea lion --class seal --" in words
    assert sent[0].written == Path("t.csv")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("ftp://host/x", r"ftp:/host/x: no such file or folder, nor an address that can be read"),
        ("missing.png", r"missing\.png: no such file"),
        ("https://host.org/1.jpg?key=SECRET", r"^https://host\.org/1\.jpg: given with"),
        ("https://me:SECRET@host.org/1.jpg", r"^https://host\.org/1\.jpg: given with"),
    ],
)
def test_predictions_refuse_what_is_missing_or_secret(
    tmp_path: Path, sent: list[Plan], image: str, message: str
) -> None:
    with pytest.raises(CaptError, match=message) as caught:
        submit_predict(tmp_path, image)
    assert "SECRET" not in str(caught.value)
    assert not sent


def test_jobs_that_run_at_once_get_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert local_queue._devices(None, 1) == {"CUDA_VISIBLE_DEVICES": "4,5,6"}
    assert local_queue._devices(1, 2) == {"CUDA_VISIBLE_DEVICES": "6"}
    assert local_queue._devices(0, 2) == {"CUDA_VISIBLE_DEVICES": ""}
    with pytest.raises(CaptError, match="too few for 2 jobs of 2 at once"):
        local_queue._devices(2, 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert local_queue._devices(2, 1) == {"CUDA_VISIBLE_DEVICES": "2,3"}
