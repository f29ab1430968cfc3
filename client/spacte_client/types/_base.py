"""What every wire model shares: unknown fields are refused in requests and tolerated in answers."""

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """Something a caller sends. An unknown field is an error, so that a misspelt option is never ignored."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class AnswerModel(BaseModel):
    """Something the service sends. Unknown fields are kept, so that an older SDK reads a newer service."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), frozen=True)
