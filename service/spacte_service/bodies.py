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
    ImageSource,
    JobRequest,
    PredictBatchRequest,
    PredictParams,
    PredictRequest,
)

from .forms import parse_form, read_form
from .problems import ProblemError, field_error, validation_failed

P = TypeVar("P", bound=PredictParams)
T = TypeVar("T")

SMALL = 64 * 1024
"""Bodies up to this size are parsed on the event loop: quicker than the way to a thread and back."""


@dataclass(frozen=True, slots=True)
class Work(Generic[P]):
    """A request as read: options, and the bytes of its image files.

    Attributes:
        params: validated options.
        images: one or more image files.
        pointers: where in the body each image was, for errors about it.
        batch: whether the caller sent a list, and so expects a list.
    """

    params: P
    images: tuple[bytes, ...]
    pointers: tuple[str, ...]
    batch: bool = False


@dataclass(frozen=True, slots=True)
class _Asked(Generic[P]):
    """A body as parsed: like `Work`, but images that were uploaded before are only named."""

    params: P
    images: tuple[bytes | FileImage, ...]
    pointers: tuple[str, ...]
    batch: bool = False


Uploaded = Callable[[str, int], Awaitable[bytes]]
"""Gives the bytes of an image that was uploaded before, by its file's id, if they are not more than a limit."""


class BodyReader:
    """Reads bodies within a time limit and parses the large ones in threads.

    Args:
        timeout_s: time in which a body must have arrived.
        threads: shared with the decoding of images.
        uploaded: finds images that were uploaded before.
        max_bytes: most bytes of such images in one request.
    """

    def __init__(self, timeout_s: float, threads: CapacityLimiter, uploaded: Uploaded, max_bytes: int) -> None:
        self.timeout_s = timeout_s
        self.threads = threads
        self._uploaded = uploaded
        self._max_bytes = max_bytes

    async def certify(self, request: Request) -> Work[CertifyParams]:
        """The body of a certify request.

        Raises:
            ProblemError: it cannot be read, or a field is not as it should be.
        """
        from_form = partial(_from_form, params=CertifyParams, several=False)
        return await self._whole(await self._read(request, _certify_json, from_form))

    async def predict(self, request: Request) -> Work[PredictParams]:
        """The body of a predict request, with one image or with several.

        Raises:
            ProblemError: it cannot be read, or a field is not as it should be.
        """
        from_form = partial(_from_form, params=PredictParams, several=True)
        return await self._whole(await self._read(request, _predict_json, from_form))

    async def job(self, request: Request) -> JobRequest:
        """The body of a request for a job, JSON only.

        Raises:
            ProblemError: it cannot be read, or a field is not as it should be.
        """
        return await self._read(request, _job_json, _no_form)

    @asynccontextmanager
    async def upload(self, request: Request) -> AsyncGenerator[UploadFile]:
        """The file of an upload's form. It may be large: the time limit is for each piece of it.

        Raises:
            ProblemError: it cannot be read, or there is no file.
        """
        if _kind(request) != "multipart/form-data":
            raise ProblemError("unsupported_media_type", "Send multipart/form-data with the part `file`.")
        with _arriving(f"Nothing of the body came for {self.timeout_s:g} s; send the file again."):
            form = await parse_form(request, self.timeout_s)
        try:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise field_error("/file", "Send `file` as a file part, with a file name.")
            yield file
        finally:
            await form.close()

    async def _whole(self, asked: _Asked[P]) -> Work[P]:
        """The request with the bytes of all its images."""
        found: dict[str, bytes] = {}
        images: list[bytes] = []
        for image in asked.images:
            if isinstance(image, FileImage):
                if image.file_id not in found:
                    left = self._max_bytes - sum(map(len, found.values()))
                    found[image.file_id] = await self._uploaded(image.file_id, left)
                image = found[image.file_id]
            images.append(image)
        return Work(asked.params, tuple(images), asked.pointers, asked.batch)

    async def _read(
        self, request: Request, from_json: Callable[[bytes], T], from_form: Callable[[FormData], Awaitable[T]]
    ) -> T:
        kind = _kind(request)
        late = f"The body did not arrive within {self.timeout_s:g} s; send it faster or make it smaller."
        with _arriving(late):
            async with asyncio.timeout(self.timeout_s):
                if kind == "multipart/form-data":
                    async with read_form(request) as form:
                        return await from_form(form)
                raw = await request.body()
        if kind and kind != "application/json" and not kind.endswith("+json"):
            sentence = f"Send application/json or multipart/form-data, not {kind[:64]}."
            raise ProblemError("unsupported_media_type", sentence)
        if len(raw) <= SMALL:
            return from_json(raw)
        return await to_thread.run_sync(from_json, raw, limiter=self.threads)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@contextmanager
