"""Uploaded files: what a job certifies when its input is not on the service's side."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from ._base import AnswerModel, PageInfo

__all__ = ["File", "FileKind", "FileList"]

FileKind = Literal["npz", "zip", "parquet", "image"]


class File(AnswerModel):
    """An uploaded file. Uploading the same bytes twice gives the same file."""

    id: str = Field(description="`file_...`")
    bytes: int = Field(ge=0, description="Size.")
    sha256: str = Field(description="SHA-256 of the bytes, 64 hex digits.")
    kind: FileKind = Field(description="What the bytes are, told from the bytes and not from the name.")
    filename: str | None = Field(default=None, description="The name that it was uploaded under.")
    created_at: datetime = Field(description="When it was first uploaded, UTC.")


class FileList(PageInfo):
    """Answer of `GET /v1/files`: one page, newest first."""

    data: list[File] = Field(description="The files of this page.")
