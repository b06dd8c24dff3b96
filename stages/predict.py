"""Tool predict: classify images with a trained model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from capt_core import __version__
from capt_core.artifacts.blocks import Blocks, write_blocks
from capt_core.artifacts.digests import content_digest
from capt_core.artifacts.locks import exclusive
from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.data.image_lists import ImageList, Listed, list_images
from capt_core.data.remote.opening import ASKED_AT_ONCE, changed_before, is_elsewhere
from capt_core.errors import CaptError, cut
from capt_core.methods.calibrating import described
from capt_core.methods.other_names import among
from capt_core.methods.predicting import PREDICT_COLUMNS, no_progress, predict_blocks
from capt_core.methods.task import fitted_facts
from capt_core.methods.trained import TrainedModel
from capt_core.params import load_settings, settings_hash
from capt_core.prompts.sources import written_store
from capt_core.text import clean_name
from capt_core.user_paths import brief

from . import options, shards
from .console import note, progress, reporter, result, say, warn
from .models import trained_model

_BLOCK = 512  # images that are classified and kept at once


def main(
    model: Annotated[Path, typer.Argument(help="File that train or TrainedModel.save wrote.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, folders of images, tables with a column path, and tar shards; also "
            "behind s3://, gs:// and https://."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Table to write, .csv or .parquet; printed if not given.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder that paths in tables are relative to; the table's if not given."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to list per image.")] = 5,
    shard: shards.Option = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Name to choose among in place of the model's classes. Repeatable, two or more.",
        ),
    ] = None,
    params: options.Params = options.PARAMS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    if out is not None:
        _check_out(out, [model, *images])
    elif shard is not None:
        raise CaptError("--shard keeps its answers beside the table to write; add --out FILE")
    found = list_images(images, root)
    settings, _ = load_settings(params, None, set_ or ())
    loaded = trained_model(model, settings)
    if class_:
        dataset = loaded.provenance.dataset
        store = written_store(settings.generate_prompts, dataset)
        loaded = among(loaded, list(map(clean_name, class_)), store, reporter())
    backbone = loaded.fitted.backbone
    work = _Work(loaded, found, top, settings.runtime.workers)
    counts, rows = _Counts(), list[dict[str, Any]]()
    if out is not None:
        made_from = {
            "model": content_digest(model),
            "images": found.digest(),
            "classes": _asked(loaded) if class_ else None,
            "block": _BLOCK,
            "top": top,
            "backbone": backbone.identity,
            "device": f"{backbone.device.type} {backbone.autocast}",
            "version": __version__,
        }
        _write(work, out, made_from, counts, shard)
    elif json:
        with progress("classified", len(found)) as advance:
            for table in work.tables(range(work.blocks), advance):
                counts.take(_Counts.of(table))
                rows += table.to_dicts()
    else:
        for table in work.tables(range(work.blocks)):
            counts.take(_Counts.of(table))
            result(None, *map(_line, table.iter_rows(named=True)))
    if counts.problems < counts.images and shard is None:
        _summarise(counts, loaded, bool(class_), note if out is None else say)
    if backbone.untrained:
        warn(UNTRAINED_WARNING)
    if json:
        calibration = loaded.calibration and asdict(loaded.calibration)
        document = asdict(counts) | {"calibration": calibration, "out": out and str(out)}
        document["left_out"] = list(loaded.fitted.left_out)
        if not _tells_unsure(loaded):
            document["unsure"] = None
        result(document | ({"rows": rows} if out is None else {}))
    if counts.images and counts.problems == counts.images and shard is None:
        where = f"; see the column problem of {out}" if out else ""
        raise CaptError(
            f"none of {counts.images} images could be used ({counts.first_problem}){where}; give "
            "others"
        )


def _asked(model: TrainedModel) -> str:
    """Digest of classes that the model was not trained with, and of their texts."""
    return settings_hash(model.class_names, *fitted_facts(model.fitted))


def _check_out(out: Path, inputs: list[Path]) -> None:
    """Refuse a table that could not be written after hours of work, or would destroy what is read.

    Raises:
        CaptError: another ending, a folder, or one of the inputs.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise CaptError(f"--out {out}: expected a name that ends in .csv or .parquet")
    if out.is_dir():
        raise CaptError(f"--out {out}: a folder; name a file")
    if any(out.absolute() == path.absolute() for path in inputs) or (
        out.exists() and any(path.exists() and out.samefile(path) for path in inputs)
    ):
        raise CaptError(f"--out {out}: one of the files to read; name another")


