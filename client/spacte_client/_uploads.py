"""What callers pass as a file to upload."""

import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from ._exceptions import InvalidArgumentError

Upload = str | os.PathLike[str] | bytes | BinaryIO
"""A path, bytes, or an open binary file that can be rewound."""


@contextmanager
def open_upload(source: Upload) -> Generator[tuple[BinaryIO | bytes, str]]:
    """What to upload and its name, open while it is being sent. It must be readable twice, as by a retry."""
    if isinstance(source, str | os.PathLike):
        path = Path(cast("str", source))
        try:
            file = path.open("rb")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InvalidArgumentError(f"Cannot read {path}: {reason}; check the path.") from error
        with file:
            yield file, path.name
    elif isinstance(source, bytes):
        yield source, "upload"
    elif isinstance(source, io.TextIOBase):
        raise InvalidArgumentError("The file to upload is open as text; open it with mode 'rb'.")
    elif not source.seekable():
        raise InvalidArgumentError("The file to upload cannot be rewound for a retry; pass its bytes or a path.")
    else:
        yield source, Path(str(getattr(source, "name", "upload"))).name
