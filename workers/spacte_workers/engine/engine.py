"""The engine: one base classifier on one device, from shards of named noises to class counts."""

import math
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import nn

from spacte_client.types import Precision
from spacte_core.allocator import keep_freed_memory
from spacte_core.flops import macs_of
from spacte_core.forms import Classifier, Encoding
from spacte_core.kernel_switch import kernels_enabled
from spacte_core.models.adapters import frozen_copy
from spacte_core.votes import votes_of
from spacte_workers.endpoints.connecting import Connected, connect
from spacte_workers.images import wrong_shape
from spacte_workers.load_steps import begin
from spacte_workers.noise.philox import row_names
from spacte_workers.shards import Image, NoiseSource, Phase, Shard, Votes

from .calibration import Calibration, calibration_rows
from .consensus import count_consensus
from .counting import Counts, ShardRows, count_all_heads
from .decomposition import decompose
from .endpoints import select_endpoint
from .errors import EngineError, NoSuchKernelsError
from .gradients import probability_gradient
from .kernel_names import PORTABLE, form_in, kernels_name
from .load_cache import LoadCache
from .logits import WantedLogits
from .noise_step import NoiseStep
from .peak_rates import synchronize
from .precision_rule import MIN_AGREEMENT
from .selection import NOT_ONE_FUNCTION, SelectedForm, WantedPrecision, select_form
from .self_checks import module_is_one_function, place_rounding

if TYPE_CHECKING:
    from spacte_core.checkpoint import Checkpoint

_DEFAULT_SIGMA = 0.25  # where neither the caller nor the model names one. Chosen: the smallest that papers train for
_RATE_SOURCE = NoiseSource("5eed" * 8, 0, _DEFAULT_SIGMA, "grid")
"""Of noise that is drawn to measure rates. Chosen: any seed would do."""

_NOT_PORTABLE = (
    "No kernels that vote alike on every processor compute this classifier as a whole here: they need int8, x86 with "
    "AVX2, a C++ compiler, and convolutions of 1 x 1 or 3 x 3; else leave `portable` out."
)

_NOISE_STEPS_KEPT = 8
"""Kinds and levels of noise whose tables and buffers are kept. Chosen: callers name sigma, and memory is bounded."""


