"""Bodies of predict and certify: JSON with base64 images, or a form with image files and JSON `params`."""

import asyncio
import binascii
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from spacte_client.types import (
    CertifyParams,
    CertifyRequest,
    FileImage,
    ImageParams,
    ImageSource,
    JobRequest,
    PredictBatchRequest,
    PredictParams,
    PredictRequest,
)

from .body_budget import containers
from .callers import Caller
from .forms import parse_form
from .packed_bodies import PACKINGS, unpacked
from .problems import ProblemError, field_error, validation_failed
from .settings import LimitSettings
from .validation import pointer_to_nul

P = TypeVar("P", bound=ImageParams)
I = TypeVar("I", bytes, bytes | FileImage)  # noqa: E741
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

INLINE_BYTES = 64 * 1024  # chosen: to parse these takes less than the way to a thread and back

MOST_CONTAINERS = 200_000
"""Lists and objects in one JSON body. Chosen: 32 images of 3 x 1,024 rows as nested lists; an empty one, of two
characters, takes 64 bytes."""


@dataclass(frozen=True, slots=True)
class ParsedBody(Generic[P, I]):
    """Options and images of a request."""

    params: P  # validated
    images: tuple[I, ...]  # files, one or more; first some may be the ids of files that were uploaded before
    pointers: tuple[str, ...]  # JSON pointers to the images in the body, for errors about them
    is_list: bool = False  # whether the caller sent a list, and so expects one


Uploaded = Callable[[Caller, str, int], Awaitable[bytes]]
"""Gives the bytes of an image that was uploaded before, by its file's id, if they are not more than a limit."""


@dataclass(frozen=True)
class BodyReader:
    """Reads bodies within a time limit, parses the large ones in threads, and holds options against the limits.

    Images that were uploaded before come from `_uploaded`; together they have no more bytes than a body.
    """

    _limits: LimitSettings
    _threads: CapacityLimiter
    _uploaded: Uploaded

    async def certify(self, request: Request, caller: Caller) -> ParsedBody[CertifyParams, bytes]:
        """The body of a certify request. Raises ProblemError: it cannot be read, or a field is not as it should be."""
        return await self.of_one_image(request, caller, CertifyParams, CertifyRequest)

    async def of_one_image(
        self, request: Request, caller: Caller, params: type[P], schema: type[BaseModel]
    ) -> ParsedBody[P, bytes]:
        """The body of a request about one image: `schema` as JSON, or a form with `params`.

        Raises ProblemError: it cannot be read, or a field is not as it should be.
        """

        def from_json(raw: bytes) -> ParsedBody[P, bytes | FileImage]:
            return _one_image(params, validated(schema, parse_json(raw)))

        from_form = partial(_from_form, params=params, several=False)
        from_image = partial(_from_image, request, params)
        return await self._images_of(await self._read(request, from_json, from_form, from_image), caller)

    async def predict(self, request: Request, caller: Caller) -> ParsedBody[PredictParams, bytes]:
        """The body of a predict request, with one image or with several.

        Raises ProblemError: it cannot be read, or a field is not as it should be.
        """
        from_form = partial(_from_form, params=PredictParams, several=True)
        from_image = partial(_from_image, request, PredictParams)
        body = await self._images_of(await self._read(request, _predict_json, from_form, from_image), caller)
        if len(body.images) > self._limits.most_images:
            raise field_error("/images", f"Send at most {self._limits.most_images} images in one request.")
        if body.is_list and body.params.seed is not None:
            raise field_error("/seed", "A seed belongs to one image; send the images one by one.")
        return body

    async def job(self, request: Request) -> JobRequest:
        """The body of a request for a job, JSON only.

        Raises ProblemError: it cannot be read, or a field is not as it should be.
        """
        job = await self._read(request, _job_json, _no_form)
        self.check_limits(job.params)
        return job

    async def tensors(self, request: Request) -> bytes:
        """The body of a request that carries tensors, unpacked.

        Raises ProblemError: it did not arrive in time, or cannot be unpacked.
        """
        with _arriving(self._late()):
            async with asyncio.timeout(self._limits.body_timeout_s):
                raw = await request.body()
        if request.headers.get("content-encoding", "").strip().lower() not in PACKINGS:
            return raw
        return await unpacked(raw, self._limits.max_body_bytes, request.state.body)

    @asynccontextmanager
    async def upload(self, request: Request) -> AsyncGenerator[UploadFile]:
        """The file of an upload's form. It may be large: the time limit is for each piece of it.

        Raises ProblemError: it cannot be read, or there is no file.
        """
        if _media_type(request) != "multipart/form-data":
            raise ProblemError("unsupported_media_type", "Send multipart/form-data with the part `file`.")
        with _arriving(f"Nothing of the body came for {self._limits.body_timeout_s:g} s; send the file again."):
            form = await parse_form(request, self._limits.body_timeout_s)
        try:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise field_error("/file", "Send `file` as a file part, with a file name.")
            yield file
        finally:
            await form.close()

    async def _images_of(self, body: ParsedBody[P, bytes | FileImage], caller: Caller) -> ParsedBody[P, bytes]:
        """The body with the bytes of all its images."""
        found: dict[str, bytes] = {}
        images: list[bytes] = []
        for image in body.images:
            if isinstance(image, FileImage):
                if image.file_id not in found:
                    left = self._limits.max_body_bytes - sum(map(len, found.values()))
                    found[image.file_id] = await self._uploaded(caller, image.file_id, left)
                image = found[image.file_id]
            images.append(image)
        self.check_limits(body.params)
        return ParsedBody(body.params, tuple(images), body.pointers, body.is_list)

    def check_limits(self, params: ImageParams) -> None:
        """Hold a request's options against the operator's limits. Raises ProblemError: 422 that names the limit."""
        limits = self._limits
        most = {"n": limits.n_max, "n0": limits.n0_max, "n_upper": limits.n_max, "deadline_ms": limits.deadline_ms_max}
        for name, limit in most.items():
            value = getattr(params, name, None)
            if value is not None and value > limit:
                raise field_error(
                    f"/{name}",
                    f"`{name}` is at most {limit:,} at this gateway (`GET /v1/info` shows its limits); ask for less.",
                )
        for name in ("alpha", "alpha_upper"):
            if getattr(params, name, 1.0) < limits.alpha_min:
                raise field_error(
                    f"/{name}", f"`{name}` is at least {limits.alpha_min:g} at this gateway; ask for more."
                )
        if params.seed is not None and not limits.allow_client_seed:
            sentence = "The service draws the seed; leave `seed` out, or have SPACTE_ALLOW_CLIENT_SEED set."
            raise field_error("/seed", sentence)

    def _late(self) -> str:
        return f"The body did not arrive within {self._limits.body_timeout_s:g} s; send it faster or make it smaller."

    async def _read(
        self,
        request: Request,
        from_json: Callable[[bytes], T],
        from_form: Callable[[FormData], Awaitable[T]],
        from_image: Callable[[bytes], T] | None = None,
    ) -> T:
        kind = _media_type(request)
        with _arriving(self._late()):
            async with asyncio.timeout(self._limits.body_timeout_s):
                if kind == "multipart/form-data":
                    form = await parse_form(request)
                    try:
                        return await from_form(form)
                    finally:
                        await form.close()
                raw = await request.body()
        if kind.startswith("image/") and from_image is not None:
            return from_image(raw)
        if kind and kind != "application/json" and not kind.endswith("+json"):
            image = ", or an image as the body (image/png, say)" if from_image is not None else ""
            sentence = f"Send application/json or multipart/form-data{image}; not {kind[:64]}."
            raise ProblemError("unsupported_media_type", sentence)
        return await self.parse(request, from_json, raw)

    async def parse(self, request: Request, from_json: Callable[[bytes], T], raw: bytes) -> T:
        """What `from_json` makes of the JSON of a body: in a thread and within the memory for bodies if it is large.

        Raises ProblemError: there is no memory for it, and what `from_json` raises.
        """
        if len(raw) <= INLINE_BYTES:
            return from_json(raw)
        async with self._threads:
            with request.state.body.parsing(raw):
                return await to_thread.run_sync(from_json, raw)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@contextmanager
def _arriving(late: str) -> Generator[None]:
    """Raise as a problem that a body did not come in time, for which `late` is the sentence, or at all."""
    try:
        yield
    except TimeoutError:
        raise ProblemError("bad_request", late) from None
    except ClientDisconnect:
        raise ProblemError("bad_request", "The connection was closed before the body had arrived.") from None


def _job_json(raw: bytes) -> JobRequest:
    if not raw.strip():
        raise ProblemError("bad_request", "The body is empty; send the job's `input`.")
    return validated(JobRequest, parse_json(raw))


async def _no_form(_: FormData) -> Any:
    sentence = "Send application/json; upload the file with POST /v1/files first, and name it in `input`."
    raise ProblemError("unsupported_media_type", sentence)


