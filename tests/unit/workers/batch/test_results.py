"""Promises: a counted image is on disk whatever dies; a torn line is cut off; one driver at a time."""

import json
import os
import subprocess
import sys
import time

import pytest

from spacte_client.types import JobParams
from spacte_workers.batch.chains import line_sha256
from spacte_workers.batch.inputs import InputSpec
from spacte_workers.batch.job_folder import JobFolder, JobFolderError, JobSpec, read_json, write_json
from spacte_workers.batch.results import ResultsLog, read_results
from spacte_workers.batch.summary import summarize
from spacte_workers.statistics.metrics import most_false


def line(index, outcome="certified"):
    return {"index": index, "outcome": outcome, "note": "ü" * 20}


SPEC = JobSpec(
    id="job_1",
    model="digits",
    model_version="00",
    checkpoint="/models/digits",
    precision="fp32",
    input=InputSpec("file", "/data/a.npz", roots=("/data",)),
    params=JobParams(n=500, seed="0" * 32, target_radius=0.25),
)


def test_what_is_appended_is_read_back_in_order(tmp_path):
    log = ResultsLog(tmp_path / "results.ndjson")
    log.append([line(3), line(1, "abstained")])
    log.append([line(7, "errored")])
    log.close()
    again = ResultsLog(tmp_path / "results.ndjson")
    assert again.finished == {1, 3, 7}
    assert again.counts == {"certified": 1, "abstained": 1, "errored": 1}
    assert again.cut == 0
    assert [record["index"] for record in read_results(tmp_path / "results.ndjson")] == [3, 1, 7]


def test_a_line_torn_at_any_byte_is_cut_off_and_nothing_else(tmp_path):
    path = tmp_path / "results.ndjson"
    log = ResultsLog(path)
    log.append([line(0), line(1)])
    log.close()
    whole = path.read_bytes()
    last = line(2) | {"previous_sha256": line_sha256(whole.splitlines()[-1])}
    torn = (json.dumps(last, separators=(",", ":")) + "\n").encode()
    for length in range(1, len(torn)):
        path.write_bytes(whole + torn[:length])
        log = ResultsLog(path)
        assert (log.finished, log.cut) == ({0, 1}, length)
        log.append([line(2)])
        log.close()
        assert path.read_bytes() == whole + torn


@pytest.mark.parametrize("damage", [b"\0" * 40 + b"\n", b"{}\n", b'{"index":5}\n', b"[1]\n", b"\xff\n"])
def test_lines_after_a_damaged_one_are_certified_once_more(tmp_path, damage):
    path = tmp_path / "results.ndjson"
    log = ResultsLog(path)
    log.append([line(0)])
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + damage + whole.replace(b'"index":0', b'"index":9'))
    assert [record["index"] for record in read_results(path)] == [0]
    log = ResultsLog(path)
    assert log.finished == {0}
    assert path.read_bytes() == whole


def test_no_image_is_counted_twice(tmp_path):
    log = ResultsLog(tmp_path / "results.ndjson")
    log.append([line(0)])
    with pytest.raises(ValueError, match="certified twice"):
        log.append([line(1), line(0)])
    assert log.finished == {0}
    log.close()
    assert len(list(read_results(tmp_path / "results.ndjson"))) == 1


def test_nothing_is_counted_when_the_disk_is_full(tmp_path):
    log = ResultsLog(tmp_path / "results.ndjson")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._fd)
    os.close(full)
    with pytest.raises(OSError, match="No space left"):
        log.append([line(0)])
    assert log.finished == set()
    log.close()


WRITER = """
import sys
from pathlib import Path
from spacte_workers.batch.results import ResultsLog
log = ResultsLog(Path(sys.argv[1]))
for index in range(10**9):
    log.append([{"index": index, "outcome": "certified", "fill": "x" * 5000}])
    print(index, flush=True)
"""


@pytest.mark.parametrize("round_", range(3))
def test_every_counted_image_survives_kill_9(tmp_path, round_):
    path = tmp_path / "results.ndjson"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    for _ in range(20 + 17 * round_):
        writer.stdout.readline()
    time.sleep(0.01 * round_)
    writer.kill()
    counted = writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    log = ResultsLog(path)
    assert log.finished == set(range(len(log.finished)))
    if counted:
        assert int(counted[-1]) in log.finished
    log.close()


def test_the_spec_comes_back_as_it_went(tmp_path):
    folder = JobFolder(tmp_path / "job")
    folder.create(SPEC)
    assert folder.spec() == SPEC
    with pytest.raises(JobFolderError, match="holds a job already"):
        folder.create(SPEC)
    with pytest.raises(JobFolderError, match="holds no job"):
        JobFolder(tmp_path / "other").spec()
    write_json(folder.spec_file, SPEC.to_json() | {"schema_version": 99})
    with pytest.raises(JobFolderError, match="another version"):
        folder.spec()


def test_small_files_are_replaced_as_a_whole(tmp_path):
    path = tmp_path / "progress.json"
    assert read_json(path) is None
    for value in range(3):
        write_json(path, {"value": value})
    assert read_json(path) == {"value": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["progress.json"]


HOLDER = """
import sys, time
from pathlib import Path
from spacte_workers.batch.job_folder import JobFolder
with JobFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_kept_out_until_the_first_is_dead(tmp_path):
    folder = JobFolder(tmp_path)
    assert not folder.at_work()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert folder.at_work()
    with pytest.raises(JobFolderError, match="Another driver is at work"), folder.locked():
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not folder.at_work()
    with folder.locked():
        assert folder.at_work()


def test_a_summary_is_about_the_images_begun():
    """The first to finish are no random choice; images that cannot be certified are not about votes."""
    record = {"outcome": "certified", "abstained": False, "sigma": 1.0, "alpha": 0.01, "correct": None}
    lines = [record | {"begun": 200}, {"outcome": "errored", "begun": 256}, record | {"begun": 256}]
    summary = summarize(lines)
    assert (summary.images, summary.errored, summary.begun) == (2, 1, 255)
    assert summary.max_false == most_false(255, 0.01, 0.01) > most_false(2, 0.01, 0.01)
    assert "the 255 images begun, of which 2 are finished" in summary.statement
    assert summarize([record]).begun == 1
