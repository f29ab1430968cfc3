"""The endpoint that a model asks, as its answers name it."""

from typing import TYPE_CHECKING

from spacte_client.types import Remote

if TYPE_CHECKING:
    from spacte_core.models.endpoint import EndpointConfig


def remote_of(asked: "EndpointConfig | None") -> Remote | None:
    """What certificates and predictions say of an endpoint; None of none."""
    if asked is None:
        return None
    return Remote(
        url=asked.url,
        protocol=asked.protocol,
        model_name=asked.model_name or None,
        model_version=asked.model_version or None,
        output=asked.kind,
    )
