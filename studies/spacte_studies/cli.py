"""`spacte reproduce TABLE`: a table of the papers as one study that is carried on slice by slice."""

import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacte_core.openmp import set_wait_policy

from .tables import TABLES, Network, Setting, Table

if TYPE_CHECKING:
    from .study import Study

reproduce_app = typer.Typer(add_completion=False)


@reproduce_app.command("reproduce")
def reproduce(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help="spacte-cifar10, single-vs-spacte-vs-ensemble, digits, or a study of your own: a .yaml or .py file.",
        ),
    ],
    folder: Annotated[Path | None, typer.Option(help="State and results of the study [runs/reproduce/TABLE].")] = None,
    minutes: Annotated[float, typer.Option(min=0.0, help="Length of this slice; 0 only shows.")] = 10.0,
    only: Annotated[list[str] | None, typer.Option(help="Work on this method; may be given several times.")] = None,
    sigmas: Annotated[list[float] | None, typer.Option("--sigma", help="Work on this noise level; likewise.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Work on this seed; likewise.")] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="First take what is further in this folder or results.json; likewise.")
    ] = None,
    network: Annotated[Network, typer.Option(help="Of the CIFAR-10 cells; published is resnet110.")] = "resnet110",
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

    from .report import write
    from .study import Study

    with one_sentence():
        chosen = table_of(table, network)
    name = table if table in TABLES or Path(table).stem not in TABLES else f"{Path(table).stem}-study"
    place = folder or Path("runs") / "reproduce" / Path(name).stem
    place.mkdir(parents=True, exist_ok=True)
    wanted = selection(chosen, table, only, sigmas, seeds)
    write_report = partial(write, chosen, place, shlex.join(["spacte", *sys.argv[1:]]))
    console = Console(soft_wrap=True, highlight=False)
    with one_sentence():
        target = choose_device(device)
        study = Study(chosen, place, target, console, cifar10=data, wanted=wanted, finished=write_report)
        merge_all(study, merge or [])
        left = work(study, minutes)
    results = write_report()
    console.print(results.read_text(), markup=False)
    console.print(f"{left} {results} holds this table.".strip(), markup=False)


def table_of(name: str, network: Network) -> Table:
    """The table of that name, or of the file."""
    from .study_files import read_study

    if name in TABLES:
        return TABLES[name](network)
    if Path(name).is_file():
        return read_study(Path(name))
    known = ", ".join(TABLES)
    raise typer.BadParameter(f"there is no table and no file {name!r}: choose from {known}, or name a file.")


def selection(
    table: Table, name: str, only: list[str] | None, sigmas: list[float] | None, seeds: list[int] | None
) -> Callable[[Setting, int], bool]:
    """Which cells the options name; what the table does not have is refused."""
    methods = {setting.row for setting in table.settings}
    if unknown := set(only or ()) - methods - {setting.method for setting in table.settings}:
        raise typer.TyperException(
            f"Table {name} has no method {', '.join(sorted(unknown))}: its methods are {', '.join(sorted(methods))}."
        )
    for option, given, there in (
        ("--sigma", sigmas, {setting.sigma for setting in table.settings}),
        ("--seed", seeds, set(table.seeds)),
    ):
        if missing := set(given or ()) - there:
            known = ", ".join(map(str, sorted(there)))
            raise typer.TyperException(f"Table {name} has no {option} {min(missing)}: choose from {known}.")
    return lambda setting, seed: (
        (not only or setting.method in only or setting.row in only)
        and (not sigmas or setting.sigma in sigmas)
        and (not seeds or seed in seeds)
    )


def merge_all(study: "Study", others: list[Path]) -> None:
    """Take what is further in other folders, and say what was taken."""
    from .merging import merge

    table = study.table
    wanted = {s.folder_name(seed): study.asked(s, seed) for s in table.settings for seed in table.seeds}
    for other in others:
        if not other.exists():
            raise typer.TyperException(
                f"There is no {other}: name a folder that `spacte reproduce` filled, or its results.json."
            )
        merged = merge(study.folder, other, wanted)
        typer.echo(f"{merged.taken} cells were further in {other}.")
        if merged.busy:
            typer.echo(
                f"Left out {', '.join(merged.busy)}, as another process is at work there: merge again when it is done."
            )
        if merged.strange:
            typer.echo(f"Left out {', '.join(merged.strange)}: this study does not have them, or asks for others.")


def work(study: "Study", minutes: float) -> str:
    """Work on the study for so long; returns a sentence about what is left, empty where there is none to say."""
    from .study import TimeIsUpError, TimeSlice

    time_slice = TimeSlice(time.monotonic() + 60 * minutes)
    try:
        study.work(time_slice)
    except TimeIsUpError:
        if not minutes:
            return ""
        if time_slice.finished:
            return "The time is up: the same command goes on from here."
        return (
            "The time is up, and no epoch and no certificate was finished in it: "
            f"take more than --minutes {minutes:g}, as the same command would begin at the same place."
        )
    return f"Left out {len(study.elsewhere)} cells that another process is at work on." if study.elsewhere else ""
