"""Whatever people take for the address of a Ray cluster is accepted as Ray does, or told in one sentence."""

import pytest

from spacte_core.ray_address import RayAddressError, cluster_address, other_service


@pytest.mark.parametrize(
    ("given", "variable", "address"),
    [
        (None, "", None),
        (None, "  ", None),
        (None, "local", None),
        (None, "auto", "auto"),
        (None, " 10.0.0.1:6379\n", "10.0.0.1:6379"),
        (None, "ray-head.ns.svc:6380", "ray-head.ns.svc:6380"),
        (None, "[::1]:6379", "[::1]:6379"),
        ("local", "10.0.0.1:6379", None),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("auto", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "", "auto"),
    ],
)
def test_accepted(given: str | None, variable: str, address: str | None) -> None:
    assert cluster_address(given, {"RAY_ADDRESS": variable}) == address


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("http://127.0.0.1:8265", r"is for Ray's dashboard and Jobs API: .* 127\.0\.0\.1:6379\."),
        ("https://head:8265/", r"dashboard and Jobs API: .* head:6379\."),
        ("ray://head:10001", r"is for Ray Client.* head:6379\."),
        ("ray://", r"HOST:6379\."),
        ("tcp://user:pw@head:6379", r"has a scheme.* head:6379\."),
        ("head", r"has no port: give head:6379, auto or local"),
        ("10.0.0.1", r"has no port: give 10\.0\.0\.1:6379"),
        ("fe80::1", r"has no port: give \[fe80::1\]:6379"),
        ("[::1]", r"has no port: give \[::1\]:6379"),
        ("head:6379/", r"is not host:port: give head:6379"),
        ('"head:6379"', r"is not host:port: give head:6379"),
        ("a:6379,b:6379", r"is not host:port: give a:6379"),
        ("head:gcs", r"is not host:port: give head:6379"),
        (":6379", r"is not host:port: give HOST:6379"),
        ("head:0", r"has a port that Ray does not take: give head:6379"),
        ("http://[::1]:8265", r"dashboard and Jobs API: .* \[::1\]:6379\."),
        ("::1:6379", r"give \[::1\]:6379\."),
        ("6380", r"has no host: give HOST:6380,"),
        ("me@head:6379", r"give head:6379,"),
        ("head;6379", r"give head:6379,"),
        ("*:6379", r"give HOST:6379,"),
        ("höst:6379", r"give HOST:6379,"),
        ("head:70000", r"has a port that Ray does not take"),
    ],
)
def test_refused_with_what_to_write_in_place_of_it(text: str, sentence: str) -> None:
    with pytest.raises(RayAddressError, match=sentence) as refused:
        cluster_address(None, {"RAY_ADDRESS": text})
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(RayAddressError, match="head:6379") as refused:
        cluster_address("https://me:secret@head:8265", {})
    assert "secret" not in str(refused.value)


def test_ports_of_other_services() -> None:
    assert "dashboard" in other_service("head:8265")
    assert "Client" in other_service("head:10001")
    assert not other_service("head:6379")
