"""Pages that need nothing but themselves: templates, data URIs, and what a script may read."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(name: str, **filters: Callable[..., object]) -> Template:
    """A packaged template; `svg_uri` and the given filters can be used in it."""
    environment = Environment(
        loader=PackageLoader("capt_core.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg_uri"] = lambda svg: data_uri(svg, "image/svg+xml")
    environment.filters.update(filters)
    return environment.get_template(name)


def packaged_script(name: str) -> tuple[str, str]:
    """A packaged script, and the source by which a content security policy allows it alone."""
    text = files("capt_core.reporting").joinpath("templates", name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return text, f"'sha256-{digest}'"


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a ``data:`` URI of the given media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def script_json(value: object) -> str:
    """JSON that can stand in a ``<script>`` element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
