"""Every setting of the gateway, a file a group; a field is also the variable `SPACTE_<NAME>` and the flag `--<name>`.

A part of the gateway takes the group that it needs; only what puts the parts together takes `Settings`.
"""

from typing import Any, Self

from pydantic import model_validator

from .access import AccessSettings
from .jobs import JobSettings
from .limits import LimitSettings
from .samplers import SamplerSettings
from .server import NetworkSettings, OperationSettings, ServerSettings

__all__ = [
    "AccessSettings",
    "JobSettings",
    "LimitSettings",
    "NetworkSettings",
    "OperationSettings",
    "SamplerSettings",
    "ServerSettings",
    "Settings",
]


class Settings(  # pydantic takes the fields of the last base first
    OperationSettings, NetworkSettings, JobSettings, AccessSettings, LimitSettings, SamplerSettings, ServerSettings
):
    """How the gateway serves. Each description says why one would change it."""

    @model_validator(mode="after")
    def _is_closed_or_meant_to_be_open(self) -> Self:
        if not (self.loopback or self.has_keys or self.allow_anonymous):
            raise ValueError(
                f"listening on {self.host} lets others in: make a key with `spacte keys create NAME` and "
                "pass --keys-file, or pass --allow-anonymous"
            )
        if not (self.loopback or self.has_keys or self.hosts):
            raise ValueError(
                f"listening on {self.host} without keys: anyone's web page could reach it under a name of its own "
                "(DNS rebinding); name the hosts that it goes by with --allowed-hosts, or make keys"
            )
        return self

    def limits(self) -> dict[str, float | int | bool]:
        """Every limit that a request can exceed, for `GET /v1/info`; one that is not set is left out."""
        names = ("n_max", "n0_max", "alpha_min", "deadline_ms_max", "max_client_batch_size", "max_body_bytes")
        names += ("max_upload_bytes", "max_pixels", "max_concurrent_requests", "max_concurrent_per_caller")
        names += ("body_timeout_s", "allow_client_seed")
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        values |= {"max_client_batch_size": self.most_images, "api_key_needed": self.has_keys}
        return {name: value for name, value in values.items() if value is not None}
