"""A fixed number of decoding processes, each of which is replaced when a file was too much for it."""

import math
import queue
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spacte_core.pictures import MAX_PIXELS
from spacte_core.preprocessing import Asked, Preprocessing, Steps
from spacte_workers.batch.inputs import Kind
from spacte_workers.images import BadImageError
from spacte_workers.shards import Image

from .process import TASKS, Answer, DecoderLostError, DecodingProcess

DECODER_BYTES = 512 << 20
"""Memory for one file. Chosen: a transparent photograph of 25 megapixels takes 475 MB while it is laid on white."""

IMAGE_S = 10.0
"""Time for one image. Chosen: a photograph of 25 megapixels takes a second on a busy machine."""

_STEPS = TypeAdapter(Steps | None)
_KINDS = TypeAdapter(Kind | None)
_ITEM_BYTES = {"uint8": 1, "float32": 4}


class Decoders:
    """Decoding processes, started when they are first needed. Its methods block; call them from several threads.

    Args:
        processes: files that are decoded at the same time; further ones wait.
        memory_bytes: what one file may take.
        tasks: module of the processes' tasks.

    Attributes:
        memory_bytes: as given.
        lost: processes that had to be replaced.
    """

    def __init__(self, processes: int = 1, memory_bytes: int = DECODER_BYTES, tasks: str = TASKS) -> None:
        self.lost = 0
        self.memory_bytes, self._tasks = memory_bytes, tasks
        self._closed = False
        self._free: queue.LifoQueue[DecodingProcess | None] = queue.LifoQueue()
        for _ in range(processes):
            self._free.put(None)

    def image(
        self,
        data: bytes,
        *,
        input_shape: Sequence[int],
        stated: Preprocessing | None = None,
        asked: Asked | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Image:
        """As `spacte_workers.images.decode_image`.

        Raises:
            BadImageError: for anything that does not give an image of that shape, within memory and time.
        """
        shape = tuple(input_shape)
        try:
            fields, values = self._call(
                "image", data, shape, stated, asked, max_pixels, seconds=IMAGE_S, most_bytes=4 * math.prod(shape)
            )
        except DecoderLostError:
            raise BadImageError(
                f"The image cannot be decoded within {IMAGE_S:g} s and {self.memory_bytes >> 20:,} MiB: save it anew, "
                "or scale it down."
            ) from None
        if "error" in fields:
            raise BadImageError(_image_sentence(fields))
        try:
            steps = _STEPS.validate_python(fields["steps"])
            size = math.prod(shape) * _ITEM_BYTES[fields["dtype"]]
        except (KeyError, ValidationError, TypeError) as error:
            raise BadImageError("The image is damaged: save it anew.") from error
        if len(values) != size:
            raise BadImageError("The image is damaged: save it anew.")
        channels, height, width = shape
        return Image(values, (channels, height, width), fields["dtype"], steps)

    def kind(self, path: Path) -> Kind | None:
        """As `spacte_workers.batch.inputs.kind_of`; a file that is too much for a process is `None`."""
        try:
            return _KINDS.validate_python(self._call("kind", str(path), seconds=IMAGE_S).fields.get("kind"))
        except (DecoderLostError, ValidationError):
            return None

    def close(self) -> None:
        """End the processes, those at work after it; what is decoded all the same gets a process for itself alone."""
        self._closed = True
        idle: list[DecodingProcess | None] = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._free.get_nowait())
        for process in idle:
            if process is not None:
                process.close()
            self._free.put(None)

    def take(self) -> DecodingProcess:
        """A process of one's own until `give_back`; waits for a free one. Raises OSError: none can be started."""
        free = self._free.get()
        if free is not None:
            return free
        try:
            return DecodingProcess(self.memory_bytes, self._tasks)
        except BaseException:
            self._free.put(None)
            raise

    def replacement(self) -> DecodingProcess:
        """A new process in place of a taken one that has ended. Raises OSError: none can be started."""
        process = DecodingProcess(self.memory_bytes, self._tasks)
        self.lost += 1
        return process

    def give_back(self, process: DecodingProcess) -> None:
        """Let others use a process; one that has ended is replaced at once, so that the next file need not wait."""
        if process.ended:
            self.lost += 1
            self._free.put(None if self._closed else self._another())
        elif self._closed:
            process.close()
            self._free.put(None)
        else:
            self._free.put(process)

    def _another(self) -> DecodingProcess | None:
        try:
            return DecodingProcess(self.memory_bytes, self._tasks)
        except OSError:  # the next file tries again, and says so
            return None

    def _call(self, task: str, *arguments: Any, seconds: float, most_bytes: int = 0) -> Answer:
        process = self.take()
        try:
            return process.call(task, *arguments, seconds=seconds, most_bytes=most_bytes)
        finally:
            self.give_back(process)


def _image_sentence(fields: dict[str, Any]) -> str:
    if fields["error"] == "BadImageError":
        return str(fields["detail"])
    if fields["error"] == "MemoryError":
        return "The image needs more memory to decode than there is here for one: scale it down."
    return "The image is damaged: save it anew."
