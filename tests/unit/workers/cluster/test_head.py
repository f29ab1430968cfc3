"""A head that does not take this process is told as what it is, within seconds and before Ray is asked."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from ray.core.generated import gcs_service_pb2 as messages
from ray.core.generated import gcs_service_pb2_grpc as services

from spacte_workers.cluster.connection import RayConnection, RaySettings
from spacte_workers.cluster.head import check_head, is_there
from spacte_workers.errors import ClusterError

TOKEN = "the-token-of-the-cluster"
OURS = {"ray_version": ray.__version__, "python_version": ".".join(map(str, __import__("sys").version_info[:3]))}


class Head(services.InternalKVGcsServiceServicer):
    """The part of a head that is asked, with versions and a token of the test's choice."""

    def __init__(self, metadata: dict[str, str], token: str) -> None:
        self._metadata, self._token = metadata, token

    def InternalKVGet(self, request: Any, context: Any) -> Any:  # noqa: N802  Ray's name
        if self._token and ("authorization", f"Bearer {self._token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return messages.InternalKVGetReply(value=json.dumps(self._metadata).encode())


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`start(metadata, token)` gives the address of a head."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    servers: list[Any] = []

    def started(metadata: dict[str, str], token: str = "") -> str:
        server = grpc.server(ThreadPoolExecutor(1))
        services.add_InternalKVGcsServiceServicer_to_server(Head(metadata, token), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield started
    for server in servers:
        server.stop(None).wait()


def test_a_head_of_the_same_versions_is_taken(start: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    address = start(OURS)
    check_head(address)
    assert is_there(address)
    monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    check_head(start({**OURS, "python_version": "3.11.99"}))


@pytest.mark.parametrize("other", [{"ray_version": "2.1.0"}, {"python_version": "3.13.0"}])
def test_other_versions_are_told_for_both_sides(start: Callable[..., str], other: dict[str, str]) -> None:
    theirs = OURS | other
    with pytest.raises(ClusterError, match="use the same Python and Ray on both sides") as refused:
        check_head(start(theirs))
    assert f"Ray {theirs['ray_version']} on Python {theirs['python_version']}" in str(refused.value)
    assert f"Ray {OURS['ray_version']} on Python {OURS['python_version']}" in str(refused.value)


def test_a_token_that_is_missing_or_wrong_is_told_as_such(
    start: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = start(OURS, TOKEN)
    with pytest.raises(ClusterError, match=r"asks for a token: set RAY_AUTH_MODE=token, and put the cluster's token"):
        check_head(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError, match=r"none is found: put the cluster's token into ~/\.ray/auth_token"):
        check_head(address)
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("another")
    with pytest.raises(ClusterError, match=f"does not accept the token of {file}"):
        check_head(address)
    file.write_text(TOKEN + "\n")
    check_head(address)
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ClusterError, match=f"set RAY_AUTH_MODE=token, and it is taken from {file} then"):
        check_head(address)
    check_head(address, finds_token=True)
    assert is_there(address)


def test_what_is_no_head_is_told_as_such(start: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        patch.setattr("spacte_workers.cluster.head.ANSWER_S", 0.3)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match="listens at the Ray address"):
            check_head(address)
        assert not is_there(address)


async def test_addresses_are_refused_before_ray_is_asked(
    start: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests of this process may have started a Ray, which is neither to be used nor to be ended here.
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for address, sentence in {
        "http://127.0.0.1:8265": "dashboard and Jobs API",
        "127.0.0.1:1": "port that Ray does not take",
        start({**OURS, "ray_version": "1.0"}): "use the same Python and Ray",
    }.items():
        with pytest.raises(ClusterError, match=sentence):
            await RayConnection(RaySettings(address=address)).open()
