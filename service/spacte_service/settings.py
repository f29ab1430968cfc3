"""Every setting of the gateway: a field is also the variable `SPACTE_<NAME>` and the flag `--<name>`."""

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, SettingsConfigDict

from spacte_workers.engine.precision import MIN_AGREEMENT

from .keys import Key, keys_from_text

KIB = 1024
MIB = 1024 * KIB


def panel(name: str) -> JsonDict:
    """The heading under which `spacte serve --help` shows a setting."""
    return {"panel": name}


class Settings(BaseSettings):
    """How the gateway serves. Each description says why one would change it.

    Values come from keyword arguments, else from the environment, else from the defaults here.
    """

    model_config = SettingsConfigDict(env_prefix="SPACTE_", extra="forbid", protected_namespaces=())

    models: Path = Field(
        default=Path("models"), description="Folder of checkpoint folders; each becomes a model by its folder's name."
    )
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every network this machine is on."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    address: str | None = Field(
        default=None,
        description="Address of a Ray cluster to join; else RAY_ADDRESS counts, or a local Ray is started.",
    )
    in_process: bool = Field(
        default=False, description="Draw noises in this process, without Ray: starts at once; for one machine."
    )
    samplers: int | None = Field(
        default=None,
        ge=1,
        description="Most samplers to run; by default one for each GPU, else as many as there is room for.",
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        default="auto",
        description="Arithmetic of the votes; `auto` takes the fastest that the model passes its check in.",
    )
    allow_int8: bool = Field(default=False, description="Let `auto` choose int8, on CPUs.")
    min_agreement: float = Field(
        default=MIN_AGREEMENT,
        ge=0,
        le=1,
        description="The check: smallest share of noisy images on which a precision must vote as float32 does.",
    )

    n_max: int = Field(
        default=1_000_000,
        ge=1,
        description="Most noises a request may ask for: bounds what one caller can cost.",
        json_schema_extra=panel("Limits"),
    )
    n0_max: int = Field(
        default=100_000,
        ge=1,
        description="Most selection noises a request may ask for.",
        json_schema_extra=panel("Limits"),
    )
    alpha_min: float = Field(
        default=1e-12,
        gt=0,
        lt=1,
        description="Smallest failure probability a request may ask for; below it no n helps.",
        json_schema_extra=panel("Limits"),
    )
    deadline_ms_max: int = Field(
        default=600_000,
        ge=1,
        description="Longest `deadline_ms` a request may ask for.",
        json_schema_extra=panel("Limits"),
    )
    max_client_batch_size: int = Field(
        default=32,
        ge=1,
        description="Most images in one prediction request; --max-concurrent-per-caller bounds them, too.",
        json_schema_extra=panel("Limits"),
    )
    max_body_bytes: int = Field(
        default=16 * MIB,
        ge=KIB,
        description="Largest request body; what is larger is refused while it arrives.",
        json_schema_extra=panel("Limits"),
    )
    max_pixels: int = Field(
        default=25_000_000,
        ge=1,
        description="Most pixels an image may have before it is resized: stops decompression bombs.",
        json_schema_extra=panel("Limits"),
    )
    max_concurrent_requests: int = Field(
        default=128,
        ge=1,
        description="Requests taken in at the same time, running or waiting; one more is told to come back.",
        json_schema_extra=panel("Limits"),
    )
    max_running: int = Field(
        default=32,
        ge=1,
        description="Of these, how many are worked on: more fill the samplers' batches, fewer finish sooner.",
        json_schema_extra=panel("Limits"),
    )
    max_concurrent_per_caller: int | None = Field(
        default=None,
        ge=1,
        description="Of these, how many one API key (or address) may have: keeps room for the others.",
        json_schema_extra=panel("Limits"),
    )
    body_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Time in which a request body must have arrived: frees what slow senders hold.",
        json_schema_extra=panel("Limits"),
    )
    decode_threads: int = Field(
        default=4,
        ge=1,
        description="Threads that decode images: more for large images on many cores.",
        json_schema_extra=panel("Limits"),
    )

    allow_client_seed: bool = Field(
        default=False,
        description="Let callers choose the seed of their noises. For tests only: "
        "choosing among seeds makes false certificates likelier.",
        json_schema_extra=panel("Security"),
    )

    keys_file: Path | None = Field(
        default=None,
        description="File of API keys, made by `spacte keys create`; with it every caller needs a key.",
        json_schema_extra=panel("Security"),
    )
    api_keys: str | None = Field(
        default=None,
        description="API keys as name:scope:sha256, separated by commas, where no file can be mounted.",
        json_schema_extra=panel("Security"),
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Let anyone who can reach the port use the service and administer it, without a key.",
        json_schema_extra=panel("Security"),
    )

    data_dir: Path = Field(
        default=Path("spacte-data"),
        description="Folder of the database, uploads and jobs; the drivers of jobs must see it too.",
        json_schema_extra=panel("Jobs"),
    )
    database: str | None = Field(
        default=None,
        description="postgresql://... where several gateways share one; by default SQLite in --data-dir.",
        json_schema_extra=panel("Jobs"),
    )
    max_upload_bytes: int = Field(
        default=2048 * MIB, ge=KIB, description="Largest file that may be uploaded.", json_schema_extra=panel("Jobs")
    )
    input_roots: str | None = Field(
        default=None,
        description="Folders and prefixes such as s3://bucket/sets, separated by commas, below which jobs may "
        "name files by URI; none by default.",
        json_schema_extra=panel("Jobs"),
    )
    datasets: str | None = Field(
        default=None,
        description="Data sets for jobs besides `digits`, as NAME=SOURCE,...: cifar10=parquet:/data/cifar10.",
        json_schema_extra=panel("Jobs"),
    )
    jobs_at_once: int = Field(
        default=2,
        ge=1,
        description="Jobs that run at the same time; each has samplers of its own. Others wait.",
        json_schema_extra=panel("Jobs"),
    )
    job_samplers_min: int = Field(
        default=1,
        ge=1,
        description="Samplers that each job asks for even where there is no room, for Ray's autoscaler to see.",
        json_schema_extra=panel("Jobs"),
    )
    job_samplers_max: int | None = Field(
        default=None,
        ge=1,
        description="Most samplers of one job; by default as many as there is room for.",
        json_schema_extra=panel("Jobs"),
    )
    resume_jobs: Literal["never", "interrupted", "always"] = Field(
        default="interrupted",
        description="Jobs to carry on with by itself: those whose cluster went, or also whose driver died.",
        json_schema_extra=panel("Jobs"),
    )
    keep_jobs_days: int = Field(
        default=30,
        ge=1,
        description="Jobs are deleted with their results so many days after their end.",
        json_schema_extra=panel("Jobs"),
    )

    allowed_hosts: str | None = Field(
        default=None,
        description="Host names that the service goes by, separated by commas; by default the loopback names "
        "where only this machine can reach it and no key is asked for, else any.",
        json_schema_extra=panel("Security"),
    )
    cors_origins: str | None = Field(
        default=None,
        description="Origins whose web pages may call the service, such as https://lab.example, by commas.",
        json_schema_extra=panel("Security"),
    )
    tls_cert: Path | None = Field(
        default=None,
        description="Certificate chain (PEM); with it and its key the service speaks HTTPS.",
        json_schema_extra=panel("Security"),
    )
    tls_key: Path | None = Field(
        default=None, description="Private key of the certificate (PEM).", json_schema_extra=panel("Security")
    )

    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Serve /metrics on this port instead, without a key: one that callers cannot reach.",
        json_schema_extra=panel("Operation"),
    )
    drain_timeout_s: float = Field(
        default=25.0,
        ge=0,
        description="Time that requests in flight have to finish after SIGTERM.",
        json_schema_extra=panel("Operation"),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line to write.", json_schema_extra=panel("Operation")
    )
    log_format: Literal["console", "json"] = Field(
        default="console",
        description="`json` writes one object a line, for log collectors.",
        json_schema_extra=panel("Operation"),
    )

    @field_validator("api_keys")
    @classmethod
    def _keys_can_be_read(cls, text: str | None) -> str | None:
        keys_from_text(text or "")
        return text

    @model_validator(mode="after")
    def _is_closed_or_meant_to_be_open(self) -> Self:
        if self.has_keys and self.allow_anonymous:
            raise ValueError("API keys and --allow-anonymous contradict each other; leave out one of them")
        if not (self.loopback or self.has_keys or self.allow_anonymous):
            raise ValueError(
                f"listening on {self.host} lets others in: make a key with `spacte keys create NAME` and "
                "pass --keys-file, or pass --allow-anonymous"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together; give both or neither")
        if self.job_samplers_max is not None and self.job_samplers_max < self.job_samplers_min:
            raise ValueError("--job-samplers-max must not be below --job-samplers-min")
        if self.max_client_batch_size > self.max_concurrent_requests:
            raise ValueError("--max-client-batch-size must not exceed --max-concurrent-requests")
        return self

    @field_validator("datasets")
    @classmethod
    def _datasets_can_be_read(cls, text: str | None) -> str | None:
        for entry in filter(None, (text or "").split(",")):
            name, equals, source = entry.partition("=")
            if not (name and equals and source):
                raise ValueError(f"{entry!r} is not NAME=SOURCE")
        return text

    @field_validator("input_roots")
    @classmethod
    def _roots_can_be_read(cls, text: str | None) -> str | None:
        for root in _split(text):
            if "://" in root:
                _check_prefix(root)
        return text

    @property
    def roots(self) -> list[Path]:
        """The folders of `input_roots`; colons may separate them, too, as in PATH."""
        folders = [root for root in _split(self.input_roots) if "://" not in root]
        return [Path(root).resolve() for folder in folders for root in folder.split(":") if root]

    @property
    def remote_roots(self) -> list[str]:
        """The prefixes of `input_roots`."""
        return [root for root in _split(self.input_roots) if "://" in root]

    @property
    def dataset_sources(self) -> dict[str, str]:
        """What jobs may name, and the source of each as `spacte train --data` takes it."""
        named = (entry.partition("=") for entry in filter(None, (self.datasets or "").split(",")))
        return {"digits": "digits"} | {name: source for name, _, source in named}

    @property
    def database_url(self) -> str:
        """Where the store is."""
        return self.database or f"sqlite:///{self.data_dir.resolve()}/spacte.sqlite"

    def hosts(self) -> list[str]:
        """The host names that the service goes by; empty for any."""
        return _split(self.allowed_hosts)

    @property
    def most_images(self) -> int:
        """Images in one prediction request: each takes a place, and a caller has only so many."""
        return min(self.max_client_batch_size, self.max_concurrent_per_caller or self.max_client_batch_size)

    def origins(self) -> list[str]:
        """The origins whose pages may call."""
        return _split(self.cors_origins)

    @property
    def has_keys(self) -> bool:
        """Whether the operator gave API keys."""
        return bool(self.keys_file or self.api_keys)

    def fixed_keys(self) -> list[Key]:
        """The keys that were given as text."""
        return keys_from_text(self.api_keys or "")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def limits(self) -> dict[str, float | int | bool]:
        """Every limit that a caller can trip over, for `GET /v1/info`."""
        names: Sequence[str] = (
            "n_max",
            "n0_max",
            "alpha_min",
            "deadline_ms_max",
            "max_client_batch_size",
            "max_body_bytes",
            "max_upload_bytes",
            "max_pixels",
            "max_concurrent_requests",
            "max_concurrent_per_caller",
            "body_timeout_s",
            "allow_client_seed",
        )
        values = {name: getattr(self, name) for name in names} | {"max_client_batch_size": self.most_images}
        return {name: value for name, value in values.items() if value is not None} | {"api_key_needed": self.has_keys}


def _check_prefix(root: str) -> None:
    from spacte_workers.batch.inputs import InputError, load_driver, parts_of

    try:
        scheme = parts_of(root)[0]
        if scheme in ("file", "local"):
            raise ValueError(f"{root!r} is a folder of this machine; give its path, from /")
        load_driver(scheme)
    except InputError as error:
        raise ValueError(f"{root!r}: {str(error).rstrip('.')}") from None


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
