"""A job of twelve digits, its driver, and a certifier that can be made to fail: what the tests of jobs share."""

import asyncio

import pytest
import pytest_asyncio

from spacte_client.types import JobParams
from spacte_workers.batch.driver import Driver
from spacte_workers.batch.inputs import InputSpec, open_source
from spacte_workers.batch.job_folder import JobFolder, JobSpec
from spacte_workers.batch.main import run_folder
from spacte_workers.batch.results import read_results
from spacte_workers.images import decode_image
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime

SEED = "00112233445566778899aabbccddeeff"
IMAGES = 12
TIMES = ("begun", "elapsed_ms", "queue_ms", "created_at", "previous_sha256")  # the last is a hash over the others


def a_spec(made, **changes):
    """Of a job with a checkpoint, given as its folder and version."""
    folder, version = made
    values = {
        "id": "job_1",
        "model": "digits",
        "model_version": version,
        "checkpoint": str(folder),
        "precision": "fp32",
        "input": InputSpec("dataset", "digits", limit=IMAGES),
        "params": JobParams(n0=20, n=200, seed=SEED),
        "seed_source": "caller",
    }
    return JobSpec(**(values | changes))


def a_folder(path, spec):
    folder = JobFolder(path)
    folder.create(spec)
    return folder


def without_times(folder):
    """Everything in the log but the times, by index; an index that is there twice fails."""
    found = {}
    for record in read_results(folder.results_file):
        assert record["index"] not in found
        found[record["index"]] = {name: value for name, value in record.items() if name not in TIMES}
    return found


def a_driver(folder, certifier, **changes):
    spec = folder.spec()
    source = open_source(spec.input, (1, 8, 8))
    values = {"input_shape": (1, 8, 8), "samplers": lambda: 1}
    return Driver(folder, spec, source, certifier, **(values | changes))


def call_as_it_goes(driver, callback):
    """Call with the number of images that are done, whenever the driver has kept some."""
    keep = driver._keep

    async def wrapped(first, stop):
        await keep(first, stop)
        callback(len(driver._log.finished))

    driver._keep = wrapped


class Flaky:
    """A certifier in front of the real one, for what real ones do rarely."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.calls = []
        self.faults = {}

    def decode(self, model, data, asked=None):
        return decode_image(data, input_shape=(1, 8, 8), asked=asked)

    async def certify(self, image, params, *, image_index, priority, **options):
        self.calls.append(image_index)
        assert priority == "batch"
        if faults := self.faults.get(image_index):
            raise faults.pop()
        return await self.runtime.certify(image, params, image_index=image_index, priority=priority, **options)

    async def adversarial(self, image, spec, model):
        return await self.runtime.adversarial(image, spec, model)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, make_checkpoint):
    """Its folder and its version."""
    folder = tmp_path_factory.mktemp("models") / "digits"
    return folder, make_checkpoint(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, checkpoint):
    """The results of the job when nothing goes wrong."""
    folder = a_folder(tmp_path_factory.mktemp("job"), a_spec(checkpoint))
    assert asyncio.run(run_folder(folder, LocalPool(1))) == "succeeded"
    return without_times(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(checkpoint):
    runtime = Runtime(checkpoint[0], LocalPool(1), precision="fp32", allow_client_seed=True)
    await runtime.start()
    yield runtime
    await runtime.stop()


@pytest.fixture
def flaky(runtime):
    return Flaky(runtime)
