"""What the finished images of a job show together, as `summary.json` and in the field's columns as TSV."""

import math
import statistics
from collections.abc import Iterable, Iterator
from datetime import timedelta

from spacte_client.rounding import RADIUS_DIGITS, rounded_down_text
from spacte_client.types import Bracketed, JobSummary, NarrowBrackets
from spacte_core.files import replace_file
from spacte_workers.statistics.metrics import average_certified_radius, certified_accuracy, most_false

from .chains import Record
from .job_folder import JobFolder, write_json
from .recertified import compared
from .results import read_results

STEP = 0.05
"""Certified accuracy is given at multiples of this radius. Chosen: published tables have steps of .25 and .5."""

LARGEST_OVER_SIGMA = 4.0
"""The curve ends at 4 sigma unless a radius is beyond, which takes n > 218,000 at alpha = .001: sigma
Phi^-1(alpha^(1/n))."""

TSV_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")  # of locuslab/smoothing's logs
NO_LABEL = -1  # as those logs say of an abstention


def summarize(records: Iterable[Record]) -> JobSummary:
    """Certified accuracy with its intervals, ACR, and the joint statement about all certificates.

    Of a job that is not finished those images are there that took few noises, which hangs on their votes. So the joint
    statement is about all images begun by then, of which those finished are a part.
    """
    correct: list[bool] = []
    radii: list[float] = []
    abstained = incorrect = errored = images = begun = 0
    sigma = alpha = None
    for record in records:
        begun = max(begun, record.get("begun") or 0)
        if record["outcome"] == "errored":
            errored += 1
            continue
        images += 1
        abstained += record["abstained"]
        incorrect += record.get("stop_reason") == "incorrect"
        sigma, alpha = record["sigma"], max(alpha or 0.0, record["alpha"])
        if record["correct"] is not None:
            correct.append(record["correct"])
            radii.append(record["radius"])
    if sigma is None or alpha is None:
        return JobSummary(images=0, abstained=0, errored=errored)
    begun = max(images, begun - errored)  # what is wrong with an image does not hang on votes
    false = most_false(begun, alpha, alpha)
    among = f"these {images:,}" if begun == images else f"the {begun:,} images begun, of which {images:,} are finished"
    return JobSummary(
        images=images,
        begun=begun,
        abstained=abstained,
        incorrect=incorrect,
        errored=errored,
        labelled=len(correct),
        labels=_about_labels(len(correct), images),
        acr=average_certified_radius(correct, radii) if correct else None,
        certified_accuracy=certified_accuracy(correct, radii, _grid(sigma, radii)) if correct else [],
        sigma=sigma,
        alpha=alpha,
        rho=alpha,
        max_false=false,
        statement=(
            f"Each certificate by itself is false with probability at most {alpha:g}; of {among}, "
            f"whose noises are independent, at most {false:,} are false with probability at least "
            f"{1 - alpha:g}."
        ),
    )


def summarize_folder(folder: JobFolder) -> JobSummary:
    """The same for a job on disk, compared with its base job where it has one."""
    summary = summarize(read_results(folder.results_file))
    if summary.sigma is None:
        return summary
    spec = folder.spec()
    if spec.params.n_upper is not None:
        found = bracketed(read_results(folder.results_file), spec.params.alpha_upper)
        summary = summary.model_copy(update={"brackets": found})
    base = spec.base
    if base is None or not folder.base_file.exists():
        return summary
    found = compared(base.id, read_results(folder.base_file), read_results(folder.results_file), summary)
    return summary.model_copy(update={"recertified": found})


def bracketed(records: Iterable[Record], alpha_upper: float) -> Bracketed:
    """What the attacks of a job found; `alpha_upper` is the probability that one upper bound is false."""
    attacked = [record for record in records if record.get("attack_noises") is not None]
    both = [(record["radius"], record["upper"]) for record in attacked if record["upper"] is not None]
    gaps = [upper - lower for lower, upper in both]
    grid = [round((i + 1) * STEP, 2) for i in range(math.ceil(round(max(gaps, default=0.0) / STEP, 6)))]
    return Bracketed(
        images=len(attacked),
        bounded=len(both),
        median_ratio=statistics.median(upper / lower for lower, upper in both) if both else None,
        narrower=[
            NarrowBrackets(width=width, share=sum(gap < width for gap in gaps) / len(attacked)) for width in grid
        ],
        attack_noises=sum(record["attack_noises"] for record in attacked),
        alpha_upper=alpha_upper,
    )


def _about_labels(labelled: int, images: int) -> str | None:
    if labelled == images:
        return None
    return f"{images - labelled:,} of {images:,} images have no true class, so they count for no accuracy."


def _grid(sigma: float, radii: list[float]) -> list[float]:
    largest = max(LARGEST_OVER_SIGMA * sigma, *radii)
    return [round(i * STEP, 2) for i in range(math.ceil(round(largest / STEP, 6)) + 1)]


def tsv_lines(records: Iterable[Record]) -> Iterator[str]:
    """Lines in the columns of the field's published logs, by index; images without a certificate have none.

    `label` is -1 where the input has no true classes, `predict` is -1 for an abstention, and the radius is rounded
    down, where the published logs round to nearest.
    """
    yield "\t".join(TSV_COLUMNS) + "\n"
    lines = {record["index"]: _tsv_line(record) for record in records if record["outcome"] != "errored"}
    yield from (lines[index] for index in sorted(lines))


def _tsv_line(record: Record) -> str:
    label = NO_LABEL if record["true_label"] is None else record["true_label"]
    radius = rounded_down_text(record["radius"], RADIUS_DIGITS)
    correct, taken = int(bool(record["correct"])), timedelta(milliseconds=round(record["elapsed_ms"]))
    return f"{record['index']}\t{label}\t{record['label']}\t{radius}\t{correct}\t{taken}\n"


def export(folder: JobFolder) -> None:
    """Write `summary.json` and `results.tsv` from the results log."""
    write_json(folder.summary_file, summarize_folder(folder).model_dump(mode="json"))
    replace_file(folder.tsv_file, "".join(tsv_lines(read_results(folder.results_file))).encode())
