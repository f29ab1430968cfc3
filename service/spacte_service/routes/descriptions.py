"""What FastAPI cannot see by itself: bodies that come as JSON or as a form, and problem documents for every error."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from spacte_client.types import Problem
from spacte_service.problems import INFERENCE_MEDIA_TYPE, INFERENCE_PATH, MEDIA_TYPE, PROBLEMS

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
REF = "#/components/schemas/{model}"

_body_models: set[type[BaseModel]] = set()


def _schema_of(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}


def problems(*statuses: int, media_type: str = MEDIA_TYPE) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these error statuses."""
    titles = dict(reversed(PROBLEMS.values()))  # of the codes that share a status, the first
    content = {media_type: {"schema": _schema_of(Problem)}}
    return {status: {"description": f"{titles[status]}.", "content": content} for status in statuses}


def described(*models: type[BaseModel]) -> None:
    """Describe models that travel in a form that OpenAPI has no words for, such as server-sent events."""
    _body_models.update(models)


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route that reads a JSON body by itself."""
    described(model)
    return _body({"application/json": {"schema": _schema_of(model)}})


def file_body(description: str) -> dict[str, Any]:
    """`openapi_extra=` of a route that reads a form of one `file` by itself."""
    file = {"type": "string", "format": "binary", "description": description}
    form = {"type": "object", "required": ["file"], "properties": {"file": file}}
    return _body({"multipart/form-data": {"schema": form}})


def either_body(params: type[BaseModel], *requests: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route that takes JSON (one of `requests`), a form of `image` and `params`, or an image."""
    described(params, *requests)
    refs = [_schema_of(model) for model in requests]
    several = len(refs) > 1
    file: dict[str, Any] = {"type": "string", "format": "binary", "description": "A PNG, JPEG, WebP or npy file."}
    form = {
        "type": "object",
        "required": ["image"],
        "additionalProperties": False,
        "properties": {
            "image": {"type": "array", "items": file, "minItems": 1} if several else file,
            "params": _schema_of(params),
        },
    }
    described_body = _body(
        {
            "application/json": {"schema": {"anyOf": refs} if several else refs[0]},
            "multipart/form-data": {"schema": form, "encoding": {"params": {"contentType": "application/json"}}},
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES},
        }
    )
    options = {
        "name": "params",
        "in": "query",
        "description": "Options, where the body is an image itself.",
        "content": {"application/json": {"schema": _schema_of(params)}},
    }
    return {**described_body, "parameters": [options]}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def add_openapi(app: FastAPI) -> None:
    """Make `app.openapi` include the models that routes read by themselves, and our problems for its own."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            models = sorted(_body_models | {Problem}, key=lambda model: model.__name__)
            _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REF)
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components.update(definitions["$defs"])
            for theirs in ("HTTPValidationError", "ValidationError"):
                components.pop(theirs, None)
            for path, operation in ((path, each) for path, all_ in schema["paths"].items() for each in all_.values()):
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    kind = INFERENCE_MEDIA_TYPE if path.startswith(INFERENCE_PATH) else MEDIA_TYPE
                    operation["responses"]["422"] = problems(422, media_type=kind)[422]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi
