"""The wire schema: the one definition of every request, answer, event and problem. The service imports it."""

from . import (
    _base,
    brackets,
    carried,
    certificates,
    events,
    files,
    jobs,
    models,
    problems,
    recertification,
    remote,
    sets,
    signatures,
)
from ._base import *  # noqa: F403
from .brackets import *  # noqa: F403
from .carried import *  # noqa: F403
from .certificates import *  # noqa: F403
from .events import *  # noqa: F403
from .files import *  # noqa: F403
from .jobs import *  # noqa: F403
from .models import *  # noqa: F403
from .problems import *  # noqa: F403
from .recertification import *  # noqa: F403
from .remote import *  # noqa: F403
from .sets import *  # noqa: F403
from .signatures import *  # noqa: F403

__all__: list[str] = []
__all__ += _base.__all__
__all__ += brackets.__all__
__all__ += carried.__all__
__all__ += certificates.__all__
__all__ += events.__all__
__all__ += files.__all__
__all__ += jobs.__all__
__all__ += models.__all__
__all__ += problems.__all__
__all__ += recertification.__all__
__all__ += remote.__all__
__all__ += sets.__all__
__all__ += signatures.__all__
