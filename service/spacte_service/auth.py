"""Who is calling, and may they: bearer API keys with the scopes `user` and `admin`."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from .callers import Caller, anonymous, holder_of
from .dependencies import TheKeys, TheQuotas, TheSettings, TheStreams
from .keys import Key, KeyRing
from .open_streams import OpenStream
from .problems import ProblemError

bearer = HTTPBearer(
    auto_error=False, description="An API key, `spacte_...`, where the operator asks for one (see `/v1/info`)."
)

CHALLENGE = {"WWW-Authenticate": "Bearer"}


async def identify(
    request: Request,
    keys: TheKeys,
    settings: TheSettings,
    counts: TheQuotas,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Caller:
    """The caller of a request, which is counted.

    Raises ProblemError: 401, a key is needed and none that is valid was sent; 429, the quota of requests is used up.
    """
    if keys is None:
        caller = anonymous(request.client.host if request.client else "unknown", settings.quotas)
    else:
        caller = holder_of(_valid(keys, credentials), settings.quotas)
    counts.request(caller.id, caller.quotas)
    return caller


def _valid(keys: KeyRing, credentials: HTTPAuthorizationCredentials | None) -> Key:
    """The key that was sent. Raises ProblemError: 401."""
    if credentials is None:
        sentence = "Send an API key in the header `Authorization: Bearer spacte_...`; the operator makes one."
        raise ProblemError("unauthenticated", sentence, headers=CHALLENGE)
    key = keys.find(credentials.credentials)
    if key is None:
        sentence = "This API key is not known; check that it is whole, or ask the operator for one."
        raise ProblemError("unauthenticated", sentence, headers=CHALLENGE)
    if key.revoked_at is not None:
        raise revoked()
    return key


def revoked() -> ProblemError:
    """The 401 of a key that was revoked."""
    sentence = "This API key was revoked; ask the operator for a new one."
    return ProblemError("unauthenticated", sentence, headers=CHALLENGE)


TheCaller = Annotated[Caller, Depends(identify)]


async def open_stream(request: Request, caller: TheCaller, streams: TheStreams) -> AsyncGenerator[OpenStream]:
    """The request as a stream, which ends when its caller's key is revoked. Raises ProblemError: 429."""
    with streams.open(caller) as stream:
        request.state.stream = stream
        yield stream


TheStream = Annotated[OpenStream, Depends(open_stream)]


async def require_admin(caller: TheCaller) -> None:
    """Let only administrators pass. Raises ProblemError: 403."""
    if caller.scope != "admin":
        raise ProblemError("forbidden", "This needs a key of scope `admin`; yours has scope `user`.")