class Engine:
    """Draws the noises of a shard, classifies the noisy images in full batches of one size, counts the votes.

    The votes of a shard are a function of the image and the shard alone: not of how noises were cut into shards, of
    which images shared a batch, or of how full a batch was. The engine checks that when it is made.

    Args:
        module: x_BCHW float32 (pixels in [0, 1] plus noise) -> logits [B, K], or a list of L such tensors whose sum
            decides; ties go to the lowest class. It is copied, put in eval mode and frozen.
        input_shape: (C, H, W).
        num_classes: K.
        precision: arithmetic of the votes, part of the function that is certified; `auto` takes the fastest whose votes
            agree with float32's.
        device: a torch device; default the first GPU, else the CPU.
        batch: rows of a batch; default by measurement.
        allow_int8: whether `auto` may choose int8.
        sigma: noise level at which precisions are compared; the one it will be used at is best.
        examples: uint8 [M, C, H, W], images on which precisions are compared; default random ones.
        min_agreement: smallest share of noisy rows on which a precision must vote as float32 does.
        kernels: the kernels that have to vote, as another engine names its own; default the fastest here.
        portable: whether they have to give the same votes on every kind of x86 processor, which int8's can.

    Attributes:
        precision, batch, device, kernels: what was chosen.
        vote_agreement: share of calibration rows with float32's vote, 1 for plain float32.
        measured_rate: samples per second of one engine on this machine, noise and counting included.

    Raises:
        EndpointError: the module is behind an endpoint that does not answer.
        EngineError: the module's answer does not have the shape stated, a row's vote depends on its neighbours, or the
            precision asked for does not fit the module or the machine.
        NoSuchKernelsError: the kernels asked for do not run here.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        precision: WantedPrecision = "auto",
        device: str | torch.device | None = None,
        batch: int | None = None,
        allow_int8: bool = False,
        sigma: float = _DEFAULT_SIGMA,
        examples: Any = None,
        min_agreement: float = MIN_AGREEMENT,
        kernels: str | None = None,
        portable: bool = False,
    ) -> None:
        channels, height, width = input_shape
        self.input_shape = (channels, height, width)
        self.num_classes = num_classes
        self.device = torch.device(device) if device else default_device()
        if self.device.type == "cpu":
            keep_freed_memory()
        else:  # fp32 is to mean float32, and every run the same kernels
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        self._module = frozen = _frozen(module).to(self.device)
        self._endpoint = connect(frozen, self.input_shape, num_classes)
        rows = calibration_rows(self.input_shape, sigma, examples, self.device)
        with torch.inference_mode():
            classifier = decompose(frozen, rows.compared[:2], num_classes)
            if self._endpoint is None:
                rows = rows.affordable(macs_of(frozen, rows.compared[:1]))
            form_name = None if kernels is None else form_in(kernels, self.device)
            if self._endpoint is None and not module_is_one_function(classifier, rows.compared):
                raise EngineError(NOT_ONE_FUNCTION)
            asked: dict[str, Any] = {"precision": precision, "batch": batch, "allow_int8": allow_int8}
            asked |= {"min_agreement": min_agreement, "form_name": PORTABLE if portable else form_name}
            try:
                selected = _selected(classifier, rows, asked, self._endpoint)
            except NoSuchKernelsError:
                raise EngineError(_NOT_PORTABLE) if kernels is None else NoSuchKernelsError(kernels) from None
        self.form, self.vote_agreement = selected.form, selected.vote_agreement
        self.forms = [self.form] if selected.small is None else [self.form, selected.small]
        self.precision: Precision = cast("Precision", self.form.precision)
        self.batch = self.form.batch
        self.kernels = kernels_name(self.form.name, self.device, self.form.fit)
        if kernels is not None and not f"{self.kernels}/".startswith(f"{kernels}/"):  # another fit or runtime
            raise NoSuchKernelsError(kernels)
        self._rounding = place_rounding(self.device) if self._endpoint is None else self._endpoint.rounding
        self._busy = threading.Lock()
        self._noise_step = self._noise_steps(self.form.encoding)
        unit = Encoding((1.0,) * channels, (0.0,) * channels)  # of the module as it came, which gradients are of
        self._unit_step = self._noise_steps(unit)
        self._graph = None
        if self.device.type == "cuda" and self.form.recordable and kernels_enabled("cuda_graphs"):
            from .cuda_graphs import graphed_batch

            self._graph = lru_cache(_NOISE_STEPS_KEPT)(partial(graphed_batch, self.form, num_classes))
        self.measured_rate = self._measure(sigma)

    @classmethod
    def from_checkpoint(cls, checkpoint: "Checkpoint", *, sigma: float | None = None, **options: Any) -> Self:
        """The engine of a trained network, compared at its own sigma and on embedded data if it has them.

        Args:
            checkpoint: what is loaded.
            sigma: None takes the checkpoint's.
            options: `precision` and all that follow, as above.
        """
        config = checkpoint.config
        if config.dataset == "digits":
            from spacte_core.data.digits import load_digits

            options["examples"] = load_digits("train")[0]
        return cls(
            checkpoint.net,
            input_shape=config.model.input_shape,
            num_classes=config.model.num_classes,
            sigma=sigma or config.sigma or _DEFAULT_SIGMA,
            **options,
        )

    @property
    def heads(self) -> int:
        """How many heads answer, L."""
        return len(self.form.heads)

    def votes(self, image: Image, shard: Shard) -> Votes:
        """Class counts over the shard's noises.

        Raises:
            BadImageError: the image's shape is not the model's, or it is off the grid and grid noise is asked for.
            EngineError: `k_consensus` is more than the model has heads.
        """
        return self.votes_many([(image, shard)])[0]

    def votes_many(self, shards: Sequence[tuple[Image, Shard]]) -> list[Votes]:
        """Class counts of several shards, of any images, packed into full batches; in the order given.

        Each shard's `seconds` is its share, by size, of the time that its batches took, and that went into asking an
        endpoint whether it is still the same.
        """
        alike: dict[Any, list[int]] = defaultdict(list)
        for i, (_, shard) in enumerate(shards):
            graphed = self._graph is not None and shard.source.output == "counts"
            alike[graphed, shard.source.kind].append(i)
        votes: dict[int, Votes] = {}
        with self._busy:
            looks = 0.0 if self._endpoint is None else _seconds_of(self._endpoint.begin)
            for indices in alike.values():
                started = time.perf_counter()
                found = self._draw([shards[i] for i in indices])
                seconds = time.perf_counter() - started
                rows = sum(shards[i][1].size for i in indices)
                for i, vote in zip(indices, found, strict=True):
                    votes[i] = replace(vote, seconds=seconds * shards[i][1].size / max(rows, 1))
            if self._endpoint is not None:
                looks += _seconds_of(self._endpoint.confirm)
        whole = max(sum(shard.size for _, shard in shards), 1)
        if looks:
            votes = {
                i: replace(vote, seconds=vote.seconds + looks * shards[i][1].size / whole) for i, vote in votes.items()
            }
        return [votes[i] for i in range(len(shards))]

    def breakdown(self, sigma: float, repeats: int = 5) -> tuple[float, float, float]:
        """Seconds of the noise step, the forward pass and the counting of a full batch, medians of a few."""
        step = self._noise_step("grid", sigma)
        rows_B5 = row_names(_RATE_SOURCE, Phase.SELECTION, 0, self.batch).to(self.device)
        shard_B = torch.zeros(self.batch, dtype=torch.int64, device=self.device)
        counts = Counts(1, self.num_classes, self.device)
        spent: list[tuple[float, float, float]] = []
        with self._busy, torch.inference_mode():
            pixels_SP = step.pixels_of([self._black()])
            for _ in range(repeats + 1):
                started = self._now()
                x_BCHW = step.add_noise(pixels_SP, shard_B, rows_B5)
                drawn = self._now()
                logits_BK = self.form.logits(x_BCHW)
                computed = self._now()
                counts.add(shard_B, votes_of(logits_BK))
                spent.append((drawn - started, computed - drawn, self._now() - computed))
        noise, forward, count = (statistics.median(column) for column in zip(*spent[1:], strict=True))
        return noise, forward, count

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def _black(self) -> Image:
        return Image(bytes(math.prod(self.input_shape)), self.input_shape, "uint8")

    def _draw(self, shards: list[tuple[Image, Shard]]) -> list[Votes]:
        """Votes of shards whose sources are of one kind, without times."""
        for image, _ in shards:
            if image.shape != self.input_shape:
                raise wrong_shape(image.shape, self.input_shape)
        source = shards[0][1].source
        k = source.k_consensus
        if k is not None and not 1 <= k <= self.heads:
            raise EngineError(f"k_consensus is {k}, but the model has {self.heads} heads: ask for 1 to {self.heads}.")
        if source.output == "gradient":
            return [self._gradient(image, shard) for image, shard in shards]
        with torch.inference_mode():
            step = self._noise_step(source.noise, source.sigma)
            rows = _rows_of(shards, step)
            wants = [shard.source.output == "logits" for _, shard in shards]
            wanted = WantedLogits(wants, self.device, self._rounding)
            counts = Counts(len(shards), self.num_classes, self.device, wanted)
            graph = self._graph(step) if k is None and self._graph and source.output == "counts" else None
            if k is not None:
                count_consensus(self.forms, step, rows, counts, k)
            elif graph is not None and len(shards) <= graph.most_shards:
                graph.count(rows, counts)
            else:
                count_all_heads(self.forms, step, rows, counts)
            return [_in_order(votes, shard) for votes, (_, shard) in zip(counts.votes(), shards, strict=True)]

    def _gradient(self, image: Image, shard: Shard) -> Votes:
        """The gradient of a shard, by the module as it came, in float32."""
        step = self._unit_step(shard.source.noise, shard.source.sigma)
        rows = _rows_of([(image, shard)], step)
        return probability_gradient(self._module, step, rows, shard.source.label or 0, self.batch, self.num_classes)

    def _noise_steps(self, encoding: Encoding) -> Callable[[str, float], NoiseStep]:
        """The noise step by kind and sigma of the noise; the latest are kept."""
        return lru_cache(_NOISE_STEPS_KEPT)(partial(NoiseStep, self.input_shape, encoding, self.device))

    def _measure(self, sigma: float) -> float:
        """Samples per second over two calls of a full batch each, after one to warm up."""
        begin("measuring", "measures its rate")
        source = replace(_RATE_SOURCE, sigma=sigma)
        calls = [self.votes(self._black(), Shard(source, Phase.SELECTION, 0, self.batch)) for _ in range(3)]
        return 2 * self.batch / sum(call.seconds for call in calls[1:])


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _frozen(module: object) -> nn.Module:
    """A copy that nothing changes; raises EngineError where there can be none."""
    try:
        return frozen_copy(module)
    except TypeError as error:
        raise EngineError(str(error)) from error


def _selected(
    classifier: Classifier, rows: Calibration, asked: dict[str, Any], endpoint: Connected | None
) -> SelectedForm:
    """What an earlier load chose, or what is chosen now and kept for later ones."""
    if endpoint is not None:
        return select_endpoint(classifier, rows, endpoint, asked)
    begin("kernels", "looks up what an earlier load chose")
    known = LoadCache.of(classifier, rows, asked)
    selected = known.load()
    if selected is None:
        selected = select_form(classifier, rows, **asked)
        known.keep(selected)
    return selected


def _rows_of(shards: list[tuple[Image, Shard]], step: NoiseStep) -> ShardRows:
    """The rows of shards, on the step's device; those that are drawn again come in reverse order."""
    names = [row_names(s.source, s.phase, s.start, s.stop) for _, s in shards]
    ordered = [rows_R5.flip(0) if s.again else rows_R5 for rows_R5, (_, s) in zip(names, shards, strict=True)]
    return ShardRows(
        step.pixels_of([image for image, _ in shards]),
        torch.cat(ordered).to(step.device),
        torch.repeat_interleave(torch.tensor([shard.size for _, shard in shards])).to(step.device),
    )


def _in_order(votes: Votes, shard: Shard) -> Votes:
    """The votes of a shard with its logits in the order of the noises."""
    if votes.logits_NK is None or not shard.again:
        return votes
    return replace(votes, logits_NK=votes.logits_NK[::-1].copy())


def _seconds_of(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
