"""The checks of `spacte doctor`; each builds on those before it."""

import os
import platform
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Literal, NamedTuple

import httpx2

from spacte_client._client import Client
from spacte_client._constants import API_KEY_VARIABLE, BASE_URL_VARIABLE, DOCTOR_TIMEOUT_S
from spacte_client._exceptions import APIStatusError, SpacteError
from spacte_client._version import __version__

from ._components import GROUP, PACKAGES

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Check(NamedTuple):
    """What one check found: a `failure` must be fixed, a `warning` may become one, a `note` is for information."""

    name: str
    status: Literal["ok", "note", "warning", "failure"]
    finding: str


def check_gateway(base_url: str | None, api_key: str | None) -> Iterator[Check]:
    """Address, proxy, connection, key, version, readiness, models; stops where no more can be known."""
    yield Check("client", "ok", f"spacte-client {__version__} on Python {platform.python_version()}")
    try:
        client = Client(base_url, api_key, timeout=DOCTOR_TIMEOUT_S, max_retries=0)
    except SpacteError as error:
        yield Check("address", "failure", error.message)
        return
    with client:
        url = httpx2.URL(client.base_url)
        yield Check("address", "ok", f"{client.base_url} ({_origin(base_url)})")
        yield from _check_path(url, has_key=bool(api_key or os.environ.get(API_KEY_VARIABLE)))
        try:
            info = client.info()
            finding = f"version {info.version}, {info.samplers} samplers on {info.device}"
            if _release(info.version) == _release(__version__):
                yield Check("gateway", "ok", finding)
            else:
                advice = f"client {__version__} is from another release, install that one"
                yield Check("gateway", "warning", f"{finding}; {advice}")
            yield from _check_service(client)
        except SpacteError as error:
            refused = isinstance(error, APIStatusError) and error.status_code in (401, 403)
            # A port that speaks HTTPS hangs up on a plain request.
            hung_up = url.scheme == "http" and isinstance(error.__cause__, httpx2.RemoteProtocolError)
            hint = " If it speaks HTTPS, give an https address." if hung_up else ""
            yield Check("key" if refused else "gateway", "failure", error.message + hint)


def check_components() -> Iterator[Check]:
    """Which packages are installed, whether their versions match, and whether their commands load."""
    for package in sorted(set(PACKAGES.values())):
        try:
            found = version(package)
        except PackageNotFoundError:
            commands = ", ".join(f"`spacte {name}`" for name in sorted(PACKAGES) if PACKAGES[name] == package)
            yield Check(package, "note", f"not installed; needed on this machine only for {commands}")
            continue
        if _release(found) == _release(__version__):
            yield Check(package, "ok", found)
        else:
            yield Check(package, "warning", f"{found} beside client {__version__}; install matching versions")
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it is the finding
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Check(f"spacte {point.name}", "failure", f"cannot be loaded ({reason}); reinstall its package")


def _check_path(url: httpx2.URL, *, has_key: bool) -> Iterator[Check]:
    local = url.host in LOOPBACK
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and local and not urllib.request.proxy_bypass(url.host):
        yield Check(
            "proxy", "warning", f"requests to this machine go through {proxy}; set NO_PROXY=127.0.0.1,localhost"
        )
    if has_key and url.scheme == "http" and not local:
        yield Check("key", "warning", "the API key travels unencrypted; use an https address")


def _check_service(client: Client) -> Iterator[Check]:
    health = client.health()
    for name, state in health.checks.items():
        yield Check(name, "ok" if state == "ok" else "failure", state)
    if health.status != "ok" and all(state == "ok" for state in health.checks.values()):
        yield Check("ready", "failure", "the gateway says that it is not ready; look at its log")
    models = client.models.list()
    ready = [model.name for model in models if model.answers]
    if ready:
        yield Check("models", "ok", ", ".join(ready))
    else:
        states = ", ".join(f"{model.name} is {model.state}" for model in models) or "there are none"
        yield Check("models", "failure", f"no model is ready ({states}); give `spacte serve` a folder with --models")


def _origin(base_url: str | None) -> str:
    if base_url is None:
        return "the default"
    return BASE_URL_VARIABLE if base_url == os.environ.get(BASE_URL_VARIABLE) else "as given"


def _release(text: str) -> list[str]:
    """Major and minor: what has to match for the wire to match."""
    return text.split(".")[:2]
