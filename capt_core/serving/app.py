"""The service's addresses: the page, the API, and the thumbnails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from capt_core import __version__
from capt_core.serving.access import Guard, Hosts, RefusedError
from capt_core.serving.answers import Answer, Answerer
from capt_core.serving.page import render_page, security_policy
from capt_core.serving.uploads import PART, Limits, Places, discard_rest, read_upload

RECEIVING, WAITING = 16, 8
"""Uploads that may be on their way, and that may wait for the model, at once."""

_PATHS = ("/", "/predict", "/health", "/classes", "/openapi.json", "/thumbnails")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": [PART],
        "properties": {PART: _BINARY["schema"]},
        "additionalProperties": False,
    }
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": _FORM, "image/*": _BINARY},
    }
}


class Problem(BaseModel):
    """Why a request is not answered, and what to do."""

    error: str


class Health(BaseModel):
    """What is served."""

    status: str
    version: str
    method: str
    dataset: str
    backbone: str
    classes: int
    most_bytes: int
    most_pixels: int
    warning: str | None


class ClassText(BaseModel):
    """A class and the text that images are compared with."""

    name: str
    text: str


def build_app(
    answerer: Answerer,
    hosts: Hosts,
    limits: Limits,
    log: Callable[[str], None] = lambda _: None,
    waiting: int = WAITING,
) -> ASGIApp:
    """The service as an ASGI application.

    One image at a time is decoded and classified, in a thread of its own, so that images do not
    add up their memory and the pages stay quick.

    Args:
        answerer: answers for the model.
        hosts: which Host headers are answered.
        limits: of one upload.
        log: takes one line per request.
        waiting: uploads that may wait for the model.
    """
    model = answerer.model
    page = render_page(answerer, limits)
    receiving, queue = (
        Places(RECEIVING, "receiving images"),
        Places(1 + waiting, "classifying images"),
    )
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
    # The usual pages of documentation load their scripts from elsewhere.
    app = FastAPI(
        title="CAPT", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.post(
        "/predict",
        openapi_extra=_BODY,
        responses={code: {"model": Problem} for code in (400, 403, 408, 413, 415, 422, 503)},
    )
    async def predict(request: Request) -> Answer:
        """Classify an image."""
        try:
            with receiving.taken():
                upload = await read_upload(request, limits)
            with queue.taken():
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(
                    worker, answerer.answer, upload, limits.most_pixels
                )
        except RefusedError:
            await discard_rest(request)
            raise
        except asyncio.CancelledError as error:
            # What has not ended some seconds after the signal is cut off.
            raise RefusedError(503, "the service is being ended") from error

    @app.get("/health")
    async def health() -> Health:
        """What is served, and that it is."""
        origin = model.provenance
        return Health(
            status="ok",
            version=__version__,
            method=model.method,
            dataset=origin.dataset,
            backbone=origin.backbone,
            classes=len(model.class_names),
            most_bytes=limits.most_bytes,
            most_pixels=limits.most_pixels,
            warning=answerer.warning,
        )

    @app.get("/classes")
    async def classes() -> list[ClassText]:
        """The classes that the model chooses among, in the order of its scores."""
        return [ClassText(name=name, text=text) for name, text in answerer.class_texts.items()]

    @app.get("/thumbnails/{number}", include_in_schema=False)
    async def thumbnail(number: int) -> Response:
        if not 0 <= number < len(answerer.thumbnails):
            raise RefusedError(404, "no such image")
        picture = answerer.thumbnails[number]
        return Response(picture.content, media_type="image/webp")

    @app.exception_handler(RefusedError)
    async def refused(_: Request, refusal: RefusedError) -> JSONResponse:
        return refusal.response()

    @app.exception_handler(HTTPException)
    async def not_routed(_: Request, error: HTTPException) -> JSONResponse:
        told = {404: "nothing is at this address", 405: "this address takes another method"}
        text = told.get(error.status_code, "the request cannot be answered")
        return RefusedError(error.status_code, text, error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def not_valid(_: Request, __: RequestValidationError) -> JSONResponse:
        return RefusedError(404, "nothing is at this address").response()

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return RefusedError(500, "a fault of the service; its terminal says more").response()

    headers = {
        "Content-Security-Policy": security_policy(),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",  # frame-ancestors, for browsers that do not know it
        "Cache-Control": "no-store",
    }
    return Guard(app, hosts, headers, _PATHS, log)
