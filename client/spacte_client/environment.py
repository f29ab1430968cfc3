"""Which variables of the environment keep a client of httpx2 from being made: of proxies, of certificates."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import httpx2

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


@contextmanager
def blamed(refusal: type[Exception]) -> Generator[None]:
    """Raise a `refusal` that names the variables with which a client of httpx2 cannot be made in this context.

    What is raised where no variable is to blame stays as it is.
    """
    try:
        yield
    except (httpx2.InvalidURL, ValueError, OSError, ImportError) as error:
        sentence = _sentence(error, os.environ)
        if sentence is None:
            raise
        raise refusal(sentence) from error


def _sentence(error: Exception, environment: Mapping[str, str]) -> str | None:
    """What to correct: an OSError comes of what reads certificates, anything else of what reads proxies."""
    suspects = _CERTIFICATES if isinstance(error, OSError) else _PROXIES
    found = [name for suspect in suspects for name in (suspect, suspect.lower()) if environment.get(name)]
    if not found:
        return None
    why = " ".join(str(error).split()).rstrip(".")
    it = "it" if len(found) == 1 else "them"
    return (
        f"No connection can be set up with {' and '.join(found)} as the environment has {it} ({why}); correct or unset "
        f"{it}."
    )
