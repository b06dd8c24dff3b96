"""The page of the service: one document with its style and script inside."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from capt_core.serving.answers import Answerer
from capt_core.serving.uploads import Limits


def render_page(answerer: Answerer, limits: Limits) -> str:
    """The document.

    Args:
        answerer: for the model that the page is about.
        limits: of an image; the page refuses one of more bytes without sending it.
    """
    environment = Environment(
        loader=PackageLoader("capt_core.serving"), autoescape=True, undefined=StrictUndefined
    )
    model = answerer.model
    return environment.get_template("page.html.jinja").render(
        style=Markup(_text("page.css")),
        script=Markup(_text("page.js")),
        method=model.fitted.method.label,
        dataset=model.provenance.dataset,
        backbone=model.provenance.backbone.partition("@")[0],
        classes=model.class_names,
        most_bytes=limits.most_bytes,
        most_pixels=limits.most_pixels,
        warning=answerer.warning,
        pictures=bool(answerer.thumbnails),
    )


def security_policy() -> str:
    """Content-Security-Policy: the page's own style and script, its images, and nothing else."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(_text('page.js'))}'",
            f"style-src '{_digest(_text('page.css'))}'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


@cache
def _text(name: str) -> str:
    return (resources.files("capt_core.serving") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
