"""The engine: one base classifier on one device, from shards of named noises to class counts."""

import copy
import math
import statistics
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from spacte_client.types import Precision
from spacte_core.allocator import keep_freed_memory
from spacte_workers.images import wrong_shape
from spacte_workers.noise.philox import row_names
from spacte_workers.shards import Image, NoiseSource, Phase, Shard, Votes

from .calibration import calibration
from .counting import Counts, Work, count_all_heads, count_consensus
from .cuda_graphs import Captures
from .errors import EngineError, NoSuchKernelsError
from .kernel_names import are_those, form_of, kernels_name
from .noise_step import NoiseStep
from .peak_rates import synchronize
from .precision import MIN_AGREEMENT
from .selection import Choice, WantedPrecision, choose
from .splitting import split_classifier

if TYPE_CHECKING:
    from spacte_core.checkpoint import Checkpoint

_DEFAULT_SIGMA = 0.25
_RATE_SEED = "5eed" * 8
_NOISE_STEPS_KEPT = 8
_SLOTS = 32  # images that may share a captured batch


class Engine:
    """Draws the noises of a shard, classifies the noisy images in full batches of one size, counts the votes.

    The votes of a shard are a function of the image and the shard alone: not of how noises were cut into
    shards, of which images shared a batch, or of how full a batch was. The engine checks that when it is
    made.

    Args:
        module: x_BCHW float32 (pixels in [0, 1] plus noise) -> logits [B, K], or a list of L such tensors
            whose sum decides; ties go to the lowest class. It is copied, put in eval mode and frozen.
        input_shape: (C, H, W).
        num_classes: K.
        precision: arithmetic of the votes, part of the function that is certified; `auto` takes the fastest
            whose votes agree with float32's.
        device: a torch device; default the first GPU, else the CPU.
        batch: rows of a batch; default by measurement.
        allow_int8: whether `auto` may choose int8.
        sigma: noise level at which precisions are compared; the one it will be used at is best.
        examples: uint8 [M, C, H, W], images on which precisions are compared; default random ones.
        min_agreement: smallest share of noisy rows on which a precision must vote as float32 does.
        kernels: the kernels that have to vote, as another engine names its own; default the fastest here.

    Attributes:
        precision, batch, device, kernels: what was chosen.
        vote_agreement: share of calibration rows with float32's vote, 1 for plain float32.
        measured_rate: samples per second of one engine on this machine, noise and counting included.

    Raises:
        EngineError: the module's answer does not have the shape stated, a row's vote depends on its
            neighbours, or the precision asked for does not fit the module or the machine.
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
    ) -> None:
        channels, height, width = input_shape
        self.input_shape = (channels, height, width)
        self.num_classes = num_classes
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cpu":
            keep_freed_memory()
        else:  # fp32 is to mean float32, and every run the same kernels
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        self._noise_steps: dict[tuple[str, float], NoiseStep] = {}
        self._busy = threading.Lock()
        self.choice = self._choose(module, precision, batch, allow_int8, sigma, examples, min_agreement, kernels)
        self.form = self.choice.form
        self.forms = [self.form] if self.choice.small is None else [self.form, self.choice.small]
        graphs = self.device.type == "cuda"
        self._captures = Captures(self.form, num_classes, _SLOTS) if graphs else None
        self.precision: Precision = cast("Precision", self.form.precision)
        self.batch = self.form.batch
        self.kernels = kernels_name(self.form.name, self.device, self.form.fit)
        if kernels is not None and not are_those(self.kernels, kernels):
            raise NoSuchKernelsError(kernels)
        self.vote_agreement = self.choice.vote_agreement
        self.measured_rate = self._measure(sigma)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: "Checkpoint",
        *,
        precision: WantedPrecision = "auto",
        device: str | torch.device | None = None,
        batch: int | None = None,
        allow_int8: bool = False,
        sigma: float | None = None,
        min_agreement: float = MIN_AGREEMENT,
        kernels: str | None = None,
    ) -> "Engine":
        """The engine of a trained network, compared at its own sigma and on embedded data if it has them."""
        config = checkpoint.config
        examples = None
        if config.dataset == "digits":
            from spacte_core.data.digits import load_digits

            examples = load_digits("train")[0]
        return cls(
            checkpoint.net,
            input_shape=config.model.input_shape,
            num_classes=config.model.num_classes,
            precision=precision,
            device=device,
            batch=batch,
            allow_int8=allow_int8,
            sigma=sigma or config.sigma or _DEFAULT_SIGMA,
            examples=examples,
            min_agreement=min_agreement,
            kernels=kernels,
        )

    @property
    def heads(self) -> int:
        """How many heads answer, L."""
        return len(self.form.heads)

    def votes(self, image: Image, shard: Shard) -> Votes:
        """Class counts over the shard's noises.

        Raises:
            BadImageError: the image's shape is not the model's, or it is off the grid and grid noise is
                asked for.
            EngineError: `k_consensus` is more than the model has heads.
        """
        return self.votes_many([(image, shard)])[0]

    def votes_many(self, units: Sequence[tuple[Image, Shard]]) -> list[Votes]:
        """Class counts of several shards, of any images, packed into full batches; in the order given.

        Each shard's `seconds` is its share, by size, of the time that its batches took.
        """
        votes: dict[int, Votes] = {}
        with self._busy, torch.inference_mode():
            for indices in _alike([shard.source for _, shard in units]):
                started = time.perf_counter()
                lists = self._count([units[i] for i in indices])
                seconds = time.perf_counter() - started
                rows = sum(units[i][1].size for i in indices)
                for i, counts in zip(indices, lists, strict=True):
                    votes[i] = Votes(tuple(counts), seconds * units[i][1].size / max(rows, 1))
        return [votes[i] for i in range(len(units))]

    def breakdown(self, sigma: float, repeats: int = 5) -> tuple[float, float, float]:
        """Seconds of the noise step, the forward pass and the counting of a full batch, medians of a few."""
        image = Image(bytes(math.prod(self.input_shape)), self.input_shape, "uint8")
        source = NoiseSource(_RATE_SEED, 0, sigma, "grid")
        step = self._noise_step(source)
        rows_B5 = row_names(source, Phase.SELECTION, 0, self.batch).to(self.device)
        unit_B = torch.zeros(self.batch, dtype=torch.int64, device=self.device)
        counts = Counts(1, self.num_classes, self.device)
        spent: list[tuple[float, float, float]] = []
        with self._busy, torch.inference_mode():
            pixels_UP = step.pixels_of([image])
            for _ in range(repeats + 1):
                times = [self._now()]
                x_BCHW = step.noisy(pixels_UP, unit_B, rows_B5)
                times.append(self._now())
                logits_BK = self.form.logits(x_BCHW)
                times.append(self._now())
                counts.add(unit_B, logits_BK.argmax(1))
                times.append(self._now())
                spent.append((times[1] - times[0], times[2] - times[1], times[3] - times[2]))
        noise, forward, count = (statistics.median(column) for column in zip(*spent[1:], strict=True))
        return noise, forward, count

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def _choose(
        self,
        module: nn.Module,
        precision: WantedPrecision,
        batch: int | None,
        allow_int8: bool,
        sigma: float,
        examples: Any,
        min_agreement: float,
        kernels: str | None,
    ) -> Choice:
        frozen = copy.deepcopy(module).eval().requires_grad_(requires_grad=False).to(self.device)
        rows = calibration(self.input_shape, sigma, examples, self.device)
        with torch.inference_mode():
            network = split_classifier(frozen, rows.compared[:2], self.num_classes)
            return choose(
                network,
                precision,
                batch,
                rows,
                allow_int8=allow_int8,
                min_agreement=min_agreement,
                form_name=None if kernels is None else form_of(kernels, self.device),
            )

    def _count(self, units: list[tuple[Image, Shard]]) -> list[list[int]]:
        """Counts of shards that share kind of noise, sigma and k: one list of K for each."""
        for image, _ in units:
            if image.shape != self.input_shape:
                raise wrong_shape(image.shape, self.input_shape)
        source = units[0][1].source
        k = source.k_consensus
        if k is not None and not 1 <= k <= self.heads:
            raise EngineError(f"k_consensus is {k}, but the model has {self.heads} heads: ask for 1 to {self.heads}.")
        step = self._noise_step(source)
        work = Work(
            step.pixels_of([image for image, _ in units]),
            torch.cat([row_names(s.source, s.phase, s.start, s.stop) for _, s in units]).to(self.device),
            torch.repeat_interleave(torch.tensor([shard.size for _, shard in units])).to(self.device),
        )
        counts = Counts(len(units), self.num_classes, self.device)
        captured = self._captures.batch(step) if k is None and len(units) <= _SLOTS and self._captures else None
        if captured is not None:
            captured.count(work, counts)
        elif k is None:
            count_all_heads(self.forms, step, work, counts)
        else:
            count_consensus(self.forms, step, work, counts, k)
        return counts.lists()

    def _noise_step(self, source: NoiseSource) -> NoiseStep:
        key = (source.noise, source.sigma)
        if key not in self._noise_steps:
            while len(self._noise_steps) >= _NOISE_STEPS_KEPT:  # callers choose sigma: keep memory bounded
                oldest = self._noise_steps.pop(next(iter(self._noise_steps)))
                if self._captures:
                    self._captures.forget(oldest)
            self._noise_steps[key] = NoiseStep(source, self.input_shape, self.form.encoding, self.device)
        return self._noise_steps[key]

    def _measure(self, sigma: float) -> float:
        """Samples per second over two full batches, after one to warm up."""
        image = Image(bytes(math.prod(self.input_shape)), self.input_shape, "uint8")
        source = NoiseSource(_RATE_SEED, 0, sigma, "grid")
        self.votes(image, Shard(source, Phase.SELECTION, 0, self.batch))
        timed = self.votes(image, Shard(source, Phase.SELECTION, 0, 2 * self.batch))
        return 2 * self.batch / timed.seconds


def _alike(sources: list[NoiseSource]) -> list[list[int]]:
    """Indices grouped by what a batch must have in common."""
    groups: dict[tuple[str, float, int | None], list[int]] = {}
    for i, source in enumerate(sources):
        groups.setdefault((source.noise, source.sigma, source.k_consensus), []).append(i)
    return list(groups.values())
