"""The address of a Ray cluster, as people write it: taken where Ray takes it, else refused in one sentence. No Ray."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address

from .errors import UserError

GCS_PORT = 6379
"""Of a head by default; below, ports at which something else of Ray's listens by default (`ray start --help`)."""
_OTHER_PORTS = {8265: "Ray's dashboard and Jobs API", 10001: "Ray Client"}
_LEAST_PORT, _LAST_PORT = 1024, 65535  # as `ray.init` has them

_HOST = r"[A-Za-z0-9_.-]+"
_SCHEMES = {
    "http": "Ray's dashboard and Jobs API",
    "https": "Ray's dashboard and Jobs API",
    "ray": "Ray Client, which is not used here",
}


class RayAddressError(UserError):
    """The text is no address of a Ray cluster."""


def cluster_address(given: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Which Ray to use: `host:port` or `auto` to join a cluster, None to start one here.

    Args:
        given: an option's value, which goes before `RAY_ADDRESS`, except that `auto` lets the variable decide, as in
            `ray.init`.
        environment: where `RAY_ADDRESS` is.

    Raises:
        RayAddressError: it is none that Ray takes.
    """
    text = (given or "").strip()
    if text.lower() in ("", "auto"):
        text = environment.get("RAY_ADDRESS", "").strip() or text
    if text.lower() in ("", "local"):
        return None
    return "auto" if text.lower() == "auto" else _checked(text)


def other_service(address: str) -> str:
    """What of Ray's listens at the port of an address by default, if it is not the head itself; else empty."""
    return _OTHER_PORTS.get(int(address.rpartition(":")[2]), "")


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def _checked(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if separator:
        named = re.match(r"\[[0-9A-Fa-f:.]+\]|[^:/?#]+", rest.rpartition("@")[2])
        host = named[0] if named else "HOST"
        what = _SCHEMES.get(scheme.lower())
        why = f"is for {what}" if what else "has a scheme, which a head's address has not"
        shown = re.sub("//.*@", "//...@", text)  # a password may be in it
        raise RayAddressError(f"The Ray address {shown!r} {why}: give the head's own, {host}:{GCS_PORT}.")
    if text.isdecimal():
        raise RayAddressError(f"The Ray address {text!r} has no host: give HOST:{text}, auto or local.")
    if _is_ipv6(bare := text.removeprefix("[").removesuffix("]")):
        host, _, last = bare.rpartition(":")
        host = host if last == str(GCS_PORT) and _is_ipv6(host) else bare
        raise RayAddressError(f"The Ray address {text!r} has no port: give [{host}]:{GCS_PORT}.")
    if re.fullmatch(_HOST, text):
        raise RayAddressError(f"The Ray address {text!r} has no port: give {text}:{GCS_PORT}, auto or local.")
    found = re.fullmatch(rf"({_HOST}|\[[0-9A-Fa-f:.]+\]):([0-9]{{1,9}})", text)
    if found is None:
        host, _, rest = re.split(r"[/,;\s]", text.strip("\"'[]/").rpartition("@")[2])[0].partition(":")
        port = re.match(r"[0-9]{4,5}", rest)
        meant = f"{host if re.fullmatch(_HOST, host) else 'HOST'}:{port[0] if port else GCS_PORT}"
        raise RayAddressError(f"The Ray address {text!r} is not host:port: give {meant}, auto or local.")
    if not _LEAST_PORT <= int(found[2]) <= _LAST_PORT:
        raise RayAddressError(
            f"The Ray address {text!r} has a port that Ray does not take: give {found[1]}:{GCS_PORT}."
        )
    return text
