"""Promise: equal bytes are one file, and a file that a job needs stays."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from spacte_service.store.files import FileInUseError
from spacte_service.store.jobs import FileGoneError
from spacte_service.store.sessions import CursorError

from .conftest import a_file, a_job


def test_the_same_bytes_are_one_file(store, other):
    assert store.files.add(a_file()).id == "file_0"
    again = a_file()
    again.id = "file_again"
    assert other.files.add(again).id == "file_0"
    store.files.add(a_file(1))
    page, more = store.files.page(1, None)
    assert ([row.id for row in page], more) == (["file_1"], True)
    page, more = store.files.page(1, "file_1")
    assert ([row.id for row in page], more) == (["file_0"], False)
    with pytest.raises(CursorError):
        store.files.page(1, "file_9")


@pytest.mark.slow
@pytest.mark.parametrize("state", ["queued", "running", "cancelling", "interrupted"])
def test_a_file_that_a_job_needs_stays(store, state):
    store.files.add(a_file())
    store.jobs.add(a_job(file_id="file_0", state=state))
    with pytest.raises(FileInUseError, match="job_0"):
        store.files.remove("file_0", lambda row: None)
    store.jobs.move(store.jobs.get("job_0"), "succeeded")
    assert store.files.remove("file_0", lambda row: None).id == "file_0"
    assert store.files.remove("file_0", lambda row: None) is None
    assert store.jobs.get("job_0").file_id is None


def test_a_job_on_a_file_that_is_gone_is_not_written_down(store):
    with pytest.raises(FileGoneError):
        store.jobs.add(a_job(file_id="file_0"))
    assert store.jobs.get("job_0") is None


def test_deleting_a_file_while_a_job_comes_to_use_it(url, store):
    """Whoever is first wins, and never is there a job without its file."""
    for number in range(8):
        store.files.add(a_file(number))
        barrier = threading.Barrier(2)

        def remove(number=number, barrier=barrier):
            barrier.wait()
            try:
                return store.files.remove(f"file_{number}", lambda row: None) is not None
            except FileInUseError:
                return False

        def add(number=number, barrier=barrier):
            barrier.wait()
            try:
                store.jobs.add(a_job(number, file_id=f"file_{number}"))
            except FileGoneError:
                return False
            return True

        with ThreadPoolExecutor(2) as threads:
            removed, added = threads.submit(remove), threads.submit(add)
            assert removed.result() != added.result()
        if added.result():
            assert store.jobs.get(f"job_{number}").file_id == f"file_{number}"
