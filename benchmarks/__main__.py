"""`make bench`: the measurements that need nothing but this machine, one after the other; about half an hour.

Each is a command of its own, named before it runs. Last it checks that README and card quote the CIFAR-10 results as
they are; `benchmarks.cifar10` makes those from the images. Those with a cluster (`benchmarks.jobs`, `.faults`,
`.kills`, `.gateway_load`, `.starting`, `.simulated_cluster`) are run by themselves: they want a machine that does
nothing else.
"""

import subprocess
import sys

SPACTE = ("-m", "spacte_client")
COMMANDS: tuple[tuple[str, ...], ...] = (
    (*SPACTE, "bench", "engine", "--precision", "all", "--rounds", "5"),
    (*SPACTE, "bench", "engine", "--precision", "all", "--rounds", "5", "--arch", "digits_cnn"),
    (*SPACTE, "bench", "samples"),
    (*SPACTE, "bench", "train", "--pairs", "3"),
    ("-m", "benchmarks.readme", "--check"),
)


def main() -> int:
    """Run all of them; the exit code is that of the first that fails."""
    for command in COMMANDS:
        shown = ("spacte", *command[len(SPACTE) :]) if command[: len(SPACTE)] == SPACTE else ("python", *command)
        print(f"\n$ {' '.join(shown)}", flush=True)
        if code := subprocess.run([sys.executable, *command], check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
