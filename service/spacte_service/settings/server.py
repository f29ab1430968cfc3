"""What is served and where, who may reach it over the network, and how it is operated."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .group import Group, parts


class ServerSettings(Group):
    """The models and the port."""

    models: Path = Path("models")
    """Folder of checkpoint folders; each becomes a model by its folder's name."""
    require_signed_models: Path | None = None
    """Public key (PEM); only checkpoint folders that it has signed, in OpenSSF's format, are loaded."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every network this machine is on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one and prints it."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


class NetworkSettings(Group):
    """Host names, web pages of other origins, and TLS."""

    allowed_hosts: str | None = None
    """Host names that the service goes by, separated by commas; by default the loopback names
    where only this machine can reach it and no key is asked for, else any."""
    cors_origins: str | None = None
    """Origins whose web pages may call the service, such as https://lab.example, by commas."""
    tls_cert: Path | None = None
    """Certificate chain (PEM); with it and its key the service speaks HTTPS."""
    tls_key: Path | None = None
    """Private key of the certificate (PEM)."""

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together; give both or neither")
        return self

    @property
    def hosts(self) -> list[str]:
        """The host names that the service goes by, in lower case; empty for any."""
        return [host.lower() for host in parts(self.allowed_hosts)]

    @property
    def origins(self) -> list[str]:
        """The origins whose pages may call."""
        return parts(self.cors_origins)


class OperationSettings(Group):
    """Metrics, shutdown and logs."""

    metrics_port: Annotated[int | None, Field(ge=0, le=65535)] = None
    """Serve /metrics on this port instead, without a key: one that callers cannot reach."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 25.0  # below the 30 s that Kubernetes waits until SIGKILL
    """Time that requests in flight have to finish after SIGTERM."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line to write."""
    log_format: Literal["console", "json"] = "console"
    """`json` writes one object a line, for log collectors."""
