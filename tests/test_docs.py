"""The documentation as pages, and the files that speak about the project."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import capt_core
from capt_core.data.registry import DATASETS
from capt_core.methods.registry import check_sections, configured_method
from tests.conftest import PROJECT
from tests.processes import python

TEXT = """# Title

Lead.

## One

```
## no heading
```

### Below

## Two

Last.
"""


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", PROJECT / "docs/pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_section_ends_where_the_next_begins(pages: ModuleType) -> None:
    assert pages.section(TEXT, "") == "# Title\n\nLead.\n"
    assert pages.section(TEXT, "One") == "## One\n\n```\n## no heading\n```\n\n### Below\n"
    assert pages.section(TEXT, "Below") == "### Below\n"
    assert pages.section(TEXT, "Two") == "## Two\n\nLast."
    for missing in ("no heading", "Three"):
        with pytest.raises(ValueError, match="no section is called"):
            pages.section(TEXT, missing)
    with pytest.raises(ValueError, match=r"no file NOTHING\.md"):
        pages.on_page_markdown("{{ NOTHING.md }}")


def test_the_pages_build_and_need_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = python("-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "{{ " not in text, page
        for source in ('src="http', 'rel="stylesheet" href="http'):
            assert source not in text, page
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    for place in capt_core._PLACES.values():
        assert f'id="{place.replace(":", ".")}"' in api, place
    # The README speaks of docs/ from outside it.
    assert 'href="tutorial.html"' in (tmp_path / "own-images.html").read_text(encoding="utf-8")
    assert "promptsrc" in (tmp_path / "methods.html").read_text(encoding="utf-8")


def test_versions_and_licences_agree() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] == capt_core.__version__
    assert citation["license"] == project["license"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()


def test_the_source_distribution_holds_what_the_readme_speaks_of() -> None:
    listed = (PROJECT / "MANIFEST.in").read_text(encoding="utf-8").split()
    for path in PROJECT.glob("*.md"):
        assert path.name == "README.md" or path.name in listed


def test_published_settings_by_data_set_are_settings(tmp_path: Path) -> None:
    text = (PROJECT / "docs/methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "params.yaml"
    path.write_text(block, encoding="utf-8")
    for name in yaml.safe_load(block)["per_dataset"]:
        assert name in DATASETS
        check_sections(path, name)
    assert configured_method("tap", path, "sun397").settings.length_quantile == 0.95
    assert configured_method("coop", path, "imagenet").settings.epochs == 50
    assert configured_method("coop", path, "dtd").settings.epochs == 200
