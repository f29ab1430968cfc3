"""From pydantic's errors to sentences with JSON pointers into the body that the caller sent."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from spacte_client.types import FieldProblem

MAX_ERRORS = 20
"""Problems listed at most. Chosen: a body of ten thousand unknown fields does not get ten thousand sentences."""

EXAMPLES = {
    "image": '{"type": "base64", "data": "iVBORw0KGgo..."}',
    "images": '[{"type": "base64", "data": "iVBORw0KGgo..."}]',
    "data": '"iVBORw0KGgo...", an image file in base64',
    "file_id": '"file_..." as POST /v1/files answers',
    "input": '{"type": "file", "file_id": "file_..."}',
    "params": '{"n": 1000}',
    "model": '"digits"',
    "n": "10000",
    "n0": "100",
    "n_upper": "1000",
    "stop_incorrect": "true",
    "alpha": "0.001",
    "alpha_upper": "0.001",
    "sigma": "0.25",
    "radius": "0.25",
    "bound": '"auto"',
    "certify": '"fp32"',
    "noise": '"grid"',
    "target_radius": "0.5",
    "tolerance": "0.05",
    "deadline_ms": "5000",
    "k_consensus": "3",
    "resize": "true",
    "enlarge": "true",
    "convert": '["channels"]',
    "method": '"rcp1"',
    "seed": '"0123456789abcdef0123456789abcdef"',
}
"""A right form of each field that a sentence may be about."""

NAME_LENGTH = 64
"""Of a field's name in a sentence. Chosen: longer than every field of the API."""


def explain(errors: Sequence[Any], body: object, fields: Sequence[str] = ()) -> list[FieldProblem]:
    """One sentence for each of pydantic's `errors` about `body`.

    Args:
        errors: as `ValidationError.errors()` gives them.
        body: what was validated, to tell fields from the tags that pydantic puts between them.
        fields: names that would have been accepted at the top, to suggest for a misspelt one.
    """
    problems: list[FieldProblem] = []
    for error in errors[:MAX_ERRORS]:
        path = body_path(error["loc"], body)
        name = next((part for part in reversed(path) if not part.isdecimal()), "the body")
        problems.append(FieldProblem(pointer=to_pointer(path), detail=_sentence(error, name, fields)))
    return problems


def body_path(location: Sequence[str | int], body: object) -> list[str]:
    """Keys from the top of `body` to the field at fault, without pydantic's words for union members."""
    parts = list(location)
    path: list[str] = []
    here = body
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(here, Mapping):
            mapping = cast("Mapping[Any, Any]", here)
            if part in mapping:
                here = mapping[part]
            elif not last:
                continue
        elif isinstance(here, list) and isinstance(part, int):
            items = cast("list[Any]", here)
            here = items[part] if part < len(items) else None
        path.append(str(part))
    return path


def to_pointer(path: Sequence[str]) -> str:
    """RFC 6901."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def pointer_to_nul(body: object) -> str | None:
    """Where in a JSON value a text or a field's name has a NUL character; None for nowhere."""
    waiting: list[tuple[object, str]] = [(body, "")]
    while waiting:
        value, at = waiting.pop()
        if isinstance(value, str) and "\0" in value:
            return at
        if isinstance(value, Mapping):
            for name, inner in cast("Mapping[str, Any]", value).items():
                if "\0" in name:
                    return at
                waiting.append((inner, at + to_pointer([name])))
        elif isinstance(value, list):
            waiting += [(inner, f"{at}/{i}") for i, inner in enumerate(cast("list[Any]", value))]
    return None


def _sentence(error: Mapping[str, Any], name: str, fields: Sequence[str]) -> str:
    kind: str = error["type"]
    if kind == "missing":
        return f"`{name}` is required" + (f"; for example {EXAMPLES[name]}." if name in EXAMPLES else ".")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "remove it or check its spelling."
        return f"`{_shortened(name)}` is not a field of this request; {hint}"
    if name == "the body":
        return "The body should be a JSON object; for example {" + f'"image": {EXAMPLES["image"]}' + ', "n": 1000}.'
    message: str = error["msg"]
    text = message.removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    text = text.replace("a valid dictionary or object to extract fields from", "a JSON object")
    example = f"; for example {EXAMPLES[name]}" if name in EXAMPLES else ""
    return f"`{_shortened(name)}` {text}{example}."


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 3]}..."
