"""What the base classifier itself answers, without noise: for those who draw noises elsewhere and ask here."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spacte_workers.certification.prediction_sets import LogitsRun, ScoreSpec
from spacte_workers.images import wrong_shape
from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.seeds import fresh_seed
from spacte_workers.shards import Image

from .served_model import ServedModel


async def base_logits(coordinator: Coordinator, model: ServedModel, rows: Sequence[Image]) -> NDArray[np.float32]:
    """Logits [B, K] of rows, the mean over the model's heads: nothing is drawn, nothing smoothed.

    Args:
        coordinator: its samplers compute them, in the batches that votes are computed in.
        model: in use.
        rows: float32 of the model's input shape, in units of [0, 1] pixels; noise may have taken them out of it.

    Raises:
        BadImageError: a row has another shape.
    """
    config = model.config.model
    if wrong := [row.shape for row in rows if row.shape != config.input_shape]:
        raise wrong_shape(wrong[0], config.input_shape)
    spec = ScoreSpec(model.config.sigma, config.num_classes, 1, "none", fresh_seed())
    return np.concatenate(await asyncio.gather(*(coordinator.draw(model.key, row, LogitsRun(spec)) for row in rows)))