def _arriving(late: str) -> Generator[None]:
    """Raise as a problem that a body did not come in time, for which `late` is the sentence, or at all."""
    try:
        yield
    except TimeoutError:
        raise ProblemError("bad_request", late) from None
    except ClientDisconnect:
        sentence = "The connection was closed before the body had arrived."
        raise ProblemError("bad_request", sentence) from None


def _job_json(raw: bytes) -> JobRequest:
    if not raw.strip():
        raise ProblemError("bad_request", "The body is empty; send the job's `input`.")
    return validated(JobRequest, parse_json(raw))


async def _no_form(_: FormData) -> Any:
    sentence = "Send application/json; upload the file with POST /v1/files first, and name it in `input`."
    raise ProblemError("unsupported_media_type", sentence)


def parse_json(raw: bytes | str) -> Any:
    """A JSON value. Whole numbers may be written `1e4`; NaN, infinities and what no float holds may not.

    Raises:
        ProblemError: it is not JSON.
    """
    if not raw.strip():
        raise ProblemError("bad_request", "The body is empty; send an image and the model's name.")
    try:
        return json.loads(raw, parse_float=_number, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = (
            f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "it is malformed"
        )
        raise ProblemError("bad_request", f"The body is not JSON: {reason}; check how it was encoded.") from None


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _certify_json(raw: bytes) -> _Asked[CertifyParams]:
    request = validated(CertifyRequest, parse_json(raw))
    return _Asked(_options(CertifyParams, request), (_bytes_of(request.image, "/image"),), ("/image",))


def _predict_json(raw: bytes) -> _Asked[PredictParams]:
    body: Any = parse_json(raw)
    if not (isinstance(body, dict) and "images" in body):
        request = validated(PredictRequest, body)
        return _Asked(_options(PredictParams, request), (_bytes_of(request.image, "/image"),), ("/image",))
    batch = validated(PredictBatchRequest, body)
    pointers = tuple(f"/images/{i}" for i in range(len(batch.images)))
    images = tuple(map(_bytes_of, batch.images, pointers))
    return _Asked(_options(PredictParams, batch), images, pointers, batch=True)


def _options(params: type[P], request: P) -> P:
    """The request without its images, which are large and already decoded."""
    return params.model_construct(**{name: getattr(request, name) for name in params.model_fields})


async def _from_form(form: FormData, *, params: type[P], several: bool) -> _Asked[P]:
    files: list[UploadFile] = []
    options: Any = {}
    for name, value in form.multi_items():
        if name == "image" and isinstance(value, UploadFile):
            files.append(value)
        elif name == "image":
            raise field_error("/image", "Send `image` as a file part, with a file name.")
        elif name == "params":
            text = await value.read() if isinstance(value, UploadFile) else value
            options = parse_json(text)
        else:
            raise field_error(
                f"/{name}", "The form has the parts `image` and `params` only; put options into `params`."
            )
    if not files:
        raise field_error("/image", "`image` is required: send the image as a file part of that name.")
    if len(files) > 1 and not several:
        raise field_error("/image", "Send one image; a batch of images is a job, or several requests.")
    images = [await file.read() for file in files]
    pointers = [f"/images/{i}" for i in range(len(images))] if len(images) > 1 else ["/image"]
    return _Asked(validated(params, options), tuple(images), tuple(pointers), len(images) > 1)


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], body: Any) -> M:
    """`body` as a wire model; strict, so that `"10"` and `true` are not numbers.

    Raises:
        ProblemError: 422 with a pointer to each field at fault.
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
        raise field_error(
            f"{pointer}/data", f"Send plain base64 of the file's bytes{hint}, without line breaks."
        ) from None
