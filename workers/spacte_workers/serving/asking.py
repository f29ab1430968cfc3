"""What is asked of the runtime for one certificate."""

from dataclasses import dataclass
from typing import Any

from spacte_client.types import CertifyParams
from spacte_workers.shards import Image

from .clock import RequestClock


@dataclass(frozen=True, slots=True)
class Asking:
    """A request for a certificate: the pixels, what is asked, what determines the noises, its id and its times."""

    pixels: Image
    params: CertifyParams
    noises: dict[str, Any]
    request_id: str
    clock: RequestClock
