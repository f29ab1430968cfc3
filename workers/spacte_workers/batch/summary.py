"""What the finished images of a job show together, as `summary.json` and in the field's columns as TSV."""

import json
import math
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np

from spacte_client.types import CertifiedAccuracy, JobSummary
from spacte_workers.statistics.metrics import average_certified_radius, certified_accuracy, most_false

from .job_folder import JobFolder, write_json
from .results import Record, read_results

STEP = 0.05
"""Certified accuracy is given at multiples of this radius."""

LARGEST_OVER_SIGMA = 4.0
"""No radius is beyond 4 sigma at any n below 300,000, so the curve ends there unless one is."""

TSV_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
NO_LABEL = -1


def summarize(records: Iterable[Record]) -> JobSummary:
    """Certified accuracy with its intervals, ACR, and the joint statement about all certificates."""
    correct: list[bool] = []
    radii: list[float] = []
    abstained = errored = images = 0
    sigma = alpha = None
    for record in records:
        if record["outcome"] == "errored":
            errored += 1
            continue
        images += 1
        abstained += record["abstained"]
        sigma, alpha = record["sigma"], record["alpha"]
        if record["correct"] is not None:
            correct.append(record["correct"])
            radii.append(record["radius"])
    if sigma is None or alpha is None:
        return JobSummary(images=0, abstained=0, errored=errored)
    false = most_false(images, alpha, alpha)
    return JobSummary(
        images=images,
        abstained=abstained,
        errored=errored,
        labelled=len(correct),
        acr=average_certified_radius(correct, radii) if correct else None,
        certified_accuracy=[
            CertifiedAccuracy(radius=p.radius, value=p.value, low=p.low, high=p.high)
            for p in (certified_accuracy(correct, radii, _grid(sigma, radii)) if correct else [])
        ],
        sigma=sigma,
        alpha=alpha,
        rho=alpha,
        max_false=false,
        statement=(
            f"Each certificate by itself is false with probability at most {alpha:g}; of these {images:,}, "
            f"whose noises are independent, at most {false:,} are false with probability at least "
            f"{1 - alpha:g}."
        ),
    )


def _grid(sigma: float, radii: list[float]) -> list[float]:
    largest = max(LARGEST_OVER_SIGMA * sigma, *radii)
    return [round(i * STEP, 2) for i in range(math.ceil(round(largest / STEP, 6)) + 1)]


def tsv_lines(records: Iterable[Record]) -> Iterator[str]:
    """Lines in the columns of the field's published logs, by index; images without a certificate have none.

    `label` is -1 where the input has no true classes, `predict` is -1 for an abstention, and the radius is
    rounded down, where the published logs round to nearest.
    """
    yield "\t".join(TSV_COLUMNS) + "\n"
    rows = [
        (
            record["index"],
            NO_LABEL if record["true_label"] is None else record["true_label"],
            record["label"],
            record["radius"],
            int(bool(record["correct"])),
            record["elapsed_ms"],
        )
        for record in records
        if record["outcome"] != "errored"
    ]
    for index, label, predict, radius, correct, elapsed_ms in sorted(rows):
        taken = timedelta(milliseconds=round(elapsed_ms))
        yield f"{index}\t{label}\t{predict}\t{_down(radius)}\t{correct}\t{taken}\n"


def _down(radius: float) -> str:
    """Six digits, never more than the radius."""
    text = f"{radius:.6f}"
    return text if float(text) <= radius else f"{np.nextafter(radius, 0) - 5e-7:.6f}"


def export(folder: JobFolder) -> JobSummary:
    """Write `summary.json` and `results.tsv` from the results log."""
    summary = summarize(read_results(folder.results_file))
    write_json(folder.summary_file, summary.model_dump(mode="json"))
    write_tsv(folder.tsv_file, read_results(folder.results_file))
    return summary


def write_tsv(path: Path, records: Iterable[Record]) -> None:
    """Replace a TSV file as a whole."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        file.writelines(tsv_lines(records))
    new.replace(path)


def read_summary(folder: JobFolder) -> JobSummary:
    """The summary as written at the end of the job, else of what is finished by now."""
    if folder.summary_file.exists():
        return JobSummary.model_validate(json.loads(folder.summary_file.read_bytes()))
    return summarize(read_results(folder.results_file))
