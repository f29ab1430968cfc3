"""The quotas that a key or the settings state. Light to import: the settings are read before the port opens."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

QuotaName = Literal["requests", "noises", "upload_bytes", "jobs", "streams"]
Amount = Annotated[int | None, Field(ge=1)]


class Quotas(BaseModel):
    """The most that a caller may take; None for any amount. Of a key, what is not set is as in the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: Amount = None
    noises: Amount = None
    upload_bytes: Amount = None
    jobs: Amount = None
    streams: Amount = None

    def but(self, own: "Quotas") -> "Quotas":
        """These, but with what `own` sets."""
        return self.model_copy(update=own.model_dump(exclude_unset=True))
