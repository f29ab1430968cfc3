"""Asks the head of a Ray cluster who it is, before this process joins: an answer or a refusal comes in milliseconds.

`ray.init` tries for over a minute where a head refuses it, and ends the process where it does not understand it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import ray
from ray.core.generated import gcs_service_pb2
from ray.core.generated import gcs_service_pb2_grpc as services

from spacte_core.ray_address import other_service
from spacte_workers.errors import ClusterError

_messages: Any = gcs_service_pb2  # protobuf makes its classes at run time

ANSWER_S = 5.0  # chosen: a cluster is on a local network
AUTH_MODE = "RAY_AUTH_MODE"
_TOKEN_FILE = Path(".ray") / "auth_token"  # below the home folder (Ray's documentation, token authentication)


def check_head(address: str, *, finds_token: bool = False) -> None:
    """See that a head answers at an address, accepts the token of this process, and has its versions.

    Args:
        address: `host:port`.
        finds_token: a token that is there is shown although `RAY_AUTH_MODE` is not set, as `ray.init` does for `auto`.

    Raises:
        ClusterError: it does not.
    """
    shows_token = os.environ.get(AUTH_MODE, "token" if finds_token else "").lower() == "token"
    token, source = _token()
    try:
        metadata = _metadata(address, token if shows_token else "")
    except grpc.RpcError as error:
        answer: Any = error
        if answer.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise ClusterError(_token_sentence(address, shows_token, source)) from None
        raise ClusterError(_no_head(address, answer.code() == grpc.StatusCode.DEADLINE_EXCEEDED)) from None
    if metadata and not _fits(metadata):
        ours = f"Ray {ray.__version__} on Python {_python()}"
        raise ClusterError(
            f"The cluster at {address} has Ray {metadata.get('ray_version')} on Python "
            f"{metadata.get('python_version')}, and this process {ours}: use the same Python and Ray on both sides."
        )


def is_there(address: str) -> bool:
    """Whether a head answers at an address; it blocks for at most `ANSWER_S`."""
    try:
        _metadata(address, _token()[0])
    except grpc.RpcError as error:
        answer: Any = error
        return answer.code() == grpc.StatusCode.UNAUTHENTICATED
    return True


def _metadata(address: str, token: str) -> dict[str, Any]:
    """What the head tells about its cluster; empty where it tells nothing."""
    question = _messages.InternalKVGetRequest(namespace=b"cluster", key=b"CLUSTER_METADATA")
    headers = [("authorization", f"Bearer {token}")] if token else []
    # A proxy that the environment names is for the web: Ray itself goes past it.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = services.InternalKVGcsServiceStub(channel)
        answer = stub.InternalKVGet(question, timeout=ANSWER_S, metadata=headers)
    return json.loads(answer.value) if answer.value else {}


def _token() -> tuple[str, str]:
    """The token of this process as Ray finds it, and where it was; two empty texts where there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / _TOKEN_FILE)
    try:
        return path.read_text().strip(), str(path)
    except OSError:
        return "", ""


def _token_sentence(address: str, shows_token: bool, source: str) -> str:
    where = "put the cluster's token into ~/.ray/auth_token, or set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    if not shows_token:
        remedy = f"it is taken from {source} then" if source else where
        return f"The Ray cluster at {address} asks for a token: set {AUTH_MODE}=token, and {remedy}."
    if not source:
        return f"The Ray cluster at {address} asks for a token, and none is found: {where}."
    return f"The Ray cluster at {address} does not accept the token of {source}: put the cluster's own there."


def _no_head(address: str, silent: bool) -> str:
    if other := other_service(address):
        host = address.rpartition(":")[0]
        return f"What listens at {address} is no Ray head but {other}, by its port: give the head's own, {host}:6379."
    what = f"does not answer within {ANSWER_S:g} s" if silent else "is no Ray head"
    return f"What listens at the Ray address {address} {what}: give the head's own host:port, such as HOST:6379."


def _fits(metadata: dict[str, Any]) -> bool:
    """Whether Ray would take the versions: down to Python's patch, unless its own variable says otherwise."""
    digits = 2 if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor" else 3
    theirs = str(metadata.get("python_version", "")).split(".")[:digits]
    return metadata.get("ray_version") == ray.__version__ and theirs == _python().split(".")[:digits]


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))
