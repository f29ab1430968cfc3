"""What every page of a list carries: the cursor of the next page is the last id of this one."""

from pydantic import Field

from ._base import AnswerModel


class PageInfo(AnswerModel):
    """Where a page lies in its list, newest first."""

    has_more: bool = Field(description="Whether an older page follows; ask for it with `after=last_id`.")
    first_id: str | None = Field(default=None, description="Id of the first entry, or null when the page is empty.")
    last_id: str | None = Field(default=None, description="Id of the last entry, or null when the page is empty.")
