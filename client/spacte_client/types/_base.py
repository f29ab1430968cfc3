"""What wire models share: unknown fields are refused in requests and tolerated in answers; pages have a cursor."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PageInfo"]


class RequestModel(BaseModel):
    """Something a caller sends. An unknown field is an error, so that a misspelt option is never ignored."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class AnswerModel(BaseModel):
    """Something the service sends. Unknown fields are kept, so that an older SDK reads a newer service."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), frozen=True)


class PageInfo(AnswerModel):
    """Where a page lies in its list, newest first."""

    has_more: bool = Field(description="Whether an older page follows; ask for it with `after=last_id`.")
    first_id: str | None = Field(default=None, description="Id of the first entry, or null when the page is empty.")
    last_id: str | None = Field(default=None, description="Id of the last entry, or null when the page is empty.")
