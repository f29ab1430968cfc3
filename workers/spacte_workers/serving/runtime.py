"""What the gateway asks of the workers: models, readiness, and answers to requests.

A `Runtime` holds a model store, a coordinator and a pool of samplers, and lives on one event loop. It knows neither
HTTP nor Ray.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spacte_client.types import (
    Bracket,
    BracketParams,
    Certificate,
    CertifyParams,
    ImageParams,
    Model,
    Precision,
    Prediction,
    PredictionSet,
    PredictParams,
    Sample,
    SeedSource,
    SetParams,
)
from spacte_core.preprocessing import Asked
from spacte_workers.certification import certificates, set_answers
from spacte_workers.certification.algorithm import CertifySpec, Outcome, Progress, noise_error
from spacte_workers.certification.attack import Adversarial, AttackSpec
from spacte_workers.certification.canonical import bound_to_noise
from spacte_workers.certification.carrying import carry_over
from spacte_workers.certification.prediction import PredictSpec
from spacte_workers.certification.prediction_sets import LogitsRun, SetSpec
from spacte_workers.deadlines import Deadline
from spacte_workers.engine.precision_rule import PrecisionRule
from spacte_workers.errors import BadParameterError, ModelNotFoundError, ModelNotReadyError
from spacte_workers.images import asked_of, decode_image, image_sha256
from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.scheduling.observers import Observer
from spacte_workers.scheduling.queues import Priority
from spacte_workers.seeds import fresh_seed, seed_of
from spacte_workers.shards import Image

from .asking import Asking
from .attacks import run_attack
from .base_logits import base_logits
from .clock import RequestClock
from .model_store import ModelStore
from .pairs import about_reference, carried_if_cheaper
from .pools import ModelFiles, Pool, PoolStatus
from .readiness import readiness
from .served_model import ServedModel
from .versions import Versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OnProgress = Callable[[Progress, Certificate | None], None]
"""Told how far a certificate is, and the certificate if drawing ends now; None before the first look."""


class Runtime:
    """Models served by a pool of samplers.

    Args:
        models: one checkpoint folder, or a folder of them; or a store with models that are fetched.
        pool: where the noises are drawn: `LocalPool()` or `spacte_workers.cluster.RayPool(...)`.
        precision, rule: arithmetic of the votes, and what samplers may choose for `auto`.
        allow_client_seed: let a caller choose the seed. Choosing among seeds makes false certificates likelier, so this
            is for tests and replays.
        seed_secret: makes each seed a function of its request, so that asking again gives the same votes.
        signer: public key (PEM) that must have signed every model, see `signed_models`.
        decode: from the bytes of an image file to pixels: `decode_image`, or the same in a process of its own.
        start_wait_s: how long `start` waits for the models. Chosen: longer than one takes to load and check itself.
        patience_s: how long a request waits for a sampler where none is left, see `Coordinator`.
        observer: told of what is drawn, wasted and retried, for metrics.
    """

    def __init__(
        self,
        models: Path | str | ModelStore,
        pool: Pool,
        *,
        precision: Precision | Literal["auto"] = "auto",
        rule: PrecisionRule | None = None,
        allow_client_seed: bool = False,
        seed_secret: bytes | None = None,
        signer: Path | None = None,
        decode: Callable[..., Image] = decode_image,
        start_wait_s: float = 120.0,
        patience_s: float = 30.0,
        observer: Observer | None = None,
    ) -> None:
        self._store = models if isinstance(models, ModelStore) else ModelStore(Path(models), signer)
        self.pool = pool
        self._allow_client_seed = allow_client_seed
        self._seed_secret = seed_secret
        self._decode = decode
        self._coordinator = Coordinator(patience_s=patience_s, observer=observer)
        told = {"expect": self._coordinator.expect, "forget": self._coordinator.forget}
        self._versions = Versions(self._store, pool, precision, rule or PrecisionRule(), **told)
        self._start_wait_s = start_wait_s
        self._loading: asyncio.Task[None] | None = None
        self._started = False

    async def start(self) -> None:
        """Bring the samplers up and load every model of the folder.

        One that cannot be loaded is `failed` with its reason; each answers as soon as it is loaded, the lightest first.
        Where no sampler comes up within `start_wait_s` this returns, too: the models stay `loading` until one does.
        Nothing blocks the loop, and signal handlers stay as they are.

        Raises:
            ClusterError: Ray could not be started or joined.
        """
        names = await asyncio.to_thread(self._store.find)
        try:
            await asyncio.to_thread(self._store.scan)
            await self.pool.start(self._coordinator)
            self._started = True
            self._loading = asyncio.create_task(self._versions.load_all(names))
            await asyncio.wait([self._loading], timeout=self._start_wait_s)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the samplers. Requests still in flight end with `NoWorkersError`."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self._coordinator.close()
        await self.pool.stop()

    def models(self) -> list[Model]:
        """Every model known, loaded or not, by name."""
        return self._store.listing()

    def samples(self, name: str) -> list[Sample]:
        """Held-out images that came with a model. It reads files: call it in a thread.

        Raises:
            ModelNotFoundError: no model has this name.
        """
        return self._store.samples(name)

    def model(self, name: str | None) -> ServedModel:
        """The version that answers for a name, or for None the only one served.

        Raises:
            ModelNotFoundError: no such name, or none named where several are served.
            ModelNotReadyError: known, but not loaded.
        """
        return self._store.served(name)

    async def load(self, name: str, share: float | None = None, source: str | None = None) -> None:
        """Load a model, or replace it by what its folder holds now, without dropping a request.

        The old version answers until every sampler has loaded and checked the new one, and is forgotten once its last
        request is answered. With a `share` from 0 to 1 it stays, and the new one answers that part of the requests. A
        `source` is fetched first (`model_sources`).

        Raises:
            ModelNotFoundError: no model of that name is in the folder.
            ModelLoadError: it does not work; a version that answered before goes on answering.
            NoWorkersError: there is no sampler to load it."""
        await self._versions.load(name, share, source)

    async def divide(self, name: str, weights: Mapping[str, float]) -> None:
        """Divide a model's requests by weight among its loaded versions; one that is not named is unloaded.

        Raises ModelNotFoundError, BadParameterError: no such model or version, or weights that are none."""
        await self._versions.divide(name, weights)

    def pinned(self, name: str | None, request_id: str) -> AbstractContextManager[str | None]:
        """What to call the model in all that one request asks, so that one version answers it; see `traffic`."""
        return self._store.pinned(name, request_id)

    async def unload(self, name: str) -> None:
        """Stop serving a model; requests that run on it are answered first.

        Raises:
            ModelNotFoundError: no model has that name.
        """
        await self._versions.unload(name)

    def ready(self) -> dict[str, str]:
        """Checks by name, each `ok` or a sentence on what is wrong."""
        return readiness(self._store, self.pool.status(), self._started)

    def pool_status(self) -> PoolStatus:
        """How many samplers are in which state, and what they run on."""
        return self.pool.status()

    def rate(self, name: str | None) -> tuple[str, float]:
        """The model that answers for a name, and the noises a second that the samplers draw for it alone.

        0 where nobody can say.
        """
        try:
            model = self.model(name)
        except (ModelNotFoundError, ModelNotReadyError):
            return "", 0.0
        return model.name, self._coordinator.rate(model.key)

    def decode(self, model: str | None, data: bytes, asked: Asked | None = None) -> Image:
        """Pixels in the model's input shape from an image file's bytes. It computes: call it in a thread.

        `asked` is what may be done to the picture besides what the checkpoint states.

        Raises:
            BadImageError: not an image, or not of that shape.
            ModelNotFoundError, ModelNotReadyError: as for `model`.
        """
        config = self.model(model).config
        shape, stated = config.model.input_shape, config.pictures
        return self._decode(data, input_shape=shape, stated=stated, asked=asked)

    async def certify(
        self,
        image: Image | bytes,
        params: CertifyParams,
        *,
        request_id: str,
        on_progress: OnProgress | None = None,
        priority: Priority = "interactive",
        image_index: int = 0,
        seed_source: SeedSource | None = None,
        expected: int | None = None,
    ) -> Certificate:
        """Draw noises on every sampler until the answer is settled. Cancelling the task frees the samplers.

        Args:
            image: decoded pixels in the model's input shape, or the bytes of an image file.
            params: what is asked.
            request_id: becomes the certificate's id.
            on_progress: called on the event loop as votes come in, at most ten times a second.
            priority: `interactive` requests go before `batch` ones.
            image_index: which noises of the seed; the images of a job share a seed and differ here.
            seed_source: who chose the seed in `params`; by default its caller.
            expected: the class without which nothing is to be estimated, if any.

        Raises:
            ModelNotFoundError, ModelNotReadyError, BadImageError, BadParameterError, NoWorkersError: it cannot be done.
            DeadlineExceededError, NotOneFunctionError: nothing was proven in time, or nothing can be.
        """
        clock = RequestClock()
        with self.model(params.model).used() as model:
            pixels, noises = await self._prepare(image, params, model)
            noises |= {"image_index": image_index, "expected": expected}
            noises["seed_source"] = seed_source or noises["seed_source"]
            return await self._certify(model, Asking(pixels, params, noises, request_id, clock), on_progress, priority)

    async def _certify(
        self, model: ServedModel, asked: "Asking", on_progress: OnProgress | None, priority: Priority
    ) -> Certificate:
        """The certificate of decoded pixels by a version in use."""
        pixels, params, clock, sha256 = asked.pixels, asked.params, asked.clock, image_sha256(asked.pixels)
        made = await asyncio.to_thread(CertifySpec.from_params, params, shape=pixels.shape, **asked.noises)
        spec = bound_to_noise(made, model.identity, sha256, self._seed_secret)
        answer = partial(
            certificates.certificate,
            spec,
            model=model.identity,
            id=asked.request_id,
            image_sha256=sha256,
            deadline_ms=params.deadline_ms,
            steps=pixels.steps,
        )

        def certificate(outcome: Outcome) -> Certificate:
            return answer(outcome, elapsed_ms=clock.elapsed_ms(), queue_ms=clock.queue_ms)

        def report(progress: Progress) -> None:
            if on_progress:
                on_progress(progress, progress.standing and certificate(progress.standing))

        about = None if params.certify is None else await self._versions.reference(model)
        with self._versions.withdrawn_if_faulty(model):
            outcome = await self._coordinator.certify(
                model.key,
                pixels,
                spec,
                deadline=Deadline(params.deadline_ms, clock.arrived),
                on_progress=report if on_progress else None,
                on_start=clock.start,
                priority=priority,
            )
        if about is None:
            return certificate(outcome)
        keys = model.key, model.reference_key
        carried = await about_reference(self._coordinator, keys, pixels, certificate(outcome), about, priority)
        return carried.model_copy(update={"elapsed_ms": clock.elapsed_ms()})

    async def load_base(self, base: ModelFiles) -> None:
        """Load a model whose certificates are to be carried over, beside those served.

        Raises:
            ModelLoadError: it does not work here, or its kernels do not run here.
        """
        await self.pool.load(base)

    async def carry_over(
        self, image: Image, base: Certificate, key: str, *, model: str, seed: str, n: int
    ) -> Certificate | None:
        """A certificate of the model that `load_base` loaded as `key`, carried over to the one that is served.

        Returns:
            None where a certificate made anew is cheaper or proves more, see `carrying.carry_over`.
        """
        with self.model(model).used() as served:
            steps = carry_over(base, served.identity, seed=seed, n=n)
            return await carried_if_cheaper(self._coordinator, (key, served.key), image, steps, "batch")

    async def predict(self, image: Image | bytes, params: PredictParams, *, request_id: str) -> Prediction:
        """Draw `n` noises and test the lead of the most frequent class. Arguments and errors as for `certify`."""
        clock = RequestClock()
        with self.model(params.model).used() as model:
            pixels, noises = await self._prepare(image, params, model)
            sha256 = image_sha256(pixels)
            spec = PredictSpec.from_params(params, **noises)
            spec = bound_to_noise(spec, model.identity, sha256, self._seed_secret)
            outcome = await self._coordinator.predict(model.key, pixels, spec, on_start=clock.start)
            return certificates.prediction(
                spec,
                outcome,
                model.identity,
                id=request_id,
                image_sha256=sha256,
                elapsed_ms=clock.elapsed_ms(),
                steps=pixels.steps,
            )

    async def predict_set(self, image: Image | bytes, params: SetParams, *, request_id: str) -> PredictionSet:
        """The classes that hold the true one, see `LocalCertifier.predict_set`. Arguments and errors as for `certify`.

        Raises:
            NotCalibratedError: the model has no calibration that fits what votes now.
        """
        clock = RequestClock()
        with self.model(params.model).used() as model:
            calibration = await asyncio.to_thread(self._store.calibration, model)
            pixels, noises = await self._prepare(image, params, model)
            error = await asyncio.to_thread(noise_error, calibration.noise, calibration.sigma, pixels.shape)
            classes, seed = noises["num_classes"], noises["seed"]
            spec = SetSpec.from_params(params, calibration, num_classes=classes, seed=seed, noise_error=error)
            logits_NK = await self._coordinator.draw(model.key, pixels, LogitsRun(spec.scores), on_start=clock.start)
            told: dict[str, Any] = {"id": request_id, "image": pixels, "elapsed_ms": clock.elapsed_ms()}
            return set_answers.prediction_set(spec, params, calibration, logits_NK, model.identity, **told)

    async def logits(self, rows: Sequence[Image], model: str | None) -> "tuple[str, NDArray[np.float32]]":
        """The version that answers, and its own logits [B, K] of rows; see `base_logits`."""
        with self.model(model).used() as served:
            return served.version, await base_logits(self._coordinator, served, rows)

    async def bracket(self, image: Image | bytes, params: BracketParams, *, request_id: str) -> Bracket:
        """A certified radius, and what an attack finds beyond it. Arguments and errors as for `certify`.

        Raises:
            EngineError: the model has no gradient.
        """
        clock = RequestClock()
        with self.model(params.model).used() as model:
            pixels, noises = await self._prepare(image, params, model)
            lower = await self._certify(model, Asking(pixels, params, noises, request_id, clock), None, "interactive")
            found, drawn = None, 0
            if not lower.abstained:
                spec = AttackSpec.of(lower, n=params.n_upper, alpha=params.alpha_upper, seed=fresh_seed())
                found, drawn = await run_attack(self._coordinator, model.key, pixels, spec)
            told: dict[str, Any] = {"alpha_upper": params.alpha_upper, "attack_noises": drawn}
            return set_answers.bracket(lower, found, model.identity, **told, elapsed_ms=clock.elapsed_ms())

    async def adversarial(self, image: Image, spec: AttackSpec, model: str | None) -> tuple[Adversarial | None, int]:
        """What an attack finds beyond a certificate of this model, and how many noises that took.

        Raises:
            EngineError: the model has no gradient; and as for `certify`.
        """
        with self.model(model).used() as served:
            return await run_attack(self._coordinator, served.key, image, spec)

    async def _prepare(
        self, image: Image | bytes, params: ImageParams, model: ServedModel
    ) -> tuple[Image, dict[str, Any]]:
        """The pixels, checked; and what determines the noises: the model's sigma and classes, and the seed.

        The seed is drawn only now, when the image is there, so that no image can be made for a seed.
        """
        if isinstance(image, bytes):
            image = await asyncio.to_thread(self.decode, model.name, image, asked_of(params))
        model.check(params, image)
        if params.seed is not None and not self._allow_client_seed:
            raise BadParameterError("seed", "The seed is drawn by the service: leave it out.")
        seed, seed_source = seed_of(params)
        known = {"sigma": model.config.sigma, "num_classes": model.config.model.num_classes}
        return image, known | {"seed": seed, "seed_source": seed_source}
