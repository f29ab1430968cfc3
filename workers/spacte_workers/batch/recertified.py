"""What a change of the model did to the certificates of a job: those of two jobs on the same images, side by side."""

from collections.abc import Iterable

from spacte_client.analysis.accuracy import Row, Run
from spacte_client.analysis.pairs import paired_differences
from spacte_client.types import JobSummary, PairedAccuracy, Recertified, WorseImage
from spacte_workers.statistics.metrics import certified_accuracy

from .chains import Record

MOST_WORSE = 100
"""Images that are listed. Chosen: more than anybody looks at one by one."""

KEPT = 0.9
"""An image got worse where less of its radius is left. Chosen: carrying over may lose .02 by itself, and a new draw of
the noises as much."""


def compared(base_job: str, before: Iterable[Record], after: Iterable[Record], summary: JobSummary) -> Recertified:
    """The certificates of a job beside those of its base job.

    Args:
        base_job: its id.
        before, after: the lines of both; what is in one alone is left out.
        summary: of the new job.
    """
    new = {record["index"]: record for record in after if record["outcome"] != "errored"}
    pairs = [(old, new[old["index"]]) for old in before if old["outcome"] != "errored" and old["index"] in new]
    labelled = [(old, now) for old, now in pairs if old["true_label"] is not None]
    radii = [row.radius for row in summary.certified_accuracy]
    curve = []
    if labelled:
        correct, proven = [old["correct"] for old, _ in labelled], [old["radius"] for old, _ in labelled]
        curve = certified_accuracy(correct, proven, radii)
    return Recertified(
        base_job=base_job,
        images=len(pairs),
        carried=sum(now["carried"] is not None for _, now in pairs),
        votes=sum(now["votes"] or 0 for _, now in pairs),
        votes_from_scratch=sum(old["n0"] + old["n"] for old, _ in pairs),
        certified_accuracy=curve,
        compared=_paired(labelled, summary.sigma or 0.0) if labelled else [],
        worse=_worse(pairs),
    )


def run_of(name: str, records: Iterable[Record]) -> Run:
    """Records as a run; without a true class an image counts as wrong."""
    rows = [
        Row(r["index"], -1 if r["true_label"] is None else r["true_label"], r["label"], r["radius"], bool(r["correct"]))
        for r in records
    ]
    return Run(name, tuple(rows))


def _paired(labelled: list[tuple[Record, Record]], sigma: float) -> list[PairedAccuracy]:
    runs = [run_of(name, [pair[i] for pair in labelled]) for i, name in enumerate(("before", "after"))]
    found, _ = paired_differences(runs, [0.0, sigma, 2 * sigma])
    shares = [
        [run.correct_beyond(pair.radius) / run.images for run in runs] for pair in found if pair.radius is not None
    ]
    at = [pair for pair in found if pair.radius is not None]
    return [
        PairedAccuracy(
            radius=pair.radius or 0.0,
            before=before,
            after=after,
            standard_error=pair.standard_error,
            p_value=pair.p_value,
        )
        for pair, (before, after) in zip(at, shares, strict=True)
    ]


def _worse(pairs: list[tuple[Record, Record]]) -> list[WorseImage]:
    """The images that lost most, the largest loss first."""
    found = [
        WorseImage(
            index=old["index"],
            label_before=old["label"],
            radius_before=old["radius"],
            label=now["label"],
            radius=now["radius"],
        )
        for old, now in pairs
        if not old["abstained"] and (now["label"] != old["label"] or now["radius"] < KEPT * old["radius"])
    ]
    kept = {image.index: image.radius if image.label == image.label_before else 0.0 for image in found}
    return sorted(found, key=lambda image: kept[image.index] - image.radius_before)[:MOST_WORSE]
