"""`spacte train` and `spacte recipes`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacte_core.openmp import set_wait_policy

if TYPE_CHECKING:
    from spacte_trainer.config import InitConfig, TrainConfig

train_app = typer.Typer(help="Train a classifier by a recipe.")
recipes_app = typer.Typer(help="List the recipes, or print one.")


Recipe = Annotated[
    str | None,
    typer.Argument(
        help="A recipe; `spacte recipes` lists them. With --init also denoiser-dncnn or denoiser-unet, each also with "
        "-stability; or none, and --method."
    ),
]
Init = Annotated[Path | None, typer.Option(help="Start from this checkpoint, also one that `spacte import` wrote.")]
MethodName = Annotated[
    str | None,
    typer.Option(help="Without a recipe: gaussian, consistency, ..., or spacte-gaussian, ... with --init, --data."),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, cifar10, cifar100, mnist, svhn, imagenet:PATH, folder:PATH, parquet:PATH or hf:OWNER/NAME."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any field of the recipe, e.g. optimizer.lr=0.05."),
]
Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="Ray cluster for --workers [one started here].")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the class in parquet files [label, fine_label ...].")]
SplitAt = Annotated[
    str | None, typer.Option(help="Module of --init or --arch at which heads begin [the last stage or blocks].")
]


@train_app.command()
def train(
    recipe: Recipe = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the checkpoint [runs/RECIPE].")] = None,
    init: Init = None,
    method: MethodName = None,
    arch: Annotated[str | None, typer.Option(help="timm:NAME or torchvision:NAME in place of the recipe's.")] = None,
    weights: Annotated[str, typer.Option(help="Of --arch: random, hub, or a file.")] = "random",
    split: SplitAt = None,
    sigma: Annotated[
        float | None, typer.Option(help="Noise sd in units of [0, 1] pixels; settings that depend on it follow.")
    ] = None,
    heads: Annotated[int | None, typer.Option(help="Heads of the network.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Length of the run; drops of the learning rate move in proportion.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it.")] = None,
    data: Data = None,
    label_column: LabelColumn = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... [cuda where there is one]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Carry on the run in --out.")] = False,
    settings: Settings = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train together, data-parallel, on Ray Train.")
    ] = 1,
    address: Address = None,
) -> None:
    """Train a classifier by a recipe and leave a checkpoint folder in --out.

    The run is a function of its settings and seed; after an interruption --resume carries it on to the same
    result.
    """
    set_wait_policy()
    from rich.console import Console

    from spacte_core.errors import one_sentence
    from spacte_core.hardware import choose_device
    from spacte_trainer.config import InitConfig
    from spacte_trainer.runs import run

    named = {"model.heads": heads, "epochs": epochs, "seed": seed, "data.source": data}
    named["data.label_column"] = label_column
    with one_sentence():
        changes = {key: value for key, value in named.items() if value is not None}
        if init is None and arch is None:
            config = configure(recipe, sigma, changes, settings)
        else:
            start = InitConfig(model=arch or str(init), weights=weights, split=split)
            config = configure_from(start, recipe or method, recipe is not None, sigma, changes, settings)
        folder = out or Path("runs") / config.recipe
        if workers > 1:
            from spacte_trainer.distributed import run_distributed

            run_distributed(config, folder, workers=workers, device=device, resume=resume, address=address)
        else:
            chosen = choose_device(device)
            if chosen.type == "cpu" and config.threads is None and not resume and (hint := busy_machine()):
                Console(stderr=True).print(hint, highlight=False)
            run(config, folder, device=chosen, console=Console(), resume=resume)
    Console().print(f"[bold]{folder}[/] holds the checkpoint.", highlight=False)


def busy_machine() -> str | None:
    """What to try where other work takes all cores, and a training's threads wait for one another most of the time."""
    import torch

    threads, load = torch.get_num_threads(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if threads < 2 or load < threads:
        return None
    return (
        f"This machine is busy (load {load:.1f} on {threads} cores): fewer threads are most likely faster, such as "
        "--set threads=1. The weights then differ in their last digits."
    )


def configure(
    recipe: str | None, sigma: float | None, changes: dict[str, object], settings: list[str] | None
) -> "TrainConfig":
    """The recipe with `changes` applied, and then the --set ones."""
    from spacte_trainer.config import override, parse_setting
    from spacte_trainer.recipes import RecipeError, load_recipe
    from spacte_trainer.recipes.denoisers import KINDS

    if recipe in KINDS:
        raise RecipeError("A denoiser comes before a classifier: name its checkpoint with --init.")
    if recipe is None:
        raise RecipeError("What to train is not said: name a RECIPE, or --init MODEL, --method and --data.")
    return override(load_recipe(recipe, sigma), changes | dict(map(parse_setting, settings or [])))


def configure_from(
    init: "InitConfig",
    what: str | None,
    is_recipe: bool,
    sigma: float | None,
    changes: dict[str, object],
    settings: list[str] | None,
) -> "TrainConfig":
    """A recipe, or a method without one, that starts from a network; `changes` are applied, and then the --set ones."""
    from spacte_trainer.config import override, parse_setting
    from spacte_trainer.initial import model_of
    from spacte_trainer.recipes import RecipeError, load_recipe
    from spacte_trainer.recipes.denoisers import KINDS, denoising
    from spacte_trainer.recipes.fine_tuning import fine_tuning, from_init, heads_of_method

    if what is None:
        raise RecipeError("How to train is not said: name a RECIPE, or --method, such as gaussian.")
    if what in KINDS:
        config = denoising(what, *_data_and_noise(changes, sigma), *model_of(init, None, None, trains=False))
        return override(config, changes | dict(map(parse_setting, settings or [])))
    given = changes.pop("model.heads", None)
    heads = given if isinstance(given, int) else None
    if is_recipe:
        recipe = load_recipe(what, sigma)
        own = recipe.model.heads if recipe.objective.teaching else None
        model, start = model_of(init, recipe.model, heads or own)
        config = from_init(recipe, model, start)
    else:
        level, source = _data_and_noise(changes, sigma)
        model, start = model_of(init, None, heads_of_method(what, heads))
        config = fine_tuning(what, level, source, model, start)
    return override(config, changes | dict(map(parse_setting, settings or [])))


def _data_and_noise(changes: dict[str, object], sigma: float | None) -> tuple[float, str]:
    """What a run without a data set's recipe has to be told; taken out of `changes`."""
    from spacte_trainer.recipes import RecipeError

    source = changes.pop("data.source", None)
    if sigma is None or not isinstance(source, str):
        raise RecipeError("Such a run needs data and a noise level: add --data and --sigma.")
    return sigma, source


@recipes_app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print every setting of this recipe.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the recipes with a line each, or print the full configuration of one.

    Each line of a configuration can be changed with --set KEY=VALUE.
    """
    import json

    from rich.console import Console

    from spacte_core.errors import one_sentence
    from spacte_trainer.recipes import ENTRIES, load_recipe

    console = Console(soft_wrap=True, highlight=False)
    if name is None:
        if as_json:
            print(json.dumps({key: entry.summary for key, entry in ENTRIES.items()}, indent=2))
            return
        width = max(map(len, ENTRIES))
        for key, entry in ENTRIES.items():
            console.print(f"[bold]{key:<{width}}[/]  {entry.summary}")
        return
    with one_sentence():
        config = load_recipe(name)
    if as_json:
        print(config.model_dump_json(indent=2))
        return
    for key, value in flatten(config.model_dump(mode="json")):
        console.print(f"[bold]{key}[/]={json.dumps(value)}", markup=True)


def flatten(values: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested settings as `("model.heads", 5)`, ... in their order."""
    found: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += flatten(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, value))
    return found
