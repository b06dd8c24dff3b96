"""generate-prompts with a language model, and the tools around prompts, on drawn textures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from capt_core.data.proctex import CLASS_NAMES
from capt_core.errors import CaptError
from capt_core.prompts.store import load_store
from stages.cli import app
from tests.conftest import PROJECT
from tests.pipeline.commands import SMALL
from tests.prompts.llm_server import KEY, LlmServer, running
from tests.refusals import refusal

NO_STORE = "generate_prompts.store=none"
LLM = (NO_STORE, "generate_prompts.provider=anthropic", "generate_prompts.retries=0")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    with running() as found:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", found.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        yield found


def prompts_of(artifacts: Path) -> pl.DataFrame:
    return pl.read_parquet(artifacts / "proctex/seed1/prompts.parquet")


def pairs_in(artifacts: Path) -> set[frozenset[str]]:
    pairs = pl.read_parquet(artifacts / "proctex/seed1/class_pairs.parquet")
    return {frozenset(row) for row in pairs.select("class_name", "paired_class").iter_rows()}


def test_prompts_are_written_once_and_used(
    server: LlmServer,
    copy: Path,
    again: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    again("generate-prompts", *LLM)
    count = len(pairs_in(copy))
    assert len(server.asked) == 15 + 2 * count
    table = prompts_of(copy)
    assert set(table["source"]) == {"anthropic/claude-sonnet-5-5"}
    assert table["prompt"].str.contains("photo of").all()
    again("cluster-prompts")
    first = (copy / "proctex/seed1/prompts.parquet").read_bytes()

    again("generate-prompts", *LLM)
    again("generate-prompts", *LLM[:2], "generate_prompts.concurrency=2")
    assert len(server.asked) == 15 + 2 * count
    assert (copy / "proctex/seed1/prompts.parquet").read_bytes() == first
    again("generate-prompts", NO_STORE, "generate_prompts.provider=store-only")
    assert prompts_of(copy).equals(table)

    streams = capsys.readouterr()
    assert "$" in streams.out
    everything = [path.read_bytes() for path in copy.rglob("*") if path.is_file()]
    everything += [(streams.out + streams.err + caplog.text).encode()]
    assert not any(KEY.encode() in content for content in everything)


def test_the_written_store_comes_before_the_language_model(
    server: LlmServer, copy: Path, again: Callable[..., None]
) -> None:
    again("generate-prompts", *LLM[1:])
    assert server.asked == []
    assert set(prompts_of(copy)["source"]) == {"hand-written"}


def test_a_failed_run_leaves_the_old_table_and_can_be_run_again(
    server: LlmServer, copy: Path, again: Callable[..., None]
) -> None:
    before = prompts_of(copy)
    server.faults = [None] * 20 + ["529"]
    with pytest.raises(CaptError, match="run again later"):
        again("generate-prompts", *LLM, "generate_prompts.concurrency=1")
    assert prompts_of(copy).equals(before)
    again("generate-prompts", *LLM)
    assert len(server.asked) == 15 + 2 * len(pairs_in(copy)) + 1


def test_without_a_key_the_missing_pairs_and_the_ways_on_are_named(
    copy: Path, again: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (None, "", "  "):
        monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
        if key is not None:
            monkeypatch.setenv("ANTHROPIC_API_KEY", key)
        for provider in ("anthropic", "anthropic-batch", "store-only"):
            setting = f"generate_prompts.provider={provider}"
            message = refusal(again, "generate-prompts", NO_STORE, setting)
            count = len(pairs_in(copy))
            assert f"no prompts are written for {count} pairs" in message
            first, second = sorted(min(pairs_in(copy), key=sorted))
            assert f"{first}/{second}" in message or f"{second}/{first}" in message
            for way in ("ANTHROPIC_API_KEY", "generate_prompts.store", "store-or-template"):
                assert way in message


def test_a_key_that_cannot_be_one_is_refused_unseen(
    copy: Path, again: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-one\nsk-two")
    message = refusal(again, "generate-prompts", *LLM)
    assert "ANTHROPIC_API_KEY" in message
    assert "sk-one" not in message


def dry_run(artifacts: Path, *overrides: str) -> str:
    return generate(artifacts, overrides, "--dry-run")


def generate(artifacts: Path, overrides: Iterable[str], *words_of: str) -> str:
    """Run the stage with words of its own; what it says."""
    words = ["generate-prompts", "--dataset", "proctex", "--artifacts", str(artifacts), *words_of]
    words += ["--params", str(PROJECT / "params.yaml"), "--seed", "1"]
    answers = f"generate_prompts.answers={artifacts / 'answers'}"
    for override in (*SMALL, answers, *overrides):
        words += ["--set", override]
    result = CliRunner().invoke(app, words)
    if isinstance(result.exception, CaptError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_dry_run_tells_calls_tokens_and_money_and_asks_nothing(
    server: LlmServer, copy: Path, again: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prompts_of(copy)
    count = len(pairs_in(copy))
    text = dry_run(copy, *LLM)
    assert f"attributes: 15 calls, {15 * 1234:,} tokens in" in text
    assert f"in all {15 + 2 * count} calls" in text
    dollars = float(text.partition("$")[2].partition(" ")[0])
    tokens_in, tokens_out = 1234 * (15 + 2 * count), 300 * 15 + count * (300 + 580)
    assert dollars == pytest.approx((2 * tokens_in + 10 * tokens_out) / 1e6, abs=0.006)
    batch = dry_run(copy, NO_STORE, "generate_prompts.provider=anthropic-batch")
    assert float(batch.partition("$")[2].partition(" ")[0]) == pytest.approx(dollars / 2, abs=0.011)
    assert server.asked == []
    assert server.counted > 0
    assert prompts_of(copy).equals(before)

    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert "not counted" in dry_run(copy, *LLM)
    assert "price not known" in dry_run(copy, *LLM, "generate_prompts.model=unheard-of")
    assert "every pair" in dry_run(copy)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    again("generate-prompts", *LLM)
    assert "0 calls" in dry_run(copy, *LLM)


def tool(*words: str) -> str:
    result = CliRunner().invoke(app, ["prompts", *words, "--params", str(PROJECT / "params.yaml")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_answers_can_be_read_and_checked(
    server: LlmServer, copy: Path, again: Callable[..., None]
) -> None:
    again("generate-prompts", *LLM)
    where = ["--dataset", "proctex", "--artifacts", str(copy)]
    where += ["--set", NO_STORE, "--set", f"generate_prompts.answers={copy / 'answers'}"]
    page = tool("show", "--class", "lined", *where)
    assert "lined: visible attributes (anthropic/claude-sonnet-5-5)" in page
    assert "lined: a photo of lined, mark" in page
    assert f"{15 + 2 * len(pairs_in(copy))} files" in tool("verify", *where)

    path = next((copy / "answers" / "prompts").glob("*.json"))
    path.write_text(path.read_text().replace("trait 0", "trait 9"))
    assert "1 problems in the prompts of proctex" in refusal(tool, "verify", *where)
    assert path.exists()
    again("generate-prompts", *LLM)
    assert len(list((copy / "answers" / "set-aside").iterdir())) == 1
    assert "damaged, set aside" in tool("verify", *where)


def test_import_and_export_by_command(copy: Path, tmp_path: Path) -> None:
    where = ["--dataset", "proctex", "--artifacts", str(copy)]
    where += ["--set", f"generate_prompts.answers={copy / 'answers'}"]
    tool("export", "--output", str(tmp_path), "--format", "release", *where)
    files = [tmp_path / f"proctex_prompt_{word}.json" for word in ("common", "distinct")]
    given = ["--common", str(files[0]), "--distinct", str(files[1])]
    target = tmp_path / "own.json"
    assert "30 of 30 classes" in tool("import", "--output", str(target), *given, *where)
    assert "exists already" in refusal(tool, "import", "--output", str(target), *given, *where)

    content = json.loads(files[1].read_text())
    files[1].write_text(json.dumps({**content, "lined": []}))
    target.unlink()
    assert "nothing was written" in refusal(tool, "import", "--output", str(target), *given, *where)
    assert not target.exists()
    told = tool("import", "--output", str(target), "--keep-sound", *given, *where)
    assert "problem: proctex_prompt_distinct.json: lined: the list is empty" in told
    own = ["--set", f"generate_prompts.store={target}"]
    assert "imported from" in tool("show", "--class", "veined", *where, *own)
    tool("verify", *where, "--store", str(target))


def test_trees_and_pairs_are_imported_by_command(copy: Path, tmp_path: Path) -> None:
    where = ["--dataset", "proctex", "--artifacts", str(copy)]
    names = list(CLASS_NAMES)
    tree = {name: {"size": [f"{name} in large", f"small {name}"]} for name in names}
    entry = {"attr_type": "size", "prompt_pair": ["a thin one.", "a thick one."]}
    pairs = {"0_1": {"classes": [0, 1], "prompt_pairs": [entry]}}
    files = {"tree": tree, "pairs": pairs, "pair-names": names[::-1]}
    given = []
    for option, content in files.items():
        (tmp_path / f"{option}.json").write_text(json.dumps(content))
        given += [f"--{option}", str(tmp_path / f"{option}.json")]
    target = tmp_path / "own.json"
    told = tool("import", "--output", str(target), *given, *where)
    assert "1 pairs" in told
    assert "30 of 30 classes" in told
    (pair,) = load_store(target).pairs
    assert pair.difference == {names[-1]: ["a thin one."], names[-2]: ["a thick one."]}
    own = ["--set", f"generate_prompts.store={target}"]
    assert "size: small lined" in tool("show", "--class", "lined", *where, *own)
    tool("verify", *where, "--store", str(target))
    alone = ["--output", str(tmp_path / "other.json"), *given[:2], *given[4:]]
    assert "--pairs FILE, which is not given" in refusal(tool, "import", *alone, *where)


def test_nothing_to_import_is_refused(tmp_path: Path) -> None:
    message = refusal(tool, "import", "--dataset", "dtd", "--output", str(tmp_path / "x.json"))
    assert message == "nothing to import; give --common, --distinct, --cupl, --tree or --pairs FILE"


def described(artifacts: Path) -> pl.DataFrame:
    table = pl.read_parquet(artifacts / "proctex/seed1/class_descriptions.parquet")
    return table.filter(pl.col("attribute").is_not_null())


def test_classes_are_described_once_for_methods_that_need_it(
    server: LlmServer, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = 15 + 2 * len(pairs_in(copy))
    for method in ("capt", "fudd"):
        assert "descriptions" not in generate(copy, LLM, "--dry-run", "--for", method)
    told = generate(copy, LLM, "--dry-run", "--for", "tap")
    assert f"descriptions: 30 calls, {30 * 1234:,} tokens in" in told
    assert server.asked == []

    generate(copy, LLM, "--for", "tap")
    assert len(server.asked) == 30 + pairs
    table = described(copy)
    assert set(table["class_name"]) == set(CLASS_NAMES)
    per_class = table.group_by("class_name", "attribute").len()
    assert (len(per_class), set(per_class["len"])) == (30 * 5, {4})
    # Other methods, draws and settings of the same questions pay nothing.
    for settings, words in ((LLM, ["--for", "cupl"]), ((*LLM[:1],), [])):
        generate(copy, settings, *words)
        assert described(copy).equals(table)
    assert len(server.asked) == 30 + pairs

    where = ["--dataset", "proctex", "--artifacts", str(copy), "--set", NO_STORE]
    where += ["--set", f"generate_prompts.answers={copy / 'answers'}"]
    assert "600 prompts of 30 classes" in tool(
        "export", "--output", str(tmp_path), "--format", "tap", *where
    )
    tree = json.loads((tmp_path / "proctex_tree.json").read_text())
    assert tree["banded"]["shape"][0] == "banded, shape number 0"
    told = tool(
        "import",
        "--output",
        str(tmp_path / "own.json"),
        "--tree",
        str(tmp_path / "proctex_tree.json"),
        *where,
    )
    assert "30 of 30 classes" in told
    assert "shape: shape number 0" in tool("show", "--class", "banded", *where)
    assert f"{30 + pairs} files" in tool("verify", *where)

    monkeypatch.delenv("ANTHROPIC_API_KEY")
    more = (*LLM, "generate_prompts.sentences=3")
    message = refusal(generate, copy, more, "--for", "lweib")
    assert "nothing is written about 30 classes that a method needs described (" in message


def test_what_the_store_describes_is_not_asked(server: LlmServer, copy: Path) -> None:
    generate(copy, LLM[1:], "--for", "tap", "--for", "lweib")
    assert server.asked == []
    assert set(described(copy)["source"]) == {"hand-written"}


def test_the_base_model_has_classes_described(
    server: LlmServer, copy: Path, again: Callable[..., None]
) -> None:
    answers = f"generate_prompts.answers={copy / 'answers'}"
    settings = (*LLM, answers, "fit_teacher.method=cupl")
    again("fit-teacher", *settings)
    assert len(server.asked) == 30
    again("fit-teacher", *settings)
    assert len(server.asked) == 30
