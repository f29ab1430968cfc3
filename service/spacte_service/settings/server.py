"""What is served and where, who may reach it over the network, and how it is operated."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from .text import parts


class ServerSettings(BaseModel):
    """The models and the port."""

    models: Path = Field(
        default=Path("models"), description="Folder of checkpoint folders; each becomes a model by its folder's name."
    )
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every network this machine is on."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


class NetworkSettings(BaseModel):
    """Host names, web pages of other origins, and TLS."""

    allowed_hosts: str | None = Field(
        default=None,
        description="Host names that the service goes by, separated by commas; by default the loopback names "
        "where only this machine can reach it and no key is asked for, else any.",
    )
    cors_origins: str | None = Field(
        default=None,
        description="Origins whose web pages may call the service, such as https://lab.example, by commas.",
    )
    tls_cert: Path | None = Field(
        default=None, description="Certificate chain (PEM); with it and its key the service speaks HTTPS."
    )
    tls_key: Path | None = Field(default=None, description="Private key of the certificate (PEM).")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together; give both or neither")
        return self

    @property
    def hosts(self) -> list[str]:
        """The host names that the service goes by; empty for any."""
        return parts(self.allowed_hosts)

    @property
    def origins(self) -> list[str]:
        """The origins whose pages may call."""
        return parts(self.cors_origins)


class OperationSettings(BaseModel):
    """Metrics, shutdown and logs."""

    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Serve /metrics on this port instead, without a key: one that callers cannot reach.",
    )
    drain_timeout_s: float = Field(
        default=25.0,  # below the 30 s that Kubernetes waits between SIGTERM and SIGKILL by default
        ge=0,
        description="Time that requests in flight have to finish after SIGTERM.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line to write."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="`json` writes one object a line, for log collectors."
    )
