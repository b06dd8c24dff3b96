"""Hosts and origins."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from capt_core.serving.access import LOOPBACK, Hosts, hosts_of, is_foreign, is_loopback
from tests.serving.conftest import png

PNG = {"content-type": "image/png"}


@pytest.mark.parametrize(
    "header", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000"]
)
def test_loopback_hosts_are_served(header: str) -> None:
    assert hosts_of("127.0.0.1").admits(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost:8000:9000",
        "localhost:x",
        "localhost/",
        "192.168.1.5:8000",
        "0.0.0.0",
        "::1",
        "[::1",
    ],
)
def test_others_are_not(header: str) -> None:
    assert not Hosts(LOOPBACK).admits(header)


def test_a_service_for_others_is_reached_by_name_and_address() -> None:
    hosts = hosts_of("0.0.0.0")
    assert hosts.admits("192.168.1.5:8000")
    assert hosts.admits("[fe80::1]:8000")
    assert not hosts.admits("evil.example")
    assert hosts_of("box.lan").admits("Box.lan:8000")


def test_which_addresses_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.0.1.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "localhost.lan")))


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "http://localhost:8000"}, False),
        ({"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "null"}, True),
        ({"origin": "http://localhost:9000"}, True),
        ({"origin": "http://localhost"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:8000"}, True),
    ],
)
def test_which_requests_are_of_another_page(headers: dict[str, str], foreign: bool) -> None:
    assert is_foreign({"host": "localhost:8000", **headers}) == foreign


def test_the_service_refuses_them(client: TestClient) -> None:
    reply = client.get("/", headers={"host": "evil.example"})
    assert (reply.status_code, set(reply.json())) == (400, {"error"})
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        reply = client.post("/predict", content=png(), headers={**PNG, **headers})
        assert (reply.status_code, set(reply.json())) == (403, {"error"})
    own = {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}
    assert client.post("/predict", content=png(), headers={**PNG, **own}).status_code == 200


def test_every_answer_forbids_what_the_page_does_not_need(client: TestClient) -> None:
    for reply in (client.get("/"), client.get("/nothing"), client.get("/health")):
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"


def test_large_headers(client: TestClient) -> None:
    for reply in (
        client.get("/health", headers={"x": "a" * 40_000}),
        client.get("/health?" + "a" * 40_000),
    ):
        assert (reply.status_code, set(reply.json())) == (431, {"error"})
