"""Pages that need nothing but themselves."""

from __future__ import annotations

import base64
from collections.abc import Callable

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


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a ``data:`` URI of the given media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
