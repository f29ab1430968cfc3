"""From the certificates of a trained model to the figures of a cell."""

from collections.abc import Sequence

from spacte_core.checkpoint import Checkpoint
from spacte_core.flops import macs_per_sample
from spacte_workers.statistics.metrics import average_certified_radius, certified_accuracy

from .cells import Cell, Certified
from .tables import Setting


def cell_of(
    setting: Setting, seed: int, checkpoint: Checkpoint, certified: Sequence[Certified], precision: str
) -> Cell:
    """The figures over the images that are certified, be it all of the protocol's or some."""
    right, radii = [one.correct for one in certified], [one.radius for one in certified]
    return Cell(
        method=setting.method,
        sigma=setting.sigma,
        seed=seed,
        images=len(certified),
        acr=average_certified_radius(right, radii),
        certified=tuple(point.value for point in certified_accuracy(right, radii, setting.protocol.radii)),
        train_seconds=checkpoint.config.metrics["train_seconds"],
        macs=macs_per_sample(checkpoint.net, checkpoint.config.model.input_shape),
        certify_seconds=sum(one.seconds for one in certified),
        precision=precision,
    )
