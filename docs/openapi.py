"""An mkdocs hook: the HTTP reference is written from `service/openapi.json` when the site is built."""

import json
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parent.parent / "service" / "openapi.json"
MARK = "<!-- openapi -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the reference where the page has the mark."""
    return markdown.replace(MARK, reference(json.loads(SCHEMA.read_text()))) if MARK in markdown else markdown


def reference(api: dict[str, Any]) -> str:
    """Every route, then every schema, in Markdown."""
    return "\n".join(["## Routes", "", *routes(api), "", "## Schemas", "", *schemas(api)])


def routes(api: dict[str, Any]) -> list[str]:
    """A section a route: what it does, its query and the schemas it takes and gives."""
    out: list[str] = []
    for path, verbs in api["paths"].items():
        for verb, route in verbs.items():
            out += [f"### `{verb.upper()} {path}`", "", route.get("description", route.get("summary", "")), ""]
            parameters = route.get("parameters", [])
            if parameters:
                out += ["| Parameter | In | Type | Meaning |", "|---|---|---|---|"]
                out += [
                    f"| `{p['name']}` | {p['in']} | {kind(its_schema(p))} | {line(p.get('description', ''))} |"
                    for p in parameters
                ]
                out.append("")
            body = route.get("requestBody", {}).get("content", {})
            if body:
                out += ["Body: " + "; ".join(f"`{t}` {kind(c.get('schema', {}))}" for t, c in body.items()), ""]
            out += ["Answers: " + "; ".join(answer(*pair) for pair in route["responses"].items()) + ".", ""]
    return out


def answer(status: str, its: dict[str, Any]) -> str:
    """A status and what comes with it."""
    return f"{status} {', '.join(kind(c.get('schema', {})) for c in its.get('content', {}).values())}".strip()


def schemas(api: dict[str, Any]) -> list[str]:
    """A table a schema."""
    out: list[str] = []
    for name, schema in api["components"]["schemas"].items():
        out += [f"### {name}", "", schema.get("description", ""), ""]
        required = set(schema.get("required", []))
        if "properties" not in schema:
            continue
        out += ["| Field | Type | Meaning |", "|---|---|---|"]
        for field, its in schema["properties"].items():
            default = f" Default `{json.dumps(its['default'])}`." if "default" in its else ""
            needed = " **Required.**" if field in required and "default" not in its else ""
            out.append(f"| `{field}` | {kind(its)} | {line(its.get('description', ''))}{default}{needed} |")
        out.append("")
    return out


def its_schema(parameter: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter, which may be written as JSON."""
    return parameter.get("schema") or parameter["content"]["application/json"]["schema"]


def kind(schema: dict[str, Any]) -> str:
    """A schema's type in a few words, with a link where it has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return " or ".join(kind(option) for option in schema[choice])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def line(text: str) -> str:
    """Text that stays in its table cell."""
    return " ".join(text.split()).replace("|", "\\|")
