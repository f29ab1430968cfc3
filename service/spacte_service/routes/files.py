"""`/v1/files`: uploads, for jobs to certify."""

from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request

from spacte_client.types import File, FileList
from spacte_service.auth import identify
from spacte_service.gateway import TheGateway
from spacte_service.openapi import file_body, problems

router = APIRouter(prefix="/v1/files", tags=["files"], dependencies=[Depends(identify)], responses=problems(401))

Limit = Annotated[int, Query(ge=1, le=100, description="Entries in one page.")]
After = Annotated[str | None, Query(description="The last id of the page before.")]


@router.post(
    "", responses=problems(400, 413, 415, 422, 503), openapi_extra=file_body("An npz, zip, parquet or image file.")
)
async def upload_file(request: Request, gateway: TheGateway) -> File:
    """Upload an npz, a zip of images, a parquet file or an image. The same bytes are kept once."""
    with gateway.work():
        async with gateway.bodies.upload(request) as file:
            batch = await gateway.batch.opened()
            add = partial(batch.uploads.add, file.file, file.filename)
            return await to_thread.run_sync(add, limiter=gateway.batch.threads)


@router.get("", responses=problems(404, 422))
async def list_files(gateway: TheGateway, limit: Limit = 20, after: After = None) -> FileList:
    """Files, newest first."""
    batch = await gateway.batch.opened()
    return await to_thread.run_sync(batch.uploads.page, limit, after, limiter=gateway.batch.threads)


@router.get("/{file_id}", responses=problems(404))
async def get_file(file_id: str, gateway: TheGateway) -> File:
    """One file."""
    batch = await gateway.batch.opened()
    return await to_thread.run_sync(batch.uploads.get, file_id, limiter=gateway.batch.threads)


@router.delete("/{file_id}", status_code=204, responses=problems(404, 409))
async def delete_file(file_id: str, gateway: TheGateway) -> None:
    """Delete a file, unless a job needs it."""
    batch = await gateway.batch.opened()
    await to_thread.run_sync(batch.uploads.remove, file_id, limiter=gateway.batch.threads)
