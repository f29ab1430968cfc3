"""A call for each of many items, a few at a time, answered in order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def map_in_order(call: Callable[[A], B], items: Iterable[A], concurrency: int) -> Iterator[B]:
    """`call` of each item, in order, `concurrency` at a time in threads.

    Items are taken as they are needed, so `items` may be endless. The first failure is raised in its turn;
    calls not yet begun are dropped then, and also when the caller stops early.
    """
    remaining = iter(items)
    pending: deque[Future[B]] = deque()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="spacte-client")
    try:
        pending.extend(pool.submit(call, item) for item in islice(remaining, concurrency))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(call, item) for item in islice(remaining, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


async def amap_in_order(call: Callable[[A], Awaitable[B]], items: Iterable[A], concurrency: int) -> AsyncIterator[B]:
    """`call` of each item, in order, `concurrency` at a time; see `map_in_order`."""
    remaining = iter(items)
    pending: deque[asyncio.Future[B]] = deque()
    try:
        pending.extend(asyncio.ensure_future(call(item)) for item in islice(remaining, concurrency))
        while pending:
            yield await pending[0]
            pending.popleft()
            pending.extend(asyncio.ensure_future(call(item)) for item in islice(remaining, 1))
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
