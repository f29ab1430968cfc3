"""Certificates without a server: any `torch.nn.Module` or checkpoint, in this process."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from spacte_client.types import (
    Bracket,
    BracketParams,
    Certificate,
    CertifyParams,
    Conversion,
    ImageParams,
    Noise,
    Precision,
    Prediction,
    PredictionSet,
    PredictParams,
    RequestedBound,
    SetMethod,
    SetParams,
)
from spacte_core.preprocessing import Preprocessing
from spacte_workers.certification.algorithm import Certification, CertifySpec, noise_error
from spacte_workers.certification.attack import Adversarial, Attack, AttackSpec, attack
from spacte_workers.certification.canonical import bound_to_noise
from spacte_workers.certification.carrying import carried_over, differences, reference_pairs, selected_class
from spacte_workers.certification.prediction import PredictionRun, PredictSpec
from spacte_workers.certification.prediction_sets import LogitsRun, SetSpec
from spacte_workers.certification.set_calibration import load_calibration
from spacte_workers.engine.precision_rule import MIN_AGREEMENT
from spacte_workers.seeds import fresh_seed, seed_of

from .certification import certificates, set_answers
from .deadlines import Deadline
from .drawing import advance, draw
from .endpoints.budget import check_budget
from .endpoints.remote import remote_of
from .errors import BadParameterError, NotCalibratedError, check_consensus
from .images import BadImageError, asked_of, decode_image, from_array, image_sha256
from .shards import Image

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .engine import Engine

Params = TypeVar("Params", bound=ImageParams)

_PLAIN: dict[str, Any] = {"precision": "fp32", "kernels": "plain", "portable": False}
"""Options of the engine that computes the plain float32 network."""


class LocalCertifier:
    """Certifies and predicts with one base classifier, in the calling thread.

    Args:
        module_or_checkpoint: a module that maps float32 [B, C, H, W] (pixels in [0, 1] plus noise) to logits [B, K] or
            to a list of L such tensors whose sum decides; or the path of a checkpoint folder.
        sigma: noise sd in units of [0, 1] pixels; a checkpoint's own by default, required with a module.
        num_classes, input_shape: K and (C, H, W); required with a module.
        precision: `auto`, `fp32`, `bf16` or `int8`; the certificate names the one used.
        device: a torch device; default the first GPU, else the CPU.
        batch: rows of a batch; default by measurement.
        allow_int8: whether `auto` may choose int8.
        min_agreement: smallest share of noisy rows on which a precision must vote as float32 does.
        portable: whether votes have to be the same on every kind of x86 processor; they are int8's then.
        examples: uint8 [M, C, H, W], images on which precisions are compared and to which int8 is fitted, for a module;
            default random ones. A checkpoint has its own, so that whoever replays a certificate has them, too.

    Raises:
        ValueError: something that only a checkpoint could supply is missing, or is given beside one.
        EngineError: the module is not one fixed function.
    """

    def __init__(
        self,
        module_or_checkpoint: "nn.Module | str | Path",
        *,
        sigma: float | None = None,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        precision: Precision | Literal["auto"] = "auto",
        device: "str | torch.device | None" = None,
        batch: int | None = None,
        allow_int8: bool = False,
        min_agreement: float = MIN_AGREEMENT,
        portable: bool = False,
        examples: Any = None,
    ) -> None:
        from .engine import Engine

        self._folder: Path | None
        options: dict[str, Any] = {
            "precision": precision,
            "device": device,
            "batch": batch,
            "allow_int8": allow_int8,
            "min_agreement": min_agreement,
            "portable": portable,
        }
        if isinstance(module_or_checkpoint, str | Path):
            from spacte_core.checkpoint import load_checkpoint

            if examples is not None:
                raise ValueError("A checkpoint is compared on images of its own: leave examples out.")
            checkpoint = load_checkpoint(Path(module_or_checkpoint))
            name, version, self._folder = checkpoint.folder.name, checkpoint.version, checkpoint.folder
            class_names = tuple(checkpoint.config.class_names)
            self._asked = checkpoint.config.model.asked
            self._stated = checkpoint.config.pictures
            sigma = checkpoint.config.sigma if sigma is None else sigma
            make = partial(Engine.from_checkpoint, checkpoint)
        else:
            if sigma is None or num_classes is None or input_shape is None:
                raise ValueError("A bare module says nothing of itself: pass sigma, num_classes and input_shape.")
            self._stated = Preprocessing()
            self._folder = self._asked = None
            name, version, class_names = "module", "", tuple(str(k) for k in range(num_classes))
            options |= {"input_shape": input_shape, "num_classes": num_classes, "examples": examples}
            make = partial(Engine, module_or_checkpoint)
        self.engine = make(sigma=sigma, **options)
        self._make_reference = partial(make, **(options | _PLAIN), sigma=sigma)
        self.sigma = sigma
        self._identity = certificates.ModelIdentity(
            name, version, class_names, self.engine.precision, self.engine.kernels, remote_of(self._asked)
        )

    def certify(
        self,
        image: Any,
        *,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        bound: RequestedBound = "auto",
        noise: Noise = "grid",
        target_radius: float | None = None,
        tolerance: float | None = None,
        deadline_ms: int | None = None,
        k_consensus: int | None = None,
        certify: Literal["fp32"] | None = None,
        seed: str | None = None,
        resize: bool = False,
        enlarge: bool = False,
        convert: Sequence[Conversion] = (),
    ) -> Certificate:
        """A label and an L2 radius, right with probability at least 1 - alpha over the noise.

        Args:
            image: uint8 array or tensor [C, H, W], or floating point in [0, 1]; or the path or bytes of an image file.
            n0: selection noises.
            n: the most estimation noises.
            alpha: probability of a false certificate that is tolerated.
            bound: `clopper_pearson`, `two_class` (bounds the runner-up, too), or `auto`: by the selection votes.
            noise: `grid` is exact for 8-bit images; `float` is plain Gaussian noise, as published.
            target_radius: stop once this radius is shown, is out of reach, or cannot be shown within `n` any more.
            tolerance: stop when drawing on to `n` can add less than this to the radius.
            deadline_ms: answer by then with what is proven.
            k_consensus: heads that must agree for a vote without the others.
            certify: `fp32` certifies the plain float32 network, whatever casts the votes; goes with a fixed `n` only.
            seed: 32 hex digits; default fresh. Choosing among seeds forfeits the guarantee.
            resize: scale an image file and crop its centre to the input, as in the checkpoint's training.
            enlarge: also where that enlarges it, so that the radius overstates that of the file.
            convert: what may be changed in an image file besides: `channels`, `orientation`, `depth`, `transparency`.

        Raises:
            BadParameterError: an option is out of its range, which is that of the service.
            BadImageError: the image does not fit the model or the noise.
            DeadlineExceededError: the deadline passed before anything was proven.
        """
        pictures: dict[str, Any] = {"resize": resize, "enlarge": enlarge, "convert": list(convert)}
        params = self._checked(
            CertifyParams,
            n0=n0,
            n=n,
            alpha=alpha,
            bound=bound,
            noise=noise,
            target_radius=target_radius,
            tolerance=tolerance,
            deadline_ms=deadline_ms,
            k_consensus=k_consensus,
            certify=certify,
            seed=seed,
            **pictures,
        )
        return self._certify(self._pixels(image, params), params)

    def predict(
        self,
        image: Any,
        *,
        n: int = 1_000,
        alpha: float = 0.001,
        noise: Noise = "grid",
        k_consensus: int | None = None,
        seed: str | None = None,
        resize: bool = False,
        enlarge: bool = False,
        convert: Sequence[Conversion] = (),
    ) -> Prediction:
        """The smoothed classifier's answer, or an abstention; wrong with probability at most alpha.

        Arguments and errors as for `certify`.
        """
        options: dict[str, Any] = {"resize": resize, "enlarge": enlarge, "convert": list(convert)}
        params = self._checked(
            PredictParams, n=n, alpha=alpha, noise=noise, k_consensus=k_consensus, seed=seed, **options
        )
        pixels = self._pixels(image, params)
        started = time.perf_counter()
        sha256 = image_sha256(pixels)
        asked = PredictSpec.from_params(params, **self._noises(params))
        run = PredictionRun(bound_to_noise(asked, self._identity, sha256))
        outcome = draw(run, self.engine, pixels)
        return certificates.prediction(
            run.spec,
            outcome,
            self._identity,
            id=f"req_{uuid.uuid4().hex}",
            image_sha256=sha256,
            elapsed_ms=(time.perf_counter() - started) * 1000,
            steps=pixels.steps,
        )

    def _pixels(self, image: Any, params: ImageParams) -> Image:
        """The model's input from an array, or from the path or the bytes of an image file."""
        shape = self.engine.input_shape
        if isinstance(image, str | Path):
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                raise BadImageError(f"{image} cannot be read ({error.strerror}): name an image file.") from error
        if isinstance(image, bytes):
            return decode_image(image, input_shape=shape, stated=self._stated, asked=asked_of(params))
        return from_array(image, input_shape=shape)

    def predict_set(
        self, image: Any, *, alpha: float = 0.1, radius: float, method: SetMethod = "rcp1", seed: str | None = None
    ) -> PredictionSet:
        """Classes that hold the true one with probability at least 1 - alpha, however the image was moved by `radius`.

        Args:
            image: as for `certify`.
            alpha: probability that the set misses the true class, over images and noise.
            radius: L2, in units of [0, 1] pixels.
            method: `rcp1` draws one noise; `bincp` as many as the calibration, and gives smaller sets.
            seed: 32 hex digits; default fresh.

        Raises:
            NotCalibratedError: the model has no calibration of this function: run `spacte calibrate`.
            BadParameterError, BadImageError: as for `certify`.
        """
        params = self._checked(SetParams, alpha=alpha, radius=radius, method=method, seed=seed)
        if self._folder is None:
            raise NotCalibratedError("A bare module has no calibration: save it with `save_model`, and calibrate that.")
        model = self._identity
        calibration = load_calibration(self._folder)
        calibration.check(model_version=model.version, precision=model.precision, kernels=model.kernels)
        pixels = self._pixels(image, params)
        started = time.perf_counter()
        error = noise_error(calibration.noise, calibration.sigma, pixels.shape)
        seed, _ = seed_of(params)
        classes = self.engine.num_classes
        spec = SetSpec.from_params(params, calibration, num_classes=classes, seed=seed, noise_error=error)
        return set_answers.prediction_set(
            spec,
            params,
            calibration,
            draw(LogitsRun(spec.scores), self.engine, pixels),
            model,
            id=f"set_{uuid.uuid4().hex}",
            image=pixels,
            elapsed_ms=(time.perf_counter() - started) * 1000,
        )

    def bracket(self, image: Any, *, alpha_upper: float = 0.001, n_upper: int = 10_000, **options: Any) -> Bracket:
        """A certified radius, and the distance of an image that is answered otherwise, if an attack finds one.

        Args:
            image: as for `certify`.
            alpha_upper: probability that the upper bound is false.
            n_upper: the most noises of each test.
            options: of `certify`.

        Raises:
            EngineError: the module has no gradient.
            BadParameterError, BadImageError, DeadlineExceededError: as for `certify`.
        """
        params = self._checked(BracketParams, alpha_upper=alpha_upper, n_upper=n_upper, **options)
        started = time.perf_counter()
        pixels = self._pixels(image, params)
        certificate = self._certify(pixels, params)
        found, drawn = None, 0
        if not certificate.abstained:
            spec = AttackSpec.of(certificate, n=params.n_upper, alpha=params.alpha_upper, seed=fresh_seed())
            found, drawn = self._attack(attack(pixels, spec))
        return set_answers.bracket(
            certificate,
            found,
            self._identity,
            alpha_upper=params.alpha_upper,
            attack_noises=drawn,
            elapsed_ms=(time.perf_counter() - started) * 1000,
        )

    def _attack(self, steps: Attack) -> tuple[Adversarial | None, int]:
        """Draw what an attack asks for, until it ends; and how many noises that took."""
        outcome, drawn = None, 0
        while True:
            try:
                drawing = steps.send(outcome)
            except StopIteration as end:
                return end.value, drawn
            outcome = draw(drawing.run, self.engine, drawing.image)
            drawn += drawing.run.drawn

    def _certify(self, pixels: Image, params: CertifyParams) -> Certificate:
        started = time.perf_counter()
        deadline = Deadline(params.deadline_ms, started)
        sha256 = image_sha256(pixels)
        asked = CertifySpec.from_params(params, shape=pixels.shape, **self._noises(params))
        run = Certification(bound_to_noise(asked, self._identity, sha256))
        while not run.done:
            if deadline.passed:
                run.expire()
            else:
                advance(run, self.engine, pixels)
        certificate = certificates.certificate(
            run.spec,
            run.outcome(),
            self._identity,
            id=f"req_{uuid.uuid4().hex}",
            image_sha256=sha256,
            elapsed_ms=(time.perf_counter() - started) * 1000,
            deadline_ms=params.deadline_ms,
            steps=pixels.steps,
        )
        if params.certify is None:
            return certificate
        carried = self._about_reference(certificate, pixels)
        return carried.model_copy(update={"elapsed_ms": (time.perf_counter() - started) * 1000})

    @cached_property
    def _reference(self) -> "Engine":
        """The plain float32 network; made when it is first certified by other votes."""
        return self._make_reference()

    def _about_reference(self, certificate: Certificate, pixels: Image) -> Certificate:
        """A certificate of the engine's votes carried over to the plain float32 network."""
        about = replace(self._identity, precision=self._reference.precision, kernels=self._reference.kernels)
        pairs = reference_pairs(certificate, about)
        voter_N, about_N = (draw(pairs.run(), engine, pixels) for engine in (self.engine, self._reference))
        return carried_over(certificate, about, differences(selected_class(certificate), voter_N, about_N), pairs)

    def _noises(self, params: PredictParams) -> dict[str, Any]:
        seed, seed_source = seed_of(params)
        known = {"sigma": self.sigma, "num_classes": self.engine.num_classes}
        return known | {"seed": seed, "seed_source": seed_source}

    def _checked(self, kind: type[Params], **options: Any) -> Params:
        """The options as the service would take them.

        Raises:
            BadParameterError: it would not; the sentence names the option.
        """
        try:
            params = kind.model_validate(options)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            wanted = first["msg"].removeprefix("Input ")
            raise BadParameterError(name, f"`{name}` {wanted}, and is {first['input']!r}.") from None
        if isinstance(params, PredictParams):
            check_consensus(params.k_consensus, self.engine.heads)
            check_budget(params, self._asked)
        return params
