"""Checks the library against a folder of reference vectors: `python tests/conformance.py DIR`.

Every file that DIR/index.json lists is checked through the library's own code, outputs and gradients, against
the tolerance that is written there. One line a file; the last is `N passed, M failed, K not implemented`, and
the exit status is 1 if any failed.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conformance_checks import Case, Outcome, check


def main(folder: Path) -> int:
    """Print what was found and return the exit status."""
    outcomes: list[Outcome] = []
    for entry in json.loads((folder / "index.json").read_text())["files"]:
        outcome = check(Case(folder, entry))
        print(outcome.line, flush=True)
        outcomes.append(outcome)
    counts = [sum(outcome.state == state for outcome in outcomes) for state in ("pass", "FAIL", "none")]
    print("{} passed, {} failed, {} not implemented".format(*counts))
    return int(counts[1] > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "index.json").is_file():
        sys.exit(f"usage: python {sys.argv[0]} DIR, where DIR/index.json lists reference vectors")
    sys.exit(main(Path(sys.argv[1])))
