"""`spacte evaluate`: accuracy of the heads and of their sum, without noise and with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacte_core.openmp import set_wait_policy

if TYPE_CHECKING:
    from rich.table import Table

    from spacte_core.checkpoint import CheckpointConfig
    from spacte_core.data import DataConfig
    from spacte_trainer.evaluation import Evaluation

evaluate_app = typer.Typer(help="Measure a checkpoint's clean and noisy accuracy.")


@evaluate_app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    data: Annotated[
        str | None,
        typer.Option(help="Its test split is used; as for `spacte train` [what the checkpoint was trained on]."),
    ] = None,
    sigma: Annotated[float | None, typer.Option(min=0.0, help="Noise sd [the checkpoint's].")] = None,
    noise_draws: Annotated[int, typer.Option(min=1, help="Noises an image.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ... [cuda where there is one]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Clean and noisy accuracy of every head and of their sum, and how often two heads disagree."""
    set_wait_policy()
    from rich.console import Console

    from spacte_core.checkpoint import load_checkpoint
    from spacte_core.data import load_data
    from spacte_core.errors import one_sentence
    from spacte_core.hardware import choose_device
    from spacte_trainer.evaluation import check_fit
    from spacte_trainer.evaluation import evaluate as measure

    with one_sentence():
        chosen = choose_device(device)
        found = load_checkpoint(checkpoint, chosen)
        where = data_of(found.config, data)
        images = load_data(where, "test")
        check_fit(found.config.model, images)
        level = found.config.sigma if sigma is None else sigma
        measured = measure(found.net, images, chosen, sigma=level, draws=noise_draws, seed=seed)
    if as_json:
        print(measured.model_dump_json(indent=2))
    else:
        Console().print(table(measured, f"{checkpoint} on {measured.images:,} images of {where.source}"))


def data_of(config: "CheckpointConfig", source: str | None) -> "DataConfig":
    """The data set to measure on: `source`, read as in training, or that of the training.

    Raises:
        DataError: neither is known.
    """
    from spacte_core.data import DataConfig, DataError

    if "data" in config.train:
        trained = DataConfig.model_validate(config.train["data"])
        return trained.model_copy(update={"source": source}) if source else trained
    if source is None:
        raise DataError("The checkpoint does not say what it was trained on: add --data.")
    return DataConfig(source=source)


def table(measured: "Evaluation", title: str) -> "Table":
    """A row a head, and one for their sum."""
    from rich.table import Table

    draws = f"{measured.noise_draws} draw{'s' if measured.noise_draws > 1 else ''}"
    shares = f"{measured.clean.disagreement:.2%} of clean and {measured.noisy.disagreement:.2%} of noisy inputs"
    caption = f"two heads disagree on {shares}" if len(measured.clean.heads) > 1 else "one head"
    shown = Table(title=title, caption=caption)
    for heading in ("", "clean", f"noisy (sigma {measured.sigma:g}, {draws})"):
        shown.add_column(heading, justify="right")
    rows = zip(measured.clean.heads, measured.noisy.heads, strict=True)
    for index, (clean, noisy) in enumerate(rows):
        shown.add_row(f"head {index}", f"{clean:.2%}", f"{noisy:.2%}")
    shown.add_section()
    shown.add_row("all heads", f"{measured.clean.ensemble:.2%}", f"{measured.noisy.ensemble:.2%}", style="bold")
    return shown
