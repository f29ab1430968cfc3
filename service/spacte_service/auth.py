"""Who is calling, and may they: bearer API keys with the scopes `user` and `admin`."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from .dependencies import TheKeys
from .keys import Scope
from .problems import ProblemError

bearer = HTTPBearer(
    auto_error=False, description="An API key, `spacte_...`, where the operator asks for one (see `/v1/info`)."
)

CHALLENGE = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request is counted for, and what they may do."""

    id: str  # the key's, or the network address of a caller without one
    scope: Scope


async def identify(
    request: Request, keys: TheKeys, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
) -> Caller:
    """The caller of a request. Raises ProblemError: 401, a key is needed and none that is valid was sent."""
    if keys is None:
        # No key is asked for, so there is nobody to keep from the administration either.
        return Caller(f"address:{request.client.host if request.client else 'unknown'}", "admin")
    if credentials is None:
        sentence = "Send an API key in the header `Authorization: Bearer spacte_...`; the operator makes one."
        raise ProblemError("unauthenticated", sentence, headers=CHALLENGE)
    key = keys.find(credentials.credentials)
    if key is None:
        sentence = "This API key is not known; check that it is whole, or ask the operator for one."
        raise ProblemError("unauthenticated", sentence, headers=CHALLENGE)
    if key.revoked_at is not None:
        raise ProblemError(
            "unauthenticated", "This API key was revoked; ask the operator for a new one.", headers=CHALLENGE
        )
    return Caller(key.id, key.scope)


TheCaller = Annotated[Caller, Depends(identify)]


async def require_admin(caller: TheCaller) -> None:
    """Let only administrators pass. Raises ProblemError: 403."""
    if caller.scope != "admin":
        raise ProblemError("forbidden", "This needs a key of scope `admin`; yours has scope `user`.")
