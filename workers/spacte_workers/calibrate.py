"""`spacte calibrate`: scores of held-out images, on which a model's prediction sets rest.

Light to import; torch is loaded when the command runs.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spacte_core.checkpoint import Checkpoint

    from .batch.inputs import InputSpec
    from .certification.set_calibration import Calibration
    from .engine import Engine

calibrate_app = typer.Typer(add_completion=False)

_LEVELS = (0.0, 0.25, 0.5, 1.0)
"""Radii in units of sigma for which set sizes are told. Chosen: what robust prediction sets are reported at."""


@calibrate_app.command("calibrate")
def calibrate(
    checkpoint: Annotated[Path, Argument(metavar="CHECKPOINT", help="A checkpoint folder.")],
    data: Annotated[
        str, Option(help="Labelled images that the model was not trained on; as `spacte certify-dataset` takes them.")
    ],
    split: Annotated[Literal["train", "test"], Option(help="Which part of a data set.")] = "test",
    images: Annotated[int, Option(min=10, help="At most so many, drawn at random.")] = 1_000,
    noises: Annotated[int, Option(min=1, max=10_000, help="Noises of each image; BinCP draws as many.")] = 150,
    alpha: Annotated[float, Option(min=1e-6, max=0.5, help="For the set sizes that are told.")] = 0.1,
    precision: Annotated[Literal["auto", "fp32", "bf16", "int8"], Option(help="As the model is served.")] = "auto",
    label_column: Annotated[str | None, Option(help="Column of the true class.")] = None,
    data_root: Annotated[Path, Option(help="Where downloaded data sets are kept.")] = Path("data"),
    as_json: Annotated[bool, Option("--json", help="For programs.")] = False,
) -> None:
    """Calibrate a model's prediction sets on held-out images: calibration.npz beside the checkpoint.

    The level of the sets holds for images of the same distribution that were not among these.
    """
    from spacte_core.checkpoint import load_checkpoint
    from spacte_core.errors import one_sentence

    from .batch.inputs import InputError, InputSpec
    from .certification.algorithm import noise_error
    from .engine import Engine, EngineError

    kind: Literal["file", "dataset"] = "file" if Path(data).is_file() else "dataset"
    spec = InputSpec(kind, data, split, data_root=str(data_root), label_column=label_column)
    try:
        with one_sentence():
            loaded = load_checkpoint(checkpoint)
            engine = Engine.from_checkpoint(loaded, precision=precision)
            calibration, scores_MNK = measure(engine, loaded, spec, images=images, noises=noises)
            calibration.save(loaded.folder)
    except (InputError, EngineError, ValueError) as error:
        raise typer.TyperException(str(error)) from error
    error = noise_error(calibration.noise, calibration.sigma, loaded.config.model.input_shape)
    sizes = _sizes(calibration, scores_MNK, alpha, error)
    if as_json:
        about = {"images": len(scores_MNK), "noises": noises, "data_sha256": calibration.data_sha256}
        typer.echo(json.dumps({**about, "alpha": alpha, "mean_set_size": sizes}))
        return
    typer.echo(
        f"Calibrated on {len(scores_MNK):,} images under {noises} noises each: {loaded.folder / 'calibration.npz'}"
    )
    typer.echo(f"mean set size at alpha {alpha:g}  radius   rcp1  bincp")
    for row in sizes:
        typer.echo(f"{'':29}{row['radius']:7.3f}{row['rcp1']:7.2f}{row['bincp']:7.2f}")


def measure(
    engine: "Engine", checkpoint: "Checkpoint", spec: "InputSpec", *, images: int, noises: int
) -> "tuple[Calibration, NDArray[np.float64]]":
    """Score labelled images.

    Returns:
        The calibration, and the scores of all classes [M, N, K].

    Raises:
        InputError: the images cannot be read, or are not the model's.
        ValueError: fewer than ten images have a label.
    """
    import numpy as np

    from .certification.set_calibration import Calibration
    from .seeds import fresh_seed

    pixels, labels_M, digest = _labelled(checkpoint, spec, images)
    seed = fresh_seed()
    sigma = checkpoint.config.sigma
    scores_MNK = np.stack([_scores(engine, image, seed, i, noises, sigma) for i, image in enumerate(pixels)])
    calibration = Calibration(
        scores_MN=scores_MNK[np.arange(len(pixels)), :, labels_M].astype(np.float32),
        model_version=checkpoint.version,
        sigma=sigma,
        noise="grid",
        precision=engine.precision,
        kernels=engine.kernels,
        data=f"{spec.location} {spec.split}" if spec.kind == "dataset" else Path(spec.location).name,
        data_sha256=digest,
        seed=seed,
        created_at=datetime.now(UTC).isoformat(),
    )
    return calibration, scores_MNK


def _labelled(checkpoint: "Checkpoint", spec: "InputSpec", images: int) -> "tuple[list[Any], NDArray[np.int64], str]":
    """Random rows that have a label: decoded pixels, classes, and a digest of both."""
    import numpy as np

    from .batch.inputs import open_source
    from .batch.inputs.pixels import row_pixels
    from .images import image_sha256

    shape = checkpoint.config.model.input_shape
    source = open_source(spec, shape, class_names=checkpoint.config.class_names)
    try:
        rows = np.array([index for index in source.indices if source.about(index)[0] is not None])
        if len(rows) < 10:
            raise ValueError(f"{len(rows)} images of {spec.location} have a label: pass at least 10.")
        chosen = np.sort(np.random.default_rng().permutation(rows)[:images])
        pixels: list[Any] = []
        labels: list[int] = []
        digest = hashlib.sha256()
        for index in chosen.tolist():
            row = source.read(index)
            image = row_pixels(row, spec, input_shape=shape, stated=checkpoint.config.pictures)
            pixels.append(image)
            labels.append(row.label or 0)
            digest.update(f"{image_sha256(image)} {row.label}\n".encode())
    finally:
        source.close()
    return pixels, np.array(labels), digest.hexdigest()


def _scores(engine: "Engine", image: Any, seed: str, index: int, noises: int, sigma: float) -> "NDArray[np.float64]":
    """Scores [N, K] of one image."""
    from .certification.prediction_sets import LogitsRun, ScoreSpec, scores

    run = LogitsRun(ScoreSpec(sigma, engine.num_classes, noises, "grid", seed, index))
    while not run.done:
        for shard in run.next_shards(noises):
            run.give(shard, engine.votes(image, shard))
    return scores(run.outcome())


def _sizes(
    calibration: "Calibration", scores_MNK: "NDArray[np.float64]", alpha: float, noise_error: float
) -> list[dict[str, float]]:
    """Mean set sizes of the calibration images themselves, by radius and method."""
    import numpy as np

    from .certification.prediction_sets import rule_of

    rows: list[dict[str, float]] = []
    for level in _LEVELS:
        row = {"radius": level * calibration.sigma}
        for method in ("rcp1", "bincp"):
            rule = rule_of(method, calibration, alpha, row["radius"], noise_error)
            row[method] = float(np.mean([len(rule.labels(s_NK[: rule.samples])) for s_NK in scores_MNK]))
        rows.append(row)
    return rows
