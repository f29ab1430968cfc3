"""The job whose certificates another one carries over: its results, and its model beside the new one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spacte_client.types import Certificate, CertifyParams, SeedSource
from spacte_workers.certification.carrying import anew, votes_cast
from spacte_workers.certification.certificates import KERNELS
from spacte_workers.images import image_sha256
from spacte_workers.serving.pools import ModelFiles
from spacte_workers.shards import Image

from .chains import ChangedLogError, check_log, whole_lines
from .inputs import InputError
from .results import certificate_in

if TYPE_CHECKING:
    from spacte_workers.serving.runtime import Runtime


@dataclass(frozen=True, slots=True)
class BaseJob:
    """A job that has succeeded, as the one that carries its certificates over knows it.

    Attributes:
        id: its id.
        model, model_version, checkpoint: its model's name, SHA-256 and folder.
        done, results_sha256: how many lines its results have, and the hash of the last.
    """

    id: str
    model: str
    model_version: str
    checkpoint: str
    done: int
    results_sha256: str | None


class BaseResults:
    """The certificates of a base job by image; its file stays open.

    Args:
        base: the job.
        path: a copy of its results.

    Raises:
        InputError: they are not what its driver wrote.
    """

    def __init__(self, base: BaseJob, path: Path) -> None:
        try:
            check_log(path, base.done, base.results_sha256)
        except ChangedLogError as error:
            raise InputError(
                f"The results of {base.id} are not what its driver wrote ({error}): begin a job without base_job."
            ) from None
        self._path, self._lines = path, dict[int, tuple[int, int]]()
        self.first: Certificate | None = None
        start = 0
        for line in whole_lines(path):
            if line.record["outcome"] != "errored":
                self._lines[line.record["index"]] = start, line.end - start
                self.first = self.first or certificate_in(line.record)
            start = line.end

    def of(self, index: int) -> Certificate | None:
        """The certificate of an image; None where it has none."""
        if index not in self._lines:
            return None
        start, length = self._lines[index]
        with self._path.open("rb") as file:
            file.seek(start)
            return certificate_in(json.loads(file.read(length)))


class Recertification:
    """Makes the certificates of a job with a base job: carried over where that is cheaper, else anew.

    Args:
        base, results: the base job.
        runtime: serves the new model; its pool gets the old one, too.
        params: of the base job, with the seed of this one and the name of its model.
        seed_source: who chose that seed.
    """

    def __init__(
        self, base: BaseJob, results: BaseResults, runtime: "Runtime", params: CertifyParams, seed_source: SeedSource
    ) -> None:
        self._base, self._results, self._runtime = base, results, runtime
        self._params = params
        self._seed_source: SeedSource = seed_source
        self._key = f"{base.id}/{base.model}@{base.model_version}"

    async def start(self) -> None:
        """Load the old model, to vote as it did.

        Raises:
            ModelLoadError: it cannot, because its kernels do not run here or its checkpoint is gone.
        """
        first, base = self._results.first, self._base
        if first is not None:
            kernels = first.versions.get(KERNELS)
            folder, version = Path(base.checkpoint), base.model_version
            await self._runtime.load_base(ModelFiles(self._key, folder, version, first.precision, kernels=kernels))

    async def certificate(
        self, index: int, image: Image, request_id: str, expected: int | None = None
    ) -> tuple[Certificate, int]:
        """The certificate of an image, and the votes that were cast for it.

        Args:
            index, image, request_id: which image, and the id of its certificate.
            expected: the class without which nothing is to be estimated anew, if any.
        """
        base = self._results.of(index)
        # The new model may get other pixels of the same picture, and noises on them say nothing of the old ones.
        same = base is not None and base.image_sha256 == image_sha256(image)
        if base is not None and same:
            model, seed = self._params.model or "", self._params.seed or ""
            after = await self._runtime.carry_over(image, base, self._key, model=model, seed=seed, n=self._params.n)
            if after is not None:
                return after.model_copy(update={"id": request_id}), votes_cast(after, base)
        made = await self._runtime.certify(
            image,
            self._params.model_copy(update={"alpha": anew(self._params.alpha)}),
            request_id=request_id,
            priority="batch",
            image_index=index,
            seed_source=self._seed_source,
            expected=expected,
        )
        return made, votes_cast(made, base if same else None)
