"""The gateway's decoding processes: for pictures of requests, and for inputs of jobs."""

from collections.abc import Sequence

from spacte_core.preprocessing import Asked, Preprocessing
from spacte_workers.decoding import Decoders
from spacte_workers.shards import Image

from .settings import LimitSettings

INPUT_PROCESSES = 2  # chosen: while one has the input whose pictures are looked at, another one opens a new job's


class Decoding:
    """Starts no process before there is something to decode. Its methods block: call them in threads.

    Attributes:
        pictures: for one picture after the other.
        inputs: each holds one input while that is open.
    """

    def __init__(self, limits: LimitSettings) -> None:
        count = limits.decode_processes
        self.pictures = Decoders(count, limits.picture_bytes // count)
        self.inputs = Decoders(INPUT_PROCESSES, limits.input_bytes // INPUT_PROCESSES)
        self._max_pixels = limits.max_pixels

    def image(
        self, data: bytes, *, input_shape: Sequence[int], stated: Preprocessing | None, asked: Asked | None
    ) -> Image:
        """The pixels of an image file. Raises BadImageError."""
        return self.pictures.image(
            data, input_shape=input_shape, stated=stated, asked=asked, max_pixels=self._max_pixels
        )

    def close(self) -> None:
        """End the processes."""
        self.pictures.close()
        self.inputs.close()
