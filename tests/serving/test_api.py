"""The API: what it answers, and what it refuses, in process."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from capt_core.methods.trained import TrainedModel
from capt_core.serving import answers
from capt_core.serving.access import LOOPBACK, Hosts
from capt_core.serving.answers import Answer, Answerer
from capt_core.serving.app import RECEIVING, build_app
from capt_core.serving.companions import Companions
from capt_core.serving.uploads import Limits, Upload
from tests.serving.conftest import MOST, NAMES, png

PNG = {"content-type": "image/png"}


def refused(client: TestClient, status: int, **request: object) -> str:
    """The error that a POST is answered with; it names no file of this machine."""
    reply = client.post("/predict", **request)  # type: ignore[arg-type]
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    told = str(reply.json()["error"])
    assert "Traceback" not in told
    assert ".py" not in told
    assert "\n" not in told
    return told


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that declares many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_an_image_gets_the_answer_of_the_model(client: TestClient, model: TrainedModel) -> None:
    reply = client.post("/predict", files={"image": ("a.png", png(), "image/png")})
    assert reply.status_code == 200
    answer = Answer.model_validate(reply.json())
    row = model.predict([answers.decoded(Upload(png()))]).row(0, named=True)
    assert answer.prediction == row["prediction"]
    assert answer.confidence == pytest.approx(row["confidence"], abs=1e-6)
    assert [guess.name for guess in answer.top] == row["top_classes"]
    assert answer.second is not None
    assert answer.second == answer.top[1]
    first, second = answer.told
    assert first.name == answer.prediction
    assert second.name == answer.second.name
    assert first.texts == [f"{first.name} as no {second.name} is"]
    assert second.texts == [f"{second.name} as no {first.name} is"]
    assert answer.warning == answers.EMBEDDED_WARNING
    picture = client.get(first.pictures[0])
    assert picture.headers["content-type"] == "image/webp"
    assert picture.content == png()


def test_a_raw_body_gets_the_same_answer(client: TestClient) -> None:
    form = client.post("/predict", files={"image": ("a.png", png(), "image/png")})
    raw = client.post("/predict", content=png(), headers=PNG)
    assert raw.json() == form.json()


def test_without_companions_the_class_texts_are_told(model: TrainedModel) -> None:
    told = Answerer(model, Companions()).answer(Upload(png())).told
    assert {each.source for each in told} == {answers.CLASS_TEXT}
    assert told[0].texts == [f"a photo of a {told[0].name} texture."]
    assert told[0].pictures == []


def test_what_the_model_knows_of_its_base_model_is_told(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(answers.prediction_row(answerer.model, answers.decoded(Upload(png()))))
    more = {"base_prediction": "bumpy", "base_confidence": 0.4, "changed": True, "unsure": True}
    monkeypatch.setattr(answers, "prediction_row", lambda *_: {**found, **more})
    answer = answerer.answer(Upload(png()))
    assert answer.model_dump(include=set(more)) == more


def test_health_and_classes(client: TestClient) -> None:
    health = client.get("/health").json()
    assert (health["status"], health["classes"], health["most_bytes"]) == ("ok", 4, MOST)
    classes = client.get("/classes").json()
    assert [each["name"] for each in classes] == list(NAMES)
    assert "/predict" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (png()[:-60], "truncated"),
        (b"hello", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"%PDF-1.4", "PDF"),
        (bomb(60_000, 60_000), "pixels"),
        (bomb(10_000, 2), "100 times"),
        (b"GIF89a" + bytes(20), "GIF"),
    ],
    ids=("truncated", "text", "svg", "heic", "pdf", "bomb", "strip", "gif"),
)
def test_what_is_no_image_is_named(client: TestClient, content: bytes, told: str) -> None:
    assert told in refused(client, 422, content=content, headers=PNG)
    assert told in refused(client, 422, files={"image": ("photo.png", content, "image/png")})


def test_the_service_has_a_bound_of_pixels_of_its_own(answerer: Answerer) -> None:
    limits = Limits(MOST, most_pixels=2_000_000)
    app = build_app(answerer, Hosts(LOOPBACK), limits)
    client = TestClient(app, base_url="http://localhost:8000")
    told = refused(client, 422, content=bomb(2000, 1001), headers=PNG)
    assert "2000 x 1001 pixels: more than the 2 million" in told
    assert "more than the 2 million" in refused(
        client, 422, content=bomb(60_000, 60_000), headers=PNG
    )
    assert "truncated" in refused(client, 422, content=bomb(2000, 1000), headers=PNG)
    assert client.get("/health").json()["most_pixels"] == 2_000_000
    assert "2 megapixels" in client.get("/").text


def test_a_name_says_which_files_are_cameras_own(client: TestClient) -> None:
    told = refused(client, 422, files={"image": ("../../x/IMG.NEF", b"II*\0" + bytes(40))})
    assert ".NEF files are not supported" in told
    assert "IMG" not in told


def test_forms_that_do_not_hold_one_image(client: TestClient) -> None:
    image = ("a.png", png(), "image/png")
    two = [("image", image), ("image", image)]
    assert "one file" in refused(client, 400, files=two)
    assert "one file" in refused(client, 400, files={"image": image}, data={"more": "text"})
    assert "'image'" in refused(client, 400, files={"other": image})
    assert "empty" in refused(client, 400, files={"image": ("a.png", b"")})
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=x; charset=idna",
    ):
        refused(client, 400, content=b"no form", headers={"content-type": kind})
    head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{"a" * 9000}"\r\n\r\n'
    refused(
        client,
        400,
        content=head.encode() + png() + b"\r\n--x--\r\n",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    unfinished = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc'
    refused(
        client,
        400,
        content=unfinished,
        headers={"content-type": "multipart/form-data; boundary=x"},
    )


def test_other_content_types(client: TestClient) -> None:
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/json"}):
        assert "multipart/form-data" in refused(client, 415, content=png(), headers=headers)
    assert "empty" in refused(client, 400, content=b"", headers=PNG)


def test_bodies_above_the_limit(client: TestClient) -> None:
    large = bytes(MOST + 1)
    assert "0.2 MB" in refused(client, 413, content=large, headers=PNG)
    assert "0.2 MB" in refused(client, 413, files={"image": ("a.png", large)})
    assert "0.2 MB" in refused(client, 413, files={"image": ("a.png", bytes(2 * MOST))})

    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while taken < 100 * MOST:
            taken += 10_000
            yield bytes(10_000)

    refused(client, 413, content=endless(), headers=PNG)
    refused(client, 422, content=bytes(MOST), headers=PNG)


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/predict/",
        "/thumbnails/4",
        "/thumbnails/-1",
        "/thumbnails/x",
        "/thumbnails/..%2f..%2fetc%2fpasswd",
        "/static/../../etc/passwd",
        "//etc/passwd",
    ],
)
def test_nothing_else_is_there(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 404
    assert set(reply.json()) == {"error"}


def test_other_methods(client: TestClient) -> None:
    for reply in (client.get("/predict"), client.put("/"), client.options("/predict")):
        assert reply.status_code == 405
        assert set(reply.json()) == {"error"}
        assert not any(name.startswith("access-control") for name in reply.headers)


def test_a_full_queue_says_when_to_come_again(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow(upload: Upload, _: int) -> Answer:
        begun.set()
        may_end.wait()
        return answerer.answer_for(answers.decoded(upload))

    monkeypatch.setattr(answerer, "answer", slow)
    app = build_app(answerer, Hosts(LOOPBACK), Limits(MOST), waiting=0)
    with TestClient(app, base_url="http://localhost") as client:
        replies = []
        first = threading.Thread(
            target=lambda: replies.append(client.post("/predict", content=png(), headers=PNG))
        )
        first.start()
        assert begun.wait(timeout=60)
        second = client.post("/predict", content=png(), headers=PNG)
        # The model is at work, and the rest of the service answers.
        assert client.get("/health").status_code == 200
        may_end.set()
        first.join()
        assert second.status_code == 503
        assert second.headers["retry-after"] == "1"
        assert set(second.json()) == {"error"}
        assert replies[0].status_code == 200
        assert client.post("/predict", content=png(), headers=PNG).status_code == 200


def test_a_fault_of_the_service_is_told_to_the_terminal_alone(
    answerer: Answerer, client: TestClient, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Upload, __: int) -> Answer:
        raise RuntimeError("at /home/me/secret")

    monkeypatch.setattr(answerer, "answer", broken)
    told = refused(client, 500, content=png(), headers=PNG)
    assert "secret" not in told
    assert "RuntimeError: at /home/me/secret" in log[-1]


def test_the_log_names_no_file(client: TestClient, log: list[str]) -> None:
    client.post("/predict", files={"image": ("my secret.png", png(), "image/png")})
    client.get("/my secret.png")
    client.get("/thumbnails/my secret.png?secret")
    assert [line.rsplit(" ", 2)[0] for line in log] == [
        "POST /predict 200",
        "GET (another path) 404",
        "GET /thumbnails 404",
    ]


def test_places_are_given_back(app: ASGIApp) -> None:
    client = TestClient(app, base_url="http://localhost")
    statuses = [
        client.post("/predict", content=b"none", headers=PNG).status_code
        for _ in range(2 * RECEIVING)
    ]
    assert set(statuses) == {422}
