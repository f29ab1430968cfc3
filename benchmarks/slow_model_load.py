"""A crowd before a model so slow that few of its requests can be answered: certificates, refusals, honest waits.

    python -m benchmarks.slow_model_load [--seconds 60] [--callers 50] [--n 1000 | --each 2] [--size 64] [--out FILE]

Serves a ResNet-18 with fresh weights, or the model of `--models`, with the defaults of `spacte serve --in-process`.
One caller alone, before and after the crowd, says how many certificates the samplers make one after the other; then
the crowd asks for `--seconds`, each caller waiting as long as `Retry-After` says. What is reported comes from one run:
the certificates of the crowd for each one made in line, and how long refused callers had to wait for each second that
they were told at first.
"""

import argparse
import asyncio
import contextlib
import io
import json
import logging
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image as Pillow

from .common import give_out
from .gateway_load import gateway
from .machine import this_machine

SIGMA = 0.25
CLASSES = 10
PROBE = 5_000  # noises to see how many `--each` is; chosen: a few calls to the samplers


@dataclass
class Seen:
    """What the callers of the crowd got."""

    answers_s: list[float] = field(default_factory=list)
    refusals: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)  # told at first, and until it was taken in
    others: Counter[str] = field(default_factory=Counter)


def save_resnet(folder: Path, size: int) -> None:
    """A ResNet-18 with fresh weights for images of that size."""
    import torch
    from torchvision.models import resnet18

    from spacte_workers import save_model

    torch.manual_seed(0)
    save_model(resnet18(num_classes=CLASSES), folder, sigma=SIGMA, input_shape=(3, size, size))


def png(number: int, shape: list[int]) -> bytes:
    """A picture of a caller's own, in the model's input shape."""
    channels, height, width = shape
    pixels = np.random.RandomState(number).randint(0, 256, (height, width, channels)).astype(np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(file, "PNG")
    return file.getvalue()


async def ask(http: httpx2.AsyncClient, image: bytes, n: int) -> httpx2.Response:
    """One request for a certificate."""
    return await http.post("/v1/certify", files={"image": ("a.png", image)}, data={"params": json.dumps({"n": n})})


async def in_line(http: httpx2.AsyncClient, shape: list[int], n: int, seconds: float) -> list[float]:
    """The seconds of each certificate of one caller who asks again and again."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        (await ask(http, png(len(times), shape), n)).raise_for_status()
        times.append(time.monotonic() - began)
    return times


async def crowd(http: httpx2.AsyncClient, shape: list[int], n: int, callers: int, seconds: float) -> Seen:
    """Callers that wait as they are told, until the time is over; what is not answered by then does not count."""
    seen = Seen()

    async def caller(number: int) -> None:
        image, refused_at, told_s = png(number, shape), 0.0, 0.0
        while True:
            asked_at = time.monotonic()
            answer = await ask(http, image, n)
            if answer.status_code == 429:
                seen.refusals += 1
                pause_s = float(answer.headers["retry-after"])
                if not told_s:
                    refused_at, told_s = asked_at, pause_s
                await asyncio.sleep(pause_s)
                continue
            if answer.status_code != 200:
                seen.others[f"status {answer.status_code}"] += 1
                continue
            seen.answers_s.append(time.monotonic() - asked_at)
            if told_s:
                seen.waits.append((told_s, asked_at - refused_at))
                told_s = 0.0

    tasks = [asyncio.create_task(caller(number)) for number in range(callers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seen


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """One caller, the crowd, and the one caller again."""
    limits = httpx2.Limits(max_connections=options.callers, max_keepalive_connections=options.callers)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        shape = (await http.get("/v1/models")).json()["data"][0]["input_shape"]
        if options.each:
            (warm_up,) = await in_line(http, shape, PROBE, 0.001)
            (probe,) = await in_line(http, shape, PROBE, 0.001)
            options.n = max(PROBE, round(PROBE * options.each / min(warm_up, probe)))
        alone = await in_line(http, shape, options.n, options.seconds / 4)
        seen = await crowd(http, shape, options.n, options.callers, options.seconds)
        await until_idle(http)
        wasted = await wasted_noises(http)
        alone += await in_line(http, shape, options.n, options.seconds / 4)
    possible = options.seconds * len(alone) / sum(alone)
    ratios = [waited / told for told, waited in seen.waits]
    return {
        "callers": options.callers,
        "n": options.n,
        "input_shape": shape,
        "seconds": options.seconds,
        "possible_in_line": round(possible, 1),
        "certificates": len(seen.answers_s),
        "ratio": round(len(seen.answers_s) / possible, 3),
        "longest_answer_s": round(max(seen.answers_s, default=0.0), 1),
        "refused": seen.refusals,
        "anything_else": dict(seen.others),
        "refused_and_taken_in": len(ratios),
        "waited_for_each_second_told": [round(float(q), 2) for q in np.quantile(ratios or [0.0], [0, 0.5, 1])],
        "wasted_noises": wasted,
    }


async def until_idle(http: httpx2.AsyncClient) -> None:
    """Wait until what the crowd left has been dropped."""
    for _ in range(600):
        if 'spacte_inflight_images{class="interactive"} 0.0' in (await http.get("/metrics")).text:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("requests of callers that are gone are still worked on")


async def wasted_noises(http: httpx2.AsyncClient) -> dict[str, float]:
    """Noises that no answer counts, by reason, and all that were drawn."""
    text = (await http.get("/metrics")).text
    found = re.findall(r'spacte_samples_wasted_total{.*reason="(\w+)"} (\S+)', text)
    drawn = sum(float(value) for value in re.findall(r"spacte_samples_drawn_total{.*} (\S+)", text))
    return {reason: float(value) for reason, value in found} | {"drawn": drawn}


def report(result: dict[str, Any]) -> str:
    """The result as a page."""
    least, median, most = result["waited_for_each_second_told"]
    return f"""# A crowd before a slow model

{datetime.now(UTC):%Y-%m-%d}. {this_machine()}, shared with other work; gateway and samplers in one
process with the defaults, the callers in another one on the same cores; a ResNet-18 of input {result["input_shape"]},
n = {result["n"]:,}.

    python -m benchmarks.slow_model_load

{result["callers"]} callers for {result["seconds"]:g} s, each back when `Retry-After` says.

| | |
|---|---|
| certificates that one caller gets in that time, measured before and after | {result["possible_in_line"]} |
| certificates of the crowd | {result["certificates"]} ({result["ratio"]:.2f} of these) |
| the longest of their answers | {result["longest_answer_s"]} s |
| refused (429) | {result["refused"]} |
| anything else | {result["anything_else"] or "none"} |
| seconds waited until taken in, for each second told at first: least, median, most | {least}, {median}, {most} |
| callers that were refused and taken in later | {result["refused_and_taken_in"]} |
| noises drawn, and wasted by reason | {result["wasted_noises"]} |
"""


def main() -> None:
    """Measure, and print or write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--each", type=float, help="in place of --n: so many noises as take about these seconds")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the gateway does not outlive its crowd
    with contextlib.ExitStack() as stack:
        if options.models is None and options.url is None:
            options.models = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spacte-resnet-")))
            save_resnet(options.models / "resnet18", options.size)
        url = stack.enter_context(gateway(options))
        result = asyncio.run(measure(url, options))
    text = json.dumps(result) + "\n" if options.json else report(result)
    give_out(text, options.out)


if __name__ == "__main__":
    main()
