"""Which variables of the environment keep a client of httpx2 from being made: of proxies, of certificates."""

import os
from collections.abc import Mapping

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")

CAUSES = (ValueError, OSError, ImportError)
"""What httpx2 raises then, beside its own `InvalidURL`."""


def sentence(error: Exception, environment: Mapping[str, str] = os.environ) -> str | None:
    """What to correct where a client could not be made; None where no variable is to blame.

    Args:
        error: what was raised: OSError by what reads certificates, anything else by what reads proxies.
        environment: the variables, in large or small letters.
    """
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