@dataclass
class _Work:
    """Images to classify, block by block."""

    model: TrainedModel
    images: ImageList
    top: int
    workers: int

    @property
    def blocks(self) -> int:
        return -(-len(self.images) // _BLOCK)

    def listed(self, number: int) -> list[Listed]:
        """The images of a block."""
        return self.images.block(number * _BLOCK, (number + 1) * _BLOCK)

    def tables(
        self, numbers: Iterable[int], advance: Callable[[int], None] = no_progress
    ) -> Iterator[pl.DataFrame]:
        """Answers about the images of blocks, which are read ahead of the model."""
        asked = deque[list[Listed]]()

        def files() -> Iterator[list[Path]]:
            for number in numbers:
                asked.append(self.listed(number))
                yield [image.file for image in asked[-1] if image.problem is None]

        for answers in predict_blocks(
            self.model, files(), self.top, "report", workers=self.workers, advance=advance
        ):
            listed = asked.popleft()
            advance(len(listed) - len(answers))
            yield pl.DataFrame(_rows(listed, answers), schema=PREDICT_COLUMNS)

    def changed(self, number: int, answers: pl.DataFrame, since: int) -> bool:
        """Whether images of a block were changed, came or went since it was answered."""
        listed = self.listed(number)
        unusable = answers["problem"].is_not_null()
        asked = [
            (image.file, not known_bad)
            for image, known_bad in zip(listed, unusable, strict=True)
            if image.problem is None and not image.versioned
        ]
        if not any(is_elsewhere(file) for file, _ in asked):
            return any(_touched(file, since, missing=missing) for file, missing in asked)
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            touched = pool.map(lambda each: _touched(each[0], since, missing=each[1]), asked)
            return any(touched)


def _touched(file: Path, since: int, *, missing: bool) -> bool:
    """Whether a file is as new as a time in ns, or newer; `missing` if there is none."""
    if is_elsewhere(file):
        try:
            when = changed_before(file)
        except OSError:
            return missing
        return when is None or when * 1e9 >= since  # what tells no time may be new
    try:
        status = file.stat()
    except NotADirectoryError:
        return False  # a row of a table that holds its images, whose own time is in the key
    except OSError:
        return missing
    # A file that another one replaced may have an old time of modification.
    return max(status.st_mtime_ns, status.st_ctime_ns) >= since


def _rows(listed: list[Listed], answers: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Answers under the paths of the list, between images that were not looked at."""
    answered = answers.iter_rows(named=True)
    for image in listed:
        row = {"problem": image.problem} if image.problem else next(answered)
        yield row | {"path": image.path}


def _write(
    work: _Work,
    out: Path,
    made_from: Mapping[str, Any],
    counts: _Counts,
    shard: shards.Shard | None,
) -> None:
    """Write the table; an interrupted run of the same command goes on with what is kept.

    Of a shard the answers are only kept.
    """
    mine = f".{shard.number}-{shard.count}" if shard else ""
    again = f"capt-stage predict --out {out}" + (f" --shard {shard}" if shard else "")
    with exclusive(out.with_name(f".{out.name}{mine}.lock"), again):
        # Shards that begin together make the folder of their blocks once.
        with exclusive(out.with_name(f".{out.name}.blocks.lock"), again, wait=True):
            kept = Blocks(out.with_name(f"{out.name}.partial"), made_from, PREDICT_COLUMNS)
        numbers = shard.of(work.blocks) if shard else range(work.blocks)
        total = sum(min(_BLOCK, len(work.images) - number * _BLOCK) for number in numbers)
        if kept.count and not shard:
            say(f"going on: {min(kept.count * _BLOCK, total)} images are classified")
        with progress("classified", total) as advance:
            for told in _answer(work, numbers, kept, advance):
                counts.take(told)
        if shard:
            say(f"shard {shard}: {total} images; to write {out}, run without --shard")
            return
        write_blocks(out, kept.all(work.blocks), _flat)
        kept.remove()
    say(f"{total} images -> {out}")


def _answer(
    work: _Work, numbers: Iterable[int], kept: Blocks, advance: Callable[[int], None]
) -> list[_Counts]:
    """Keep answers about the images of blocks, where there are no current ones; counts of each."""
    counts = dict[int, _Counts]()
    begun = deque[tuple[int, int]]()

    def missing() -> Iterator[int]:
        for number in numbers:
            table = kept.read(number)
            if table is None or work.changed(number, table, kept.begun(number)):
                begun.append((number, kept.now()))
                yield number
            else:
                advance(len(table))
                counts[number] = _Counts.of(table)

    for table in work.tables(missing(), advance):
        number, when = begun.popleft()
        kept.write(number, table, when)
        counts[number] = _Counts.of(table)
    return [counts[number] for number in sorted(counts)]


@dataclass
class _Counts:
    """Images, and what became of them."""

    images: int = 0
    problems: int = 0
    changed: int = 0
    unsure: int = 0
    first_problem: str = ""

    @staticmethod
    def of(table: pl.DataFrame) -> _Counts:
        bad, first = table.filter(pl.col("problem").is_not_null()), ""
        if len(bad):
            path, why = bad.row(0, named=True)["path"], bad["problem"][0]
            first = f"{brief(path or 'a row')}: {why}"
        changed, unsure = int(table["changed"].sum()), int(table["unsure"].sum())
        return _Counts(len(table), len(bad), changed, unsure, first)

    def take(self, other: _Counts) -> None:
        """Add those of images behind these."""
        self.images += other.images
        self.problems += other.problems
        self.changed += other.changed
        self.unsure += other.unsure
        self.first_problem = self.first_problem or other.first_problem


def _summarise(
    counts: _Counts, model: TrainedModel, others: bool, tell: Callable[[str], None]
) -> None:
    if counts.problems:
        warn(
            f"{counts.problems} of {counts.images} images could not be used "
            f"({counts.first_problem}{', ...' if counts.problems > 1 else ''})"
        )
    tell(f"{counts.changed} answers differ from those of {model.start[0].method.label}")
    for missed in model.fitted.left_out:
        tell(f"the model is {missed}")
    if model.calibration is None:
        reason = "no (or too few) validation images when the model was trained"
        if others:
            reason = "the classes are not those that the model was trained with"
        tell(f"confidences are not calibrated: {reason}")
    else:
        unsure = f"{counts.unsure} unsure" if _tells_unsure(model) else "column unsure is empty"
        tell(f"{unsure}: {described(model.calibration)}")


def _tells_unsure(model: TrainedModel) -> bool:
    return model.calibration is not None and model.calibration.threshold is not None


def _line(row: dict[str, Any]) -> str:
    """A row for people."""
    path = cut(row["path"] or "a row without a path", 1000)
    if row["problem"]:
        return f"{path}: not classified ({row['problem']})"
    line = f"{path}: {row['prediction']} ({row['confidence']:.1%})"
    if row["changed"]:
        line += f", before: {row['base_prediction']} ({row['base_confidence']:.1%})"
    return line + (", unsure" if row["unsure"] else "")


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Columns that a CSV can hold: lists become text, separated by semicolons."""
    return table.with_columns(
        pl.col("top_classes").list.join("; "),
        pl.col("top_confidences").list.eval(pl.element().round(4).cast(pl.String)).list.join("; "),
    )
