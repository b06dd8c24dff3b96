"""Tool submit: the study, the table of all methods, features or predictions as jobs of a queue."""

from __future__ import annotations

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from capt_core.addresses import absence, address_of, public
from capt_core.artifacts.layout import StudyLayout, TablesLayout
from capt_core.data.remote.braces import is_pattern
from capt_core.errors import CaptError, shown
from capt_core.method_table import rows_of
from capt_core.user_paths import brief, user_path

from . import options, plans
from .console import result
from .sending import Plan, document_of, line_of, records, send
from .submitted import Executor, Ledger, Resources, states
from .tables import Work

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

_OWN = (
    "array",
    "dependency",
    "error",
    "kill-on-invalid-dep",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "signal",
)
"""Options of sbatch that follow from the jobs."""

_INSTEAD = {"time": "--time", "cpus-per-task": "--cpus"}
"""Options of sbatch that jobs have to know, and those of `submit` that tell them."""

Many = Annotated[int, typer.Option(min=1, max=100_000, help="Jobs that share the images.")]


def _queue_options(
    executor: Annotated[Executor, typer.Option(help="Who runs the jobs.")] = Executor.local,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at once: 1 on this machine if not given, 256 per array."),
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores, so threads, of a job.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of a job.")] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.001, help="Memory of a job in GB (Slurm).")
    ] = None,
    minutes: Annotated[
        int | None,
        typer.Option(
            "--time", min=1, metavar="MINUTES", help="Time limit of a job; 720 in Slurm by default."
        ),
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition (Slurm).")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="Further option of sbatch: account=ours. Repeatable."),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(help="Line of shell before the job: 'module load cuda'. Repeatable (Slurm)."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until Slurm has run the jobs, and say how.")
    ] = False,
    json: options.Json = False,
) -> None:
    """The options that every command here has beside those of its plan."""


def _queued(plan: Callable[..., Plan]) -> Callable[..., None]:
    """A command that sends a plan, with the options of the queue after the plan's own."""

    @functools.wraps(plan)
    def call(**values: Any) -> None:
        queue = {name: values.pop(name) for name in inspect.signature(_queue_options).parameters}
        queue.pop("json")
        _send(functools.partial(plan, **values), **queue)

    own = inspect.signature(plan, eval_str=True).parameters
    more = inspect.signature(_queue_options, eval_str=True).parameters
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in (*own.values(), *more.values())
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


@app.command()
@_queued
def study(
    dataset: options.Dataset = "proctex",
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Name in capt_core/ablations.yaml; all if not given. Repeatable."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; those of the study's tables if not given."),
    ] = None,
    seed: options.Seeds = None,
    shards: Many = 1,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> Plan:
    """Every variant of the study and every draw, then the study's tables."""
    shared = plans.Shared(dataset, params, artifacts, list(set_ or ()))
    arrays = plans.study_plan(shared, _once(variant), _once(method), seed or (), shards)
    return Plan(f"study-{dataset}", artifacts, arrays, StudyLayout(artifacts).html)


