"""Taking an image from a request: bounded in bytes and time, held in memory alone."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Starlette would miss it at the first form only, as a fault of the service.
import python_multipart  # noqa: F401
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from capt_core.data.decoding import LARGEST_PIXELS
from capt_core.serving.access import RefusedError

PART = "image"
"""Name of the part of a multipart body that holds the image."""
_FRAME = 2**16  # bytes of a multipart body beside its file
_LINGER = 2.0  # seconds in which the rest of a refused body is taken
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}$")
_HOW = f"send the image as multipart/form-data in the part {PART!r}, or alone as image/jpeg, ..."


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes:
        content: its bytes.
        suffix: of the name it came with, such as ``.nef``; empty if there is none.
    """

    content: bytes
    suffix: str = ""


@dataclass(frozen=True)
class Limits:
    """What one upload may take.

    Attributes:
        most_bytes: of the image.
        most_pixels: of the image, which takes up to 27 bytes a pixel while it is looked at.
        seconds: until the whole body must be there.
    """

    most_bytes: int
    most_pixels: int = LARGEST_PIXELS
    seconds: float = 30.0


async def read_upload(request: Request, limits: Limits) -> Upload:
    """The image in the body of a request.

    Raises:
        RefusedError: no, several or too large files, another content type, or a body that takes too
            long.
        ClientDisconnect: the client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    multipart = kind == "multipart/form-data"
    if not multipart and not kind.startswith("image/"):
        raise RefusedError(415, f"no image by its content type; {_HOW}")
    body = _bounded(request, limits.most_bytes + _FRAME * multipart, limits.most_bytes)
    try:
        async with asyncio.timeout(limits.seconds):
            if multipart:
                upload = await _form_file(request.headers, body, limits.most_bytes)
            else:
                content = bytearray()
                async for chunk in body:
                    content += chunk
                upload = Upload(bytes(content))
    except TimeoutError as error:
        late = f"the image was not there after {limits.seconds:.0f} seconds; send it again"
        raise RefusedError(408, late) from error
    if not upload.content:
        raise RefusedError(400, f"the image is empty, 0 bytes; {_HOW}")
    return upload


async def discard_rest(request: Request) -> None:
    """Take what the client of a refused request still sends, for a moment.

    A connection that is closed in the middle of a body is reset, and the client would not get to
    read why. One that waits for leave to send its body has that answer already.
    """
    if "expect" in request.headers:
        return
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_LINGER):
            async for _ in request.stream():
                pass


async def _bounded(request: Request, most: int, limit: int) -> AsyncGenerator[bytes, None]:
    """The body; refused as soon as it is known to be larger than `most` bytes."""
    too_large = RefusedError(413, f"larger than the {limit / 1e6:g} MB that an image may take here")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most:
        raise too_large
    taken = 0
    async for chunk in request.stream():
        taken += len(chunk)
        if taken > most:
            raise too_large
        yield chunk


async def _form_file(headers: Headers, body: AsyncGenerator[bytes, None], most: int) -> Upload:
    parser = MultiPartParser(headers, body, max_files=1, max_fields=0)
    parser.spool_max_size = most + _FRAME  # nothing goes to the disk
    try:
        form = await parser.parse()
    # Charsets that a client names raise ValueErrors of their own.
    except (MultiPartException, ValueError, KeyError) as error:
        told = f"not a multipart body with one file in the part {PART!r} and nothing else"
        raise RefusedError(400, f"{told}; {_HOW}") from error
    file = form.get(PART)
    if not isinstance(file, UploadFile):
        raise RefusedError(400, f"no file in a part named {PART!r}; {_HOW}")
    with contextlib.closing(file.file):
        content = await file.read()
    if len(content) > most:
        raise RefusedError(413, f"larger than the {most / 1e6:g} MB that an image may take here")
    found = _SUFFIX.search(file.filename or "")
    return Upload(content, found[0] if found else "")


class Places:
    """A bounded number of requests in one state.

    Args:
        count: how many.
        what: they are doing, for the refusal of one more.
    """

    def __init__(self, count: int, what: str) -> None:
        self._free, self._what = count, what

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place during the block.

        Raises:
            RefusedError: 503, none is free.
        """
        if not self._free:
            raise RefusedError(
                503, f"busy {self._what}; try again in a moment", {"Retry-After": "1"}
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
