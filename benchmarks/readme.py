"""The README's CIFAR-10 table, its curve and the figures of the model's card, from benchmarks/results/cifar10/.

python -m benchmarks.readme            writes them anew
python -m benchmarks.readme --check    exits with 1 where they are not what the results say
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from spacte_client.analysis.logs import read_log
from spacte_client.rounding import rounded_down_text

from .cifar10 import MODEL, RESULTS, ROOT

README, CARD = ROOT / "README.md", MODEL / "README.md"
CURVE = ROOT / "docs" / "images" / "cifar10.png"
RADII = (0.0, 0.25, 0.5)
MARKS = "<!-- cifar10: made by `python -m benchmarks.readme` -->", "<!-- cifar10: end -->"


def results() -> list[dict[str, Any]]:
    """The models measured, in their order."""
    return json.loads((RESULTS / "figures.json").read_text())["models"]


def accuracy(summary: dict[str, Any], radius: float) -> str:
    """Certified accuracy at a radius in percent, with its interval."""
    point = next(point for point in summary["certified_accuracy"] if point["radius"] == radius)
    return f"{100 * point['value']:.1f} [{100 * point['low']:.1f}, {100 * point['high']:.1f}]"


def table(models: list[dict[str, Any]]) -> str:
    """A row a model."""
    columns = ["model", "noisy accuracy", "ACR", *(f"r = {r:g}" for r in RADII), "MMACs", "training"]
    rows = [columns, ["---"] * len(columns)]
    for found in models:
        summary, seconds = found["summary"], found["train_seconds"]
        if found["evaluation"] is None:  # the first head of the model in the box, alone
            noisy, trained = models[0]["evaluation"]["noisy"]["heads"][0], ""
        else:
            noisy, trained = found["evaluation"]["noisy"]["ensemble"], f"{seconds / 60:.0f} min"
        row = [found["name"], f"{100 * noisy:.1f} %", rounded_down_text(summary["acr"], 3)]
        row += [accuracy(summary, radius) for radius in RADII]
        rows.append([*row, f"{found['macs'] / 1e6:.0f}", trained])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def between(text: str, body: str, marks: tuple[str, str] = MARKS) -> str:
    """The text with `body` between its two marks."""
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise SystemExit(f"There are no lines {marks[0]} and {marks[1]} to put the table between: add them.")
    return f"{before}{begin}\n{body}\n{end}{after}"


def texts() -> dict[Path, str]:
    """The README and the card as they should be."""
    models = results()
    short = [found for found in models if found["evaluation"] is not None]
    return {README: between(README.read_text(), table(short)), CARD: between(CARD.read_text(), table(models))}


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        stale = [path for path, text in texts().items() if path.read_text() != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the results say: run `python -m benchmarks.readme`.")
        return int(bool(stale))
    from spacte_client.analysis.plotting import plot_runs

    for path, text in texts().items():
        path.write_text(text)
    runs = [read_log(RESULTS / found["log"], found["name"]) for found in results() if found["log"]]
    plot_runs(runs, [CURVE], title="CIFAR-10 (JPEG-coded), sigma 0.25")
    return 0


if __name__ == "__main__":
    sys.exit(main())
