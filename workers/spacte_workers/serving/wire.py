"""A model of the store as the wire schema shows it."""

import time

from spacte_client.types import LoadProgress, Model
from spacte_workers.certification.set_calibration import CALIBRATION_FILE
from spacte_workers.load_steps import STEPS

from .served_model import ModelEntry
from .server_paths import data_set_name
from .traffic import shares


def on_the_wire(name: str, entry: ModelEntry) -> Model:
    """What callers see of a name; where its folder cannot be read that is its state alone."""
    served = entry.served
    config = served.config if served else entry.config
    if config is None:
        unknown = dict.fromkeys(("arch", "method", "normalization"), "unknown")
        state = {"state": entry.state, "reason": entry.told_reason or None, "target_version": entry.target}
        state |= {"progress": _progress(entry), "traffic": shares(entry)}
        empty = {"heads": 0, "num_classes": 0, "sigmas": [], "class_names": [], "input_shape": []}
        return Model(name=name, version="", **state, **unknown, **empty)
    version = served.version if served else entry.version or ""
    return Model(
        name=name,
        version=version,
        arch=config.model.arch,
        heads=config.model.heads,
        method=config.method,
        sigmas=[config.sigma],
        num_classes=config.model.num_classes,
        class_names=list(config.class_names),
        input_shape=list(config.model.input_shape),
        normalization=config.model.normalization.kind,
        dataset=data_set_name(config.dataset),
        precision=served.precision if served else None,
        state="loading" if entry.target else entry.state,
        target_version=entry.target,
        progress=_progress(entry),
        traffic=shares(entry),
        reason=entry.told_reason or None,
        metrics=dict(config.metrics),
        calibrated=(entry.folder / CALIBRATION_FILE).exists(),
        diagnosis=entry.diagnosis if entry.diagnosis and entry.diagnosis.model_version == version else None,
    )


def _progress(entry: ModelEntry) -> LoadProgress | None:
    step = entry.step
    if step is None:
        return None
    seconds = round(time.monotonic() - entry.since, 1)
    return LoadProgress(step=step.name, number=step.number, steps=len(STEPS), doing=step.doing, seconds=seconds)
