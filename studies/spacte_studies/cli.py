"""`spacte reproduce TABLE`: a table of the papers as one study that is carried on slice by slice."""

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from spacte_core.openmp import set_wait_policy

reproduce_app = typer.Typer(add_completion=False)


@reproduce_app.command("reproduce")
def reproduce(
    table: Annotated[
        Literal["spacte-cifar10", "single-vs-spacte-vs-ensemble", "digits"], typer.Argument(help="Which table.")
    ],
    folder: Annotated[Path | None, typer.Option(help="State and results of the study [runs/reproduce/TABLE].")] = None,
    minutes: Annotated[float, typer.Option(min=0.0, help="Length of this slice; 0 only shows.")] = 10.0,
    only: Annotated[list[str] | None, typer.Option(help="Work on this method; may be given several times.")] = None,
    sigmas: Annotated[list[float] | None, typer.Option("--sigma", help="Work on this noise level; likewise.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Work on this seed; likewise.")] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="First take what is further in this folder or results.json; likewise.")
    ] = None,
    network: Annotated[
        Literal["resnet110", "resnet20"], typer.Option(help="Of the CIFAR-10 cells; published is resnet110.")
    ] = "resnet110",
    data: Annotated[
        str | None, typer.Option(help="Where CIFAR-10 is, e.g. parquet:PATH [torchvision's, downloaded].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ... [cuda where there is one]")] = None,
) -> None:
    """Train what a table misses, certify it, and print ours beside the published values.

    A slice ends after --minutes and the next call goes on where it stopped. Several calls may share a folder, each
    then works on other cells; it can be carried to another machine, and folders from several are joined with --merge.
    """
    set_wait_policy()
    from rich.console import Console

    from spacte_core.errors import one_sentence
    from spacte_core.hardware import choose_device

    from .cells import merge as take
    from .report import write
    from .study import Deadline, Study, TimeIsUpError
    from .tables import TABLES, Setting

    place = folder or Path("runs") / "reproduce" / table
    place.mkdir(parents=True, exist_ok=True)
    for other in merge or []:
        if not other.exists():
            raise typer.TyperException(
                f"There is no {other}: name a folder that `spacte reproduce` filled, or its results.json."
            )
        merged = take(place, other)
        typer.echo(f"{merged.taken} cells were further in {other}.")
        if merged.busy:
            typer.echo(
                f"Left out {', '.join(merged.busy)}, as another process is at work there: merge again when it is done."
            )

    chosen = TABLES[table](network)

    def wanted(setting: Setting, seed: int) -> bool:
        return (
            (not only or setting.method in only)
            and (not sigmas or setting.sigma in sigmas)
            and (not seeds or seed in seeds)
        )

    known = {setting.method for setting in chosen.settings}
    if unknown := set(only or ()) - known:
        raise typer.TyperException(
            f"Table {table} has no method {', '.join(sorted(unknown))}: its methods are {', '.join(sorted(known))}."
        )
    command = shlex.join(["spacte", *sys.argv[1:]])
    console = Console(soft_wrap=True, highlight=False)
    deadline = Deadline(time.monotonic() + 60 * minutes)
    with one_sentence():
        study = Study(
            chosen,
            place,
            choose_device(device),
            console,
            cifar10=data,
            wanted=wanted,
            finished=lambda _setting, _seed: (write(chosen, place, command), None)[1],
        )
        try:
            study.work(deadline)
            left = ""
            if study.elsewhere:
                left = f"Left out {len(study.elsewhere)} cells that another process is at work on."
        except TimeIsUpError:
            left = "The time is up: the same command goes on from here."
            if not deadline.finished:
                left = (
                    "The time is up, and no epoch and no certificate was finished in it: "
                    f"take more than --minutes {minutes:g}, as the same command would begin at the same place."
                )
            left = left if minutes else ""
    results = write(chosen, place, command)
    console.print(results.read_text(), markup=False)
    console.print(f"{left} {results} holds this table.".strip(), markup=False)
