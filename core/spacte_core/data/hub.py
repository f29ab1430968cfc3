"""`hf:OWNER/NAME` or `hf:OWNER/NAME/CONFIG`: a data set of the Hugging Face hub, in parquet files as the hub keeps it.

What was fetched stays in the hub's own cache (`HF_HOME`), from where it is read without a network. No code is run. Of a
set that was published in another format the hub's conversion to parquet is taken.
"""

from pathlib import Path
from typing import Any

from spacte_core.errors import DataError, optional_package

from . import parquet
from .base import DataConfig, Split
from .memory import MemoryData

REVISIONS = (None, "refs/convert/parquet")
"""The set as it was published, and the branch with the hub's own conversion."""


def fetched(name: str) -> Path:
    """The folder with the parquet files of a set, fetched where it is not in the cache.

    Raises:
        DataError: there is none of that name, or it cannot be reached.
        MissingPackageError: huggingface_hub is not installed.
    """
    hub: Any = optional_package("huggingface_hub", "hub")
    owner, _, rest = name.strip("/").partition("/")
    repository, _, config = rest.partition("/")
    place = f"{owner}/{repository}" if repository else owner
    error: Exception | None = None
    for revision in REVISIONS:
        try:
            found = Path(
                hub.snapshot_download(place, repo_type="dataset", revision=revision, allow_patterns=["*.parquet"])
            )
        except Exception as reason:  # noqa: BLE001  the library's, the network's and the disk's
            error = error or reason
            continue
        if any(found.rglob("*.parquet")):
            return found / config
    first = str(error or "it has no parquet files").strip().partition("\n")[0][:200].rstrip(". ")
    raise DataError(
        f"The data set hf:{name} could not be fetched ({first}): check its name, OWNER/NAME, and the network, or clone "
        "it and name its folder, parquet:PATH."
    ) from error


def load(config: DataConfig, split: Split) -> MemoryData:
    """One split, fetched and decoded."""
    folder = fetched(config.source.partition(":")[2])
    return parquet.load(config.model_copy(update={"source": f"parquet:{folder}"}), split)
