"""A model of four textures, served in this process or on a port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from capt_core.artifacts.provenance import Provenance
from capt_core.backbone.loading import load_backbone
from capt_core.methods.classes import Classes
from capt_core.methods.clip import Clip
from capt_core.methods.method import Fitted
from capt_core.methods.trained import TrainedModel
from capt_core.params import Settings
from capt_core.serving.access import LOOPBACK, Hosts
from capt_core.serving.answers import Answerer
from capt_core.serving.app import build_app
from capt_core.serving.companions import Companions, Picture
from capt_core.serving.server import listening, server_of, url_of
from capt_core.serving.uploads import Limits

NAMES = ("woven", "cracked", "dotted", "bumpy")
MOST = 200_000


def png(width: int = 40, height: int = 40) -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def model() -> TrainedModel:
    """Zero-shot CLIP of four classes on the embedded backbone."""
    backbone = load_backbone(Settings().backbone, Settings().runtime)
    origin = Provenance("proctex", "0123456789abcdef", backbone.identity)
    classes = Classes.named(NAMES, "a photo of a {} texture.")
    return TrainedModel(Fitted(Clip(), backbone), classes, "", 1, origin)


@pytest.fixture(scope="session")
def answerer(model: TrainedModel) -> Answerer:
    """With difference prompts and a picture for every class."""
    differences = {
        (name, other): [f"{name} as no {other} is"]
        for name in NAMES
        for other in NAMES
        if other != name
    }
    pictures = {name: [Picture(png(), "training image")] for name in NAMES}
    return Answerer(model, Companions(differences, pictures))


@pytest.fixture
def log() -> list[str]:
    """Lines of the access log of `client` and `app`."""
    return []


@pytest.fixture
def app(answerer: Answerer, log: list[str]) -> ASGIApp:
    return build_app(answerer, Hosts(LOOPBACK), Limits(MOST, seconds=0.5), log.append)


@pytest.fixture
def client(app: ASGIApp) -> TestClient:
    return TestClient(app, base_url="http://localhost:8000")


@contextmanager
def listening_on(app: ASGIApp) -> Iterator[str]:
    """The address of an application on a free port of this machine."""
    with listening("127.0.0.1", 0) as listener:
        server = server_of(app)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "my photograph.png"
    path.write_bytes(png(60, 40))
    return path
