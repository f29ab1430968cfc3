"""`/v1/files`: uploads, for jobs to certify."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from spacte_client.types import File, FileList
from spacte_service.auth import TheCaller, identify
from spacte_service.dependencies import InFlight, TheBodies, TheJobs, TheOpenJobs

from .descriptions import file_body, problems

router = APIRouter(
    prefix="/v1/files", tags=["files"], dependencies=[Depends(identify)], responses=problems(400, 401, 429)
)

Limit = Annotated[int, Query(ge=1, le=100, description="Entries in one page.")]
After = Annotated[str | None, Query(description="The last id of the page before.")]


@router.post(
    "", responses=problems(400, 413, 415, 422, 503), openapi_extra=file_body("An npz, zip, parquet or image file.")
)
async def upload_file(request: Request, caller: TheCaller, _: InFlight, bodies: TheBodies, jobs: TheJobs) -> File:
    """Upload an npz, a zip of images, a parquet file or an image. The same bytes are kept once."""
    if caller.quotas.upload_bytes is not None:
        opened = await jobs.opened()
        declared = request.headers.get("content-length", "")
        await opened.in_thread(opened.uploads.check_quota, caller, int(declared) if declared.isdigit() else 0)
    async with bodies.upload(request) as file:
        opened = await jobs.opened()
        return await opened.in_thread(opened.uploads.add, file.file, file.filename, caller)


@router.get("", responses=problems(404, 422))
async def list_files(jobs: TheOpenJobs, caller: TheCaller, limit: Limit = 20, after: After = None) -> FileList:
    """Files, newest first: those of the key's project, else those of the key; of an admin key, all."""
    return await jobs.in_thread(jobs.uploads.page, limit, after, caller)


@router.get("/{file_id}", responses=problems(404))
async def get_file(file_id: str, jobs: TheOpenJobs, caller: TheCaller) -> File:
    """One file."""
    return await jobs.in_thread(jobs.uploads.get, file_id, caller)


@router.delete("/{file_id}", status_code=204, responses=problems(404, 409))
async def delete_file(file_id: str, jobs: TheOpenJobs, caller: TheCaller) -> None:
    """Delete a file, unless a job needs it."""
    await jobs.in_thread(jobs.uploads.remove, file_id, caller)
