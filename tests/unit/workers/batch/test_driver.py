"""Promises of the driver: every image once, the same results however many samplers, bad rows are results too."""

import asyncio
import json
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.odd_pictures import colour, saved

from spacte_client.types import JobParams, JobSummary
from spacte_workers.batch.inputs import InputError, InputSpec
from spacte_workers.batch.job_folder import JobFolderError
from spacte_workers.batch.main import run_folder
from spacte_workers.batch.results import certificate_in, read_results
from spacte_workers.batch.summary import summarize_folder
from spacte_workers.certification.verify import check
from spacte_workers.decoding import Decoders
from spacte_workers.errors import RuntimeFault
from spacte_workers.serving.pools import LocalPool

from .conftest import IMAGES, SEED, a_driver, a_folder, a_spec, call_as_it_goes, without_times

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def test_every_image_once_with_its_true_class(undisturbed):
    from spacte_core.data.digits import load_digits

    _, labels = load_digits("test")
    assert sorted(undisturbed) == list(range(IMAGES))
    for index, record in undisturbed.items():
        assert record["true_label"] == labels[index]
        assert record["image_index"] == index
        assert record["id"] == f"job_1-{index}"
        assert record["correct"] == (record["label"] == labels[index])
        assert sum(record["counts"]) == 200
        assert record["seed"] == SEED
    assert len({tuple(record["selection_counts"]) for record in undisturbed.values()}) > 1


@pytest.mark.slow
async def test_the_number_of_samplers_changes_nothing(tmp_path, checkpoint, undisturbed):
    folder = a_folder(tmp_path, a_spec(checkpoint))
    await run_folder(folder, LocalPool(3))
    assert without_times(folder) == undisturbed


