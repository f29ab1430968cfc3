"""Pages of a list, newest first. Iterating a page goes on through the pages after it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, TypeVar

from ._constants import LARGEST_PAGE
from ._exceptions import InvalidArgumentError
from .types import File, Job, PageInfo

T = TypeVar("T", File, Job)


class _Page(Generic[T]):
    """What both kinds of page hold; see `Page`."""

    def __init__(self, data: list[T], info: PageInfo) -> None:
        self.data = data
        self.has_more = info.has_more
        self.first_id = info.first_id
        self.last_id = info.last_id


class Page(_Page[T]):
    """One page.

    Attributes:
        data: the entries of this page.
        has_more: whether older entries follow.
        first_id: id of its first entry, or None.
        last_id: id of its last entry, or None: the cursor of the next page.
    """

    def __init__(self, data: list[T], info: PageInfo, fetch_after: "Callable[[str], Page[T]]") -> None:
        super().__init__(data, info)
        self._fetch_after = fetch_after

    def next_page(self) -> "Page[T] | None":
        """The page after this one, or None on the last."""
        return self._fetch_after(self.last_id) if self.has_more and self.last_id else None

    def __iter__(self) -> Iterator[T]:
        """Every entry from here to the end of the list, fetching pages as needed."""
        page: Page[T] | None = self
        while page is not None:
            yield from page.data
            page = page.next_page()


class AsyncPage(_Page[T]):
    """One page; see `Page` for its attributes."""

    def __init__(self, data: list[T], info: PageInfo, fetch_after: "Callable[[str], Awaitable[AsyncPage[T]]]") -> None:
        super().__init__(data, info)
        self._fetch_after = fetch_after

    async def next_page(self) -> "AsyncPage[T] | None":
        """The page after this one, or None on the last."""
        return await self._fetch_after(self.last_id) if self.has_more and self.last_id else None

    async def __aiter__(self) -> AsyncIterator[T]:
        """Every entry from here to the end of the list, fetching pages as needed."""
        page: AsyncPage[T] | None = self
        while page is not None:
            for entry in page.data:
                yield entry
            page = await page.next_page()


def page_query(*, limit: int | None, **filters: str | None) -> dict[str, str]:
    """The query of a list; an `InvalidArgumentError` where `limit` is out of range."""
    if limit is not None and not 1 <= limit <= LARGEST_PAGE:
        raise InvalidArgumentError(f"`limit` is the size of a page, 1 to {LARGEST_PAGE}; iterate for more.")
    return {name: str(value) for name, value in {"limit": limit, **filters}.items() if value is not None}
