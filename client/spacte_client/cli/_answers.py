"""Images in, one line each out: what `spacte certify` and `spacte predict` share."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from spacte_client._exceptions import APIStatusError, SpacteError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from spacte_client.types import Certificate, Prediction

    A = TypeVar("A", Certificate, Prediction)

ABSTAINED = 3
"""Exit status where an answer abstains."""


def answer_all(
    images: Sequence[str],
    ask: "Callable[[str], A]",
    line: "Callable[[str, A], Text]",
    *,
    console: "Console",
    as_json: bool,
) -> int:
    """Ask about each image and print its answer; an image that fails does not stop the others.

    Args:
        images: names of files, or `-`.
        ask: the answer for one of them.
        line: the answer as a line for people.
        as_json: print one line of JSON an image in its place; a failed one has the keys `image` and `error`.

    Returns:
        The exit status: 1 where an image failed, else 3 where an answer abstains, else 0.
    """
    statuses: set[int] = set()
    for image in images:
        try:
            answer = ask(image)
        except SpacteError as error:
            if as_json:
                code = error.code if isinstance(error, APIStatusError) else type(error).__name__
                typer.echo(json.dumps({"image": image, "error": {"code": code, "detail": error.message}}))
            typer.echo(f"Error: {image}: {error.message}", err=True)
            statuses.add(1)
            continue
        if as_json:
            typer.echo(answer.model_dump_json())
        else:
            console.print(line(image, answer), soft_wrap=True)
        statuses.add(ABSTAINED if answer.abstained else 0)
    return 1 if 1 in statuses else max(statuses)