@pytest.mark.slow
async def test_images_whose_chosen_class_is_another_are_stopped_there(tmp_path, checkpoint, undisturbed):
    from spacte_core.data.digits import load_digits

    chosen = [votes.index(max(votes)) for votes in (undisturbed[i]["selection_counts"] for i in range(IMAGES))]
    labels = [label if i % 3 else (label + 1) % 10 for i, label in enumerate(chosen)]
    np.savez(tmp_path / "set.npz", images=load_digits("test")[0][:IMAGES], labels=labels)
    params = JobParams(n0=20, n=200, seed=SEED, stop_incorrect=True)
    spec = a_spec(checkpoint, params=params, input=InputSpec("file", str(tmp_path / "set.npz")))
    folder = a_folder(tmp_path / "job", spec)
    await run_folder(folder, LocalPool(1))
    certain = ("counts", "label", "radius", "p_lower", "n", "stop_reason", "outcome")
    for index, record in without_times(folder).items():
        assert record["selection_counts"] == undisturbed[index]["selection_counts"]
        assert record["expected"] == record["true_label"] == labels[index]
        if index % 3:
            assert [record[name] for name in certain] == [undisturbed[index][name] for name in certain]
        else:
            assert (record["n"], record["stop_reason"], record["outcome"]) == (0, "incorrect", "abstained")
    assert all(check(certificate_in(record)) == [] for record in read_results(folder.results_file))
    summary = summarize_folder(folder)
    assert (summary.incorrect, summary.labelled) == (IMAGES // 3, IMAGES)
    radii = [undisturbed[i]["radius"] for i in range(IMAGES) if i % 3 and not undisturbed[i]["abstained"]]
    assert summary.acr == pytest.approx(sum(radii) / IMAGES)


@pytest.mark.slow
async def test_an_image_is_certified_as_the_same_image_alone(checkpoint, undisturbed):
    from spacte_core.data.digits import load_digits
    from spacte_workers import LocalCertifier

    alone = LocalCertifier(checkpoint[0], precision="fp32")
    certificate = alone.certify(load_digits("test")[0][0], n0=20, n=200, seed=SEED)
    assert undisturbed[0]["counts"] == certificate.counts
    assert undisturbed[0]["radius"] == certificate.radius


@pytest.mark.slow
async def test_certificates_are_attacked_alike_by_every_driver(tmp_path, checkpoint, flaky):
    """The summary says how wide the brackets are; a driver that carries on finds what the first would have found."""
    spec = a_spec(checkpoint, params=JobParams(n0=20, n=1_000, seed=SEED, n_upper=2_000))
    calm = a_folder(tmp_path / "calm", spec)
    assert await run_folder(calm, LocalPool(1)) == "succeeded"
    disturbed, stop = a_folder(tmp_path / "disturbed", spec), asyncio.Event()
    driver = a_driver(disturbed, flaky)
    call_as_it_goes(driver, lambda done: stop.set())
    assert await driver.run(stop) == "interrupted"
    assert await run_folder(disturbed, LocalPool(1)) == "succeeded"
    found = without_times(calm)
    assert without_times(disturbed) == found
    attacked = [record for record in found.values() if record["attack_noises"] is not None]
    assert len(attacked) == sum(record["radius"] > 0 for record in found.values()) > 0
    assert all(record["upper"] is None or record["upper"] > record["radius"] for record in attacked)
    brackets = summarize_folder(calm).brackets
    gaps = [record["upper"] - record["radius"] for record in attacked if record["upper"] is not None]
    assert (brackets.images, brackets.bounded) == (len(attacked), len(gaps))
    for narrow in brackets.narrower:
        assert narrow.share == sum(gap < narrow.width for gap in gaps) / len(attacked)
    assert brackets.narrower[-1].share == len(gaps) / len(attacked)


@pytest.mark.slow
async def test_bad_rows_are_results_with_their_reason(tmp_path, checkpoint):
    images = np.random.default_rng(1).random((4, 1, 8, 8)).astype(np.float32)
    images[1] = 7.0
    images[2] = np.round(images[2] * 255) / 255
    np.savez(tmp_path / "set.npz", images=images, labels=[3, 1, 4, 1])
    spec = a_spec(checkpoint, input=InputSpec("file", str(tmp_path / "set.npz")))
    folder = a_folder(tmp_path / "job", spec)
    assert await run_folder(folder, LocalPool(1)) == "succeeded"
    records = {record["index"]: record for record in read_results(folder.results_file)}
    assert {i: record["outcome"] == "errored" for i, record in records.items()} == {
        0: True,  # between the steps of the 8-bit grid
        1: True,
        2: False,
        3: True,
    }
    assert records[1]["error"]["code"] == "bad_image"
    assert "must lie in [0, 1]" in records[1]["error"]["detail"]
    assert records[0]["error"]["code"] == "validation_failed"
    assert [records[i]["true_label"] for i in range(4)] == [3, 1, 4, 1]
    assert folder.progress()["counts"]["errored"] == 3
    summary = JobSummary.model_validate(json.loads(folder.summary_file.read_bytes()))
    assert (summary.images, summary.errored, summary.labelled) == (1, 3, 1)
    assert len(folder.tsv_file.read_text().splitlines()) == 2


async def test_images_that_kill_their_decoder_are_errored(tmp_path, checkpoint, monkeypatch):
    """Eight good images, two that end the process that decodes them, one that Pillow has no error for."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    monkeypatch.setattr("spacte_workers.decoding.Decoders", partial(Decoders, tasks="tests.faulty_tasks"))
    good = saved(colour(8, 8).convert("L"))
    faults = {"3.png": b"abort", "6.png": b"raise", "9.png": b"exit"}
    with zipfile.ZipFile(tmp_path / "eleven.zip", "w") as archive:
        for number in range(11):
            archive.writestr(f"{number:x}.png", faults.get(f"{number:x}.png", good))
    spec = a_spec(checkpoint, input=InputSpec("file", str(tmp_path / "eleven.zip")))
    folder = a_folder(tmp_path / "job", spec)
    assert await run_folder(folder, LocalPool(1)) == "succeeded"
    errored = {index: record["error"]["detail"] for index, record in without_times(folder).items() if "error" in record}
    assert sorted(errored) == [3, 6, 9]
    assert "cannot be decoded within" in errored[3]
    assert "is damaged" in errored[6]
    counts = folder.progress()["counts"]
    assert (counts["errored"], counts["certified"] + counts["abstained"]) == (3, 8)


async def test_many_small_images_do_not_grow_what_is_in_flight(tmp_path, checkpoint, flaky):
    """In flight are a second's worth of images, not the whole input."""
    spec = a_spec(
        checkpoint,
        input=InputSpec("dataset", "digits", split="train", limit=300),
        params=JobParams(n0=5, n=20, seed=SEED),
    )
    folder = a_folder(tmp_path, spec)
    driver = a_driver(folder, flaky)
    most = 0
    keep = driver._keep

    async def watched(first, stop):
        nonlocal most
        most = max(most, len(driver._tasks) + driver._finished.qsize())
        await keep(first, stop)

    driver._keep = watched
    began = time.monotonic()
    assert await driver.run() == "succeeded"
    speed = 300 / (time.monotonic() - began)
    assert len(without_times(folder)) == 300
    assert most <= 3 * speed + 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"input": InputSpec("file", "/nowhere/a.npz")}, InputError, "There is no file"),
        ({"model_version": "f" * 64}, JobFolderError, "has changed since the job began"),
        ({"checkpoint": "/nowhere/digits"}, RuntimeFault, "model"),
    ],
)
async def test_what_makes_a_job_impossible_is_said(tmp_path, checkpoint, changes, error, sentence):
    folder = a_folder(tmp_path, a_spec(checkpoint, **changes))
    with pytest.raises(error, match=sentence):
        await run_folder(folder, LocalPool(1))
    assert folder.progress()["state"] == "failed"
    assert sentence in folder.progress()["error"]["detail"]