def parse_json(raw: bytes | str) -> Any:
    """A JSON value. Whole numbers may be written `1e4`; NaN, infinities and what no float holds may not.

    Raises ProblemError: it is not JSON, or has a NUL in a text, which databases do not keep.
    """
    if not raw.strip():
        raise ProblemError("bad_request", "The body is empty; send an image and the model's name.")
    if containers(raw) > MOST_CONTAINERS:
        sentence = f"The JSON has more than {MOST_CONTAINERS:,} lists and objects, which take much memory; send fewer."
        raise ProblemError("payload_too_large", sentence)
    try:
        value = json.loads(raw, parse_float=_number, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        at = isinstance(error, json.JSONDecodeError)
        reason = f"{error.msg} at character {error.pos}" if at else "it is malformed"
        raise ProblemError("bad_request", f"The body is not JSON: {reason}; check how it was encoded.") from None
    # A NUL is written so, or the text is UTF-16 or UTF-32.
    may_have_nul = (b"\\u0000" in raw or b"\0" in raw) if isinstance(raw, bytes) else "\\u0000" in raw
    pointer = pointer_to_nul(value) if may_have_nul else None
    if pointer is not None:
        raise field_error(pointer, "A text has a NUL character, which no name here has; leave that out.")
    return value


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value  # what a float holds exactly


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _predict_json(raw: bytes) -> ParsedBody[PredictParams, bytes | FileImage]:
    body: Any = parse_json(raw)
    if not (isinstance(body, dict) and "images" in body):
        return _one_image(PredictParams, validated(PredictRequest, body))
    request = validated(PredictBatchRequest, body)
    pointers = tuple(f"/images/{i}" for i in range(len(request.images)))
    images = tuple(map(_bytes_of, request.images, pointers))
    return ParsedBody(_options(PredictParams, request), images, pointers, is_list=True)


def _one_image(params: type[P], request: Any) -> ParsedBody[P, bytes | FileImage]:
    return ParsedBody(_options(params, request), (_bytes_of(request.image, "/image"),), ("/image",))


def _options(params: type[P], request: Any) -> P:
    """The request without its images, which are large and already decoded."""
    return params.model_construct(**{name: getattr(request, name) for name in params.model_fields})


def _from_image(request: Request, params: type[P], raw: bytes) -> ParsedBody[P, bytes | FileImage]:
    """A body that is the image itself; its options are in the query, as JSON."""
    unknown = next((name for name in request.query_params if name != "params"), None)
    if unknown is not None:
        sentence = f'Put `{unknown[:64]}` into `params`, such as ?params={{"n": 1000}}, where the body is an image.'
        raise field_error(f"/{unknown}", sentence)
    options: Any = parse_json(request.query_params["params"]) if "params" in request.query_params else {}
    return ParsedBody(validated(params, options), (raw,), ("/image",))


async def _from_form(form: FormData, *, params: type[P], several: bool) -> ParsedBody[P, bytes | FileImage]:
    files: list[UploadFile] = []
    options: Any = {}
    for name, value in form.multi_items():
        if name == "image" and isinstance(value, UploadFile):
            files.append(value)
        elif name == "image":
            raise field_error("/image", "Send `image` as a file part, with a file name.")
        elif name == "params":
            options = parse_json(_options_text(await value.read() if isinstance(value, UploadFile) else value))
        else:
            sentence = "The form has the parts `image` and `params` only; put options into `params`."
            raise field_error(f"/{name}", sentence)
    if not files:
        raise field_error("/image", "`image` is required: send the image as a file part of that name.")
    if len(files) > 1 and not several:
        raise field_error("/image", "Send one image; a batch of images is a job, or several requests.")
    images = [await file.read() for file in files]
    pointers = [f"/images/{i}" for i in range(len(images))] if len(images) > 1 else ["/image"]
    return ParsedBody(validated(params, options), tuple(images), tuple(pointers), len(images) > 1)


def _options_text(text: bytes | str) -> bytes | str:
    """The part `params` of a form, which is parsed at once."""
    if len(text) > INLINE_BYTES:
        raise ProblemError("payload_too_large", f"Send `params` of at most {INLINE_BYTES:,} bytes; they are options.")
    return text


def validated(model: type[M], body: Any) -> M:
    """`body` as a wire model; strict, so that `"10"` and `true` are not numbers.

    Raises ProblemError: 422 with a pointer to each field at fault.
    """
    try:
        return model.model_validate(body, strict=True)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise validation_failed(errors, body, tuple(model.model_fields)) from None


def _bytes_of(source: ImageSource, pointer: str) -> bytes | FileImage:
    if isinstance(source, FileImage):
        return source
    try:
        return binascii.a2b_base64(source.data, strict_mode=True)
    except (binascii.Error, ValueError):
        hint = " without the `data:...,` in front" if source.data.startswith("data:") else ""
        sentence = f"Send plain base64 of the file's bytes{hint}, without line breaks."
        raise field_error(f"{pointer}/data", sentence) from None
