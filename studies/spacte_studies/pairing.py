"""Each row of a table beside its first one, on the same images: both answer each image, so they are paired by it.

Of an image the difference is the mean over the seeds that both have. Standard errors are over images: they say what
another choice of test images would change, and standard deviations over seeds what another training would.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from spacte_client.analysis.pairs import mcnemar, normal_p_value

from .cells import Certified, certificates_file, finished, read_certificates
from .tables import Setting

Certificates = Mapping[int, Certified]


def paired(settings: Sequence[Setting], seeds: Sequence[int], folder: Path) -> list[str]:
    """Lines of Markdown for the settings of one part of a table; none where no seed of two rows is done here.

    Of a row, seeds with certificates of other images than its first seed has are left out.

    Args:
        settings: rows, of which the first is what the others are compared with.
        seeds: of the table.
        folder: of the study, with the certificates of its cells.
    """
    first, radii = settings[0], settings[0].protocol.radii
    rows: list[list[str]] = []
    for setting in settings[1:]:
        both = [(_done(folder, setting, seed), _done(folder, first, seed)) for seed in seeds]
        images = next((ours.keys() for ours, theirs in both if ours and ours.keys() == theirs.keys()), None)
        pairs = [(ours, theirs) for ours, theirs in both if ours.keys() == theirs.keys() == images]
        if pairs:
            rows.append([setting.row, str(len(pairs)), _acr(pairs), *(_accuracy(pairs, radius) for radius in radii)])
    if not rows:
        return []
    headings = ["method", "seeds", "ACR", *(f"r = {radius:g}" for radius in radii)]
    said = (
        f"Less {first.row}, on the same images and seeds: ACR with its standard error over images, the two-sided "
        "p-value of a normal approximation, and the standard deviation over seeds; certified accuracy in points with "
        "the exact p-value of a sign test (McNemar's with one seed). No p-value is corrected for their number."
    )
    table = [headings, ["---"] * len(headings), *rows]
    return [said, "", *(f"| {' | '.join(row)} |" for row in table)]


def _done(folder: Path, setting: Setting, seed: int) -> Certificates:
    """The certificates of a finished cell; empty where it is not finished, or came without them."""
    place = folder / setting.folder_name(seed)
    file = certificates_file(place) if finished(place, setting) is not None else None
    return read_certificates(file) if file is not None else {}


def _acr(pairs: Sequence[tuple[Certificates, Certificates]]) -> str:
    by_seed = [
        [ours[i].correct * ours[i].radius - theirs[i].correct * theirs[i].radius for i in sorted(ours)]
        for ours, theirs in pairs
    ]
    by_image = [statistics.mean(seeds) for seeds in zip(*by_seed, strict=True)]
    mean, error = statistics.mean(by_image), _standard_error(by_image)
    p = normal_p_value(mean, error, len(by_image))
    spread = f", sd {statistics.stdev(map(statistics.mean, by_seed)):.3f}" if len(pairs) > 1 else ""
    return f"{mean:+.3f} ({error:.3f}, p = {p:.2g}{spread})"


def _accuracy(pairs: Sequence[tuple[Certificates, Certificates]], radius: float) -> str:
    def holds(one: Certified) -> bool:
        return one.correct and one.radius >= radius

    sums = [sum(holds(ours[i]) - holds(theirs[i]) for ours, theirs in pairs) for i in pairs[0][0]]
    p = mcnemar(sum(total > 0 for total in sums), sum(total < 0 for total in sums))
    return f"{100 * sum(sums) / len(sums) / len(pairs):+.1f} (p = {p:.2g})"


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
