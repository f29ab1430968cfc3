"""What is served and where, who may reach it over the network, and how it is operated."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .group import Count, Group, check_prefix, parts
from .limits import MIB, Bytes


class ServerSettings(Group):
    """The models and the port."""

    models: Path = Path("models")
    """Folder of checkpoint folders; each becomes a model by its folder's name."""
    model_roots: str | None = None
    """Prefixes such as s3://bucket/models or hf://owner, separated by commas, below which models may be fetched from;
    none by default."""
    model_sources: str | None = None
    """Models to fetch, as NAME=URI#sha256=VERSION,...: each URI is that of a checkpoint folder below --model-roots."""
    fetched_models_bytes: Bytes = 20_480 * MIB  # chosen: two hundred ResNet-50s
    """Bytes of fetched models that are kept in --data-dir; beyond them those go that were not used for longest."""
    require_signed_models: Path | None = None
    """Public key (PEM); only checkpoint folders that it has signed, in OpenSSF's format, are loaded."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every network this machine is on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one and prints it."""

    @model_validator(mode="after")
    def _model_sources_are_allowed(self) -> Self:
        for root in self.model_prefixes:
            if "://" not in root:
                raise ValueError(f"--model-roots are prefixes such as s3://bucket/models, not {root!r}")
            check_prefix(root)
        if self.model_sources:
            from spacte_workers.errors import ModelLoadError
            from spacte_workers.serving.model_sources import ModelSources, sources_of

            try:
                sources = ModelSources(Path(), self.model_prefixes)
                for source in sources_of(self.model_sources).values():
                    sources.check(source)
            except ModelLoadError as error:
                raise ValueError(f"--model-sources: {str(error).rstrip('.')}") from None
        return self

    @property
    def model_prefixes(self) -> list[str]:
        """The prefixes of `model_roots`."""
        return parts(self.model_roots)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


class NetworkSettings(Group):
    """Host names, web pages of other origins, TLS, and connections."""

    allowed_hosts: str | None = None
    """Host names that the service goes by, separated by commas; by default the loopback names
    where only this machine can reach it and no key is asked for, else any."""
    cors_origins: str | None = None
    """Origins whose web pages may call the service, such as https://lab.example, by commas."""
    tls_cert: Path | None = None
    """Certificate chain (PEM); with it and its key the service speaks HTTPS."""
    tls_key: Path | None = None
    """Private key of the certificate (PEM)."""
    max_connections: Count = 1000
    """Connections at the same time, fewer where the system allows fewer than 1,500 open files. One more takes
    the place of one that is waited for, the longest silent first; where every one is at work, it gets 503."""
    max_connections_per_address: Count = 750
    """Of these, how many one address may have: raise it where a proxy stands before all callers."""
    head_timeout_s: Annotated[float, Field(gt=0)] = 10.0  # chosen: the head of a request is one packet
    """Time in which a request's method, path and headers must have arrived."""
    idle_timeout_s: Count = 5  # uvicorn's default
    """Time for which a connection may be idle between two requests: more than that of a proxy before the gateway."""
    write_timeout_s: Annotated[float, Field(gt=0)] = 60.0  # as nginx's `send_timeout`
    """Time for which a caller may leave an answer unread."""

    @model_validator(mode="after")
    def _an_address_is_part_of_all(self) -> Self:
        if self.max_connections_per_address > self.max_connections:
            raise ValueError("--max-connections-per-address must not exceed --max-connections")
        return self

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