@app.command()
@_queued
def tables(
    dataset: options.Dataset = "proctex",
    method: options.RowMethods = None,
    row: options.Rows = None,
    seed: options.Seeds = None,
    shards: Many = 1,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> Plan:
    """Every row and draw of the table of all methods, then the table."""
    rows = rows_of(row or (), method or ())
    shared = plans.Shared(dataset, params, artifacts, list(set_ or ()))
    work = Work.of(rows, dataset, seed, params, artifacts, shared.overrides)
    arrays = plans.tables_plan(shared, rows, work, shards)
    return Plan(f"tables-{dataset}", artifacts, arrays, TablesLayout(artifacts).html)


@app.command()
@_queued
def extract_features(
    dataset: options.Dataset,
    seed: options.Seeds = None,
    shards: Many = 1,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> Plan:
    """The data set prepared, its images encoded in shards, and these merged."""
    shared = plans.Shared(dataset, params, artifacts, list(set_ or ()))
    arrays = plans.features_plan(shared, plans.drawn(shared, seed or ()), shards)
    return Plan(f"features-{dataset}", artifacts, arrays)


@app.command()
@_queued
def predict(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Images, as predict takes them.")],
    out: Annotated[Path, typer.Option(help="Table to write, .csv or .parquet.")],
    root: Annotated[Path | None, typer.Option(help="As predict has it.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to list per image.")] = 5,
    class_: Annotated[
        list[str] | None, typer.Option("--class", help="As predict has it. Repeatable.")
    ] = None,
    shards: Many = 1,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> Plan:
    """Images classified in shards, and their table."""
    user_path(out, "--out")
    _check_files(model, images)
    words = ["--out", str(out), "--top", str(top)]
    words += [] if root is None else ["--root", str(root)]
    words += [word for name in class_ or () for word in ("--class", name)]
    words += [] if params is None else ["--params", str(params)]
    words += [word for text in set_ or () for word in ("--set", text)]
    arrays = plans.prediction_plan(words, [str(each) for each in (model, *images)], shards)
    return Plan(f"predict-{re.sub(r'[^A-Za-z0-9._-]', '_', out.name)}", artifacts, arrays, out)


@app.command()
def status(artifacts: options.Artifacts = options.ARTIFACTS, json: options.Json = False) -> None:
    """What has become of the jobs that were submitted last."""
    sent = [
        (path.stem, job)
        for path in sorted(records(artifacts).glob("*.json"))
        for job in Ledger(path).jobs.values()
    ]
    found = states([job for _, job in sent])
    known = [(plan, job, state) for (plan, job), state in zip(sent, found, strict=True)]
    counts = Counter(state.value for state in found)
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    result(
        {"jobs": [{"plan": plan} | document_of(job, state) for plan, job, state in known]},
        *(f"{plan}: {line_of(job, state)}" for plan, job, state in known),
        told or f"{records(artifacts)}: nothing was submitted",
    )


def _send(
    plan: Callable[[], Plan],
    executor: Executor,
    jobs: int | None,
    cpus: int | None,
    gpus: int | None,
    memory: float | None,
    minutes: int | None,
    partition: str | None,
    slurm: Sequence[str] | None,
    setup: Sequence[str] | None,
    wait: bool,
) -> None:
    if executor is not Executor.slurm:
        for name, given in (
            ("--memory", memory),
            ("--partition", partition),
            ("--slurm", slurm),
            ("--setup", setup),
        ):
            if given:
                raise CaptError(
                    f"{name}: only Slurm has it; give --executor slurm, or leave it out"
                )
    for text in filter(None, (partition, *(slurm or ()), *(setup or ()))):
        if not text.isprintable():
            raise CaptError(f"{shown(text)}: must be one line of plain characters")
    resources = Resources(
        jobs, minutes, cpus, gpus, memory, partition, _sbatch(slurm or ()), setup or ()
    )
    send(plan(), executor, resources, wait)


def _check_files(model: Path, images: Sequence[Path]) -> None:
    """Refuse what each job would refuse, and addresses that the files of the queue must not hold.

    Raises:
        CaptError: a file or folder is not there, or an address has credentials in it.
    """
    for each in (model, *images):
        address = None if each is model else address_of(each)
        if address is not None and (shown_as := public(address)) != address:
            raise CaptError(
                f"{brief(shown_as)}: given with a user name, password or query, which queues keep "
                "in files; name a table that lists such addresses"
            )
        elsewhere = address is not None or (each is not model and is_pattern(str(each)))
        if not elsewhere and not each.exists():
            raise CaptError(f"{each}: {absence(each)}; name a model, then images")


def _sbatch(given: Sequence[str]) -> dict[str, str | bool]:
    found: dict[str, str | bool] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.removeprefix("--")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise CaptError(f"--slurm {shown(text)}: expected an option of sbatch, as account=ours")
        if name in _OWN:
            raise CaptError(f"--slurm {name}: follows from the jobs; leave it out")
        if name in _INSTEAD:
            raise CaptError(f"--slurm {name}: give {_INSTEAD[name]}, which tells the jobs, too")
        found[name] = value if equals else True
    return found


def _once(given: Sequence[str] | None) -> list[str]:
    return list(dict.fromkeys(given or ()))
