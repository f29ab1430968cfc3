"""Pages of a list, newest first. Iterating a page goes on through the pages after it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, TypeVar

from ._exceptions import InvalidArgumentError
from .types import File, FileList, Job, JobList

T = TypeVar("T", File, Job)

LARGEST_PAGE = 100


class Page(Generic[T]):
    """One page.

    Attributes:
        data: the entries of this page.
        has_more: whether older entries follow.
        first_id: id of its first entry, or None.
        last_id: id of its last entry, or None: the cursor of the next page.
    """

    def __init__(self, data: list[T], listed: JobList | FileList, turn: Callable[[str], "Page[T]"]) -> None:
        self.data = data
        self.has_more = listed.has_more
        self.first_id = listed.first_id
        self.last_id = listed.last_id
        self._turn = turn

    def next_page(self) -> "Page[T] | None":
        """The page after this one, or None on the last."""
        return self._turn(self.last_id) if self.has_more and self.last_id else None

    def __iter__(self) -> Iterator[T]:
        """Every entry from here to the end of the list, fetching pages as needed."""
        page: Page[T] | None = self
        while page is not None:
            yield from page.data
            page = page.next_page()


class AsyncPage(Generic[T]):
    """One page; see `Page` for its attributes."""

    def __init__(
        self, data: list[T], listed: JobList | FileList, turn: Callable[[str], Awaitable["AsyncPage[T]"]]
    ) -> None:
        self.data = data
        self.has_more = listed.has_more
        self.first_id = listed.first_id
        self.last_id = listed.last_id
        self._turn = turn

    async def next_page(self) -> "AsyncPage[T] | None":
        """The page after this one, or None on the last."""
        return await self._turn(self.last_id) if self.has_more and self.last_id else None

    async def __aiter__(self) -> AsyncIterator[T]:
        """Every entry from here to the end of the list, fetching pages as needed."""
        page: AsyncPage[T] | None = self
        while page is not None:
            for entry in page.data:
                yield entry
            page = await page.next_page()


def page_query(limit: int | None, after: str | None) -> dict[str, str]:
    """The query of a list.

    Raises:
        InvalidArgumentError: `limit` is out of range.
    """
    if limit is not None and not 1 <= limit <= LARGEST_PAGE:
        raise InvalidArgumentError(f"`limit` is the size of a page, 1 to {LARGEST_PAGE}; iterate for more.")
    query: dict[str, str] = {}
    if limit is not None:
        query["limit"] = str(limit)
    if after is not None:
        query["after"] = after
    return query
