"""Bodies of tensors that come packed: clients of the Open Inference Protocol offer gzip and deflate.

Images are packed in their files, so that other bodies are taken as they are.
"""

import asyncio
import zlib

from .body_budget import Body
from .problems import INFERENCE_PATH, ProblemError

PACKINGS = ("gzip", "deflate")
"""Values of `Content-Encoding`."""

_EITHER = 32 + zlib.MAX_WBITS  # zlib tells the two apart by their first bytes
_STEP_BYTES = 1 << 20
"""Unpacked at once. Chosen: others wait for milliseconds, and a refusal comes before much is there."""


def packings(path: str) -> tuple[str, ...]:
    """The encodings that a body sent to a path may have."""
    return PACKINGS if path.startswith(INFERENCE_PATH) else ()


async def unpacked(raw: bytes, most: int, body: Body) -> bytes:
    """What was packed, which counts as the body does.

    Args:
        raw: the body as it came.
        most: bytes that it may have unpacked.
        body: its share of the memory for bodies.

    Raises:
        ProblemError: 413, it would have more bytes; 429, there is no memory for them; 400, it is not packed so, or cut.
    """
    packed, found = zlib.decompressobj(_EITHER), bytearray()
    try:
        while not packed.eof:
            step = packed.decompress(raw, _STEP_BYTES)
            raw = packed.unconsumed_tail
            found += step
            if len(found) > most:
                raise ProblemError("payload_too_large", f"Send a body that has at most {most:,} bytes unpacked.")
            body.grow(body.size + len(step))
            if not step and not raw:
                break
            await asyncio.sleep(0)
    except zlib.error:
        raise _damaged() from None
    if not packed.eof or packed.unused_data:
        raise _damaged()
    return bytes(found)


def _damaged() -> ProblemError:
    sentence = (
        "The body is not packed as its `Content-Encoding` says, or not whole; pack it again, or send it as it is."
    )
    return ProblemError("bad_request", sentence)
