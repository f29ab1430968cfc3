"""Promise: a model behind an endpoint is certified as if it were here, or nothing is, in one clear sentence."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.small_endpoint import SmallEndpoint
from tests.small_engine import on_threads
from torch import nn
from typer.testing import CliRunner

from spacte_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from spacte_core.cli import import_app
from spacte_core.models.endpoint import EndpointConfig
from spacte_workers import LocalCertifier
from spacte_workers.certification.verify import check, notes, replay
from spacte_workers.endpoints.importing import import_endpoint
from spacte_workers.endpoints.pacing import Pace
from spacte_workers.engine import Engine
from spacte_workers.errors import BadParameterError, EndpointError, EndpointFaultError
from spacte_workers.images import from_array

pytestmark = pytest.mark.slow
SHAPE, CLASSES = (3, 8, 8), 4
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
SEED = "ab" * 16


class Rows(nn.Module):
    """A classifier whose arithmetic does not hang on the size of the batch."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(CLASSES, 3 * 8 * 8) / 4)

    def forward(self, x):
        return (x.flatten(1)[:, None] * self.weight).sum(2).contiguous()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from on_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def endpoint():
    with SmallEndpoint(Rows(), SHAPE, CLASSES) as found:
        yield found


def described(folder, endpoint, **fields):
    """A TOML file that describes it."""
    fields = {"url": endpoint.url, "output": "scores", "rows": 8, "retries": 1, "timeout_s": 2.0, **fields}
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for name, value in fields.items()
    ]
    (folder / "endpoint.toml").write_text("\n".join(["[endpoint]", *lines]))
    return str(folder / "endpoint.toml")


def imported(folder, endpoint, **fields) -> Path:
    classes = CLASSES if fields.get("protocol") == "json" or fields.get("kind") == "label" else None
    shape = SHAPE if fields.get("protocol") == "json" else None
    told = described(folder, endpoint, **fields)
    save_checkpoint(folder / "remote", *import_endpoint(told, sigma=0.25, input_shape=shape, classes=classes))
    return folder / "remote"


def here(**options):
    return LocalCertifier(Rows(), sigma=0.25, num_classes=CLASSES, input_shape=SHAPE, precision="fp32", **options)


def certify(certifier, **options):
    return certifier.certify(PIXELS, **{"n0": 20, "n": 400, "seed": SEED, **options})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"binary": False},
        {"layout": "NHWC"},
        {"rows": 1},
        {"rows": 5, "connections": 3},
        {"kind": "label", "output": "class"},
        {"protocol": "json"},
    ],
)
def test_votes_are_those_of_the_model_itself(tmp_path, endpoint, fields):
    endpoint.layout = fields.get("layout", "NCHW")
    certifier = LocalCertifier(imported(tmp_path, endpoint, **fields), device="cpu")
    answer = certify(certifier)
    # The noise key names the function, so that its votes are compared on the very same noises.
    image = from_array(PIXELS, input_shape=SHAPE)
    assert replay(answer, here(device="cpu").engine, image) == []
    assert sum(answer.counts) == 400
    assert max(answer.counts) < 400, "the votes are of several classes, or equality says little"
    assert replay(answer, certifier.engine, image) == []


def test_a_certificate_says_that_its_function_is_remote(tmp_path, endpoint):
    answer = certify(LocalCertifier(imported(tmp_path, endpoint), device="cpu"))
    remote = answer.remote
    assert (remote.url, remote.protocol, remote.output) == (endpoint.url, "v2", "logits")
    assert (remote.model_name, remote.model_version) == ("net", "1")
    assert answer.versions["kernels"] == "endpoint"
    assert check(answer) == []
    assert any(endpoint.url in note and "trusted" in note for note in notes(answer))
    assert certify(here(device="cpu")).remote is None


def test_a_model_on_the_page_s_command_line(tmp_path, endpoint):
    out = tmp_path / "remote"
    told = described(tmp_path, endpoint)
    result = CliRunner().invoke(import_app, [told, "--sigma", "0.25", "--out", str(out)])
    assert result.exit_code == 0, result.output
    config = load_checkpoint(out).config
    assert (config.model.arch, config.model.input_shape, config.model.num_classes) == ("endpoint", SHAPE, CLASSES)


FAULTS = {
    "count": (lambda z: z[:-1], "scores of shape"),
    "classes": (lambda z: z[:, :-1], "scores of shape"),
    "NaN": (lambda z: np.where(z == z.max(), np.nan, z), "NaN or infinite"),
    "infinite": (lambda z: np.where(z == z.max(), np.inf, z), "NaN or infinite"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("binary", [True, False])
def test_nonsense_ends_in_one_sentence(tmp_path, endpoint, name, binary):
    certifier = LocalCertifier(imported(tmp_path, endpoint, binary=binary), device="cpu")
    endpoint.spoil, words = FAULTS[name]
    with pytest.raises(EndpointFaultError, match=words):
        certify(certifier)


@pytest.mark.parametrize(("datatype", "words"), [("INT64", "no floating-point"), ("BYTES", "BYTES"), ("BF16", "BF16")])
def test_another_type_ends_in_one_sentence(tmp_path, endpoint, datatype, words):
    certifier = LocalCertifier(imported(tmp_path, endpoint), device="cpu")
    endpoint.datatype = datatype
    with pytest.raises(EndpointFaultError, match=words):
        certify(certifier)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "JSON"),
        (b"[]", "JSON"),
        (b'{"outputs": 3}', "no outputs"),
        (b'{"outputs": []}', "no output 'scores'"),
        (b'{"outputs": [{"name": "scores", "datatype": "FP32", "shape": [8, 4], "data": [1.0]}]}', "other numbers"),
        (b'{"outputs": [{"name": "scores", "datatype": "FP32", "shape": "x", "data": [1.0]}]}', "without a shape"),
    ],
)
def test_what_is_no_answer_ends_in_one_sentence(tmp_path, endpoint, body, words):
    certifier = LocalCertifier(imported(tmp_path, endpoint), device="cpu")
    endpoint.body = body
    with pytest.raises(EndpointFaultError, match=words):
        certify(certifier)


def test_a_refusal_is_not_asked_for_again(tmp_path, endpoint):
    certifier = LocalCertifier(imported(tmp_path, endpoint, connections=1), device="cpu")
    endpoint.status, endpoint.begun = 422, []
    with pytest.raises(EndpointFaultError, match=r"422 \(go away\)"):
        certify(certifier)
    assert len(endpoint.begun) == 1


def test_a_request_that_failed_is_repeated_with_the_same_rows(tmp_path, endpoint):
    certifier = LocalCertifier(imported(tmp_path, endpoint, connections=1), device="cpu")
    undisturbed = certify(certifier)
    endpoint.failures = 1
    assert certify(certifier).counts == undisturbed.counts


def test_an_endpoint_that_is_gone(tmp_path, endpoint):
    certifier = LocalCertifier(imported(tmp_path, endpoint), device="cpu")
    endpoint.kill()
    with pytest.raises(EndpointError, match=r"cannot be reached.*2 times in a row"):
        certify(certifier)


def test_an_endpoint_that_dies_in_the_middle(tmp_path, endpoint):
    certifier = LocalCertifier(imported(tmp_path, endpoint, retries=0), device="cpu")
    after = endpoint.requests + 20

    def die(logits):
        if endpoint.requests >= after:
            endpoint.status = 500
        return logits

    endpoint.spoil = die
    with pytest.raises(EndpointError, match="status 500"):
        certify(certifier)


def test_an_endpoint_that_is_slow(tmp_path, endpoint):
    certifier = LocalCertifier(imported(tmp_path, endpoint, retries=0, timeout_s=0.3), device="cpu")
    endpoint.pause = 1.0
    with pytest.raises(EndpointError, match="cannot be reached"):
        certify(certifier)


def test_a_model_that_is_exchanged_in_the_middle(tmp_path, endpoint):
    """A change by a hundredth of a weight is noticed before anything is certified."""
    certifier = LocalCertifier(imported(tmp_path, endpoint), device="cpu")
    other = Rows()
    with torch.no_grad():
        other.weight[0, 0] += 0.01
    after = endpoint.requests + 30

    def exchange(logits):
        if endpoint.requests >= after:
            endpoint.module = other
        return logits

    endpoint.spoil = exchange
    with pytest.raises(EndpointFaultError, match="was changed"):
        certify(certifier)


def test_a_model_that_states_another_version(tmp_path, endpoint):
    certifier = LocalCertifier(imported(tmp_path, endpoint), device="cpu")
    endpoint.version = "2"
    with pytest.raises(EndpointFaultError, match=r"its version is '?2'? now and was '1'"):
        certify(certifier)


def test_a_model_that_was_exchanged_is_not_loaded(tmp_path, endpoint):
    folder = imported(tmp_path, endpoint)
    endpoint.module = Rows(seed=1)
    with pytest.raises(EndpointFaultError, match="import it again"):
        LocalCertifier(folder, device="cpu")


def test_no_endpoint_that_answers_by_chance(tmp_path, endpoint):
    endpoint.spoil = lambda z: z + np.random.default_rng().normal(size=z.shape).astype(np.float32)
    with pytest.raises(CheckpointError, match="one fixed classifier"):
        imported(tmp_path, endpoint)


def test_roundings_of_another_place_are_allowed_for(tmp_path, endpoint):
    """What a graphics processor does: the last bits hang on the batch."""
    endpoint.spoil = lambda z: z * np.float32(1 + 1e-6 * (endpoint.requests % 3))
    folder = imported(tmp_path, endpoint, connections=1)
    assert 0 < load_checkpoint(folder).config.model.endpoint.rounding < 1e-4
    assert certify(LocalCertifier(folder, device="cpu")).n == 400


def test_a_token_comes_from_the_environment(tmp_path, endpoint, monkeypatch):
    monkeypatch.setenv("SPACTE_ENDPOINT_TEST", "s3cret")
    folder = imported(tmp_path, endpoint, token_variable="SPACTE_ENDPOINT_TEST")
    certifier = LocalCertifier(folder, device="cpu")
    assert endpoint.headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in certify(certifier).model_dump_json()
    assert not any(b"s3cret" in file.read_bytes() for file in folder.iterdir())
    monkeypatch.delenv("SPACTE_ENDPOINT_TEST")
    with pytest.raises(EndpointError, match="SPACTE_ENDPOINT_TEST"):
        LocalCertifier(folder, device="cpu")


def test_no_other_secret_of_the_environment_is_sent():
    with pytest.raises(ValueError, match="token_variable"):
        EndpointConfig(url="http://host/v2/models/x", token_variable="AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize("url", ["http://a:b@host/x", "http://host/x?key=1", "ftp://host/x", "host"])
def test_an_address_holds_no_secrets(url):
    with pytest.raises(ValueError, match="url"):
        EndpointConfig(url=url)


def test_noises_are_within_the_budget(tmp_path, endpoint):
    folder = imported(tmp_path, endpoint, price_per_1000_rows=2.0, budget_per_certificate=1.0)
    certifier = LocalCertifier(folder, device="cpu")
    before = endpoint.requests
    with pytest.raises(BadParameterError, match=r"536 noises cost 1\.072 .* budget for an answer is 1: .*at most 464"):
        certify(certifier, n=500)
    assert endpoint.requests == before, "nothing was asked"
    assert certify(certifier, n=464).n == 464


def test_a_limit_of_requests_a_second_holds_for_all_who_ask(endpoint):
    paces = [Pace(endpoint.url, 50), Pace(endpoint.url, 50)]
    started = time.monotonic()
    for turn in range(10):
        paces[turn % 2].wait()
    assert 9 / 50 <= time.monotonic() - started < 2


def test_what_it_asks_of_an_endpoint(tmp_path, endpoint):
    """A certificate costs its own rows, a few more to fill requests, and fixed rows now and then."""
    certifier = LocalCertifier(imported(tmp_path, endpoint, rows=8), device="cpu")
    before = endpoint.rows
    answer = certify(certifier, n=2000)
    assert 2036 <= endpoint.rows - before < 1.5 * 2036
    assert answer.n == 2000


def test_other_precisions_and_functions_are_refused(tmp_path, endpoint):
    folder = imported(tmp_path, endpoint)
    from spacte_workers.engine.errors import EngineError

    with pytest.raises(EngineError, match="as it answers there"):
        LocalCertifier(folder, device="cpu", precision="bf16")


def test_several_outputs_have_to_be_told_apart(tmp_path, endpoint):
    with pytest.raises(CheckpointError, match="the outputs scores, class: name one"):
        import_endpoint(endpoint.url, sigma=0.25)


def test_the_rate_counts_the_look_whether_the_model_is_the_same(tmp_path, endpoint):
    """So that estimates and waits that are told are not half of what they come to."""
    checkpoint = load_checkpoint(imported(tmp_path, endpoint, connections=1))
    endpoint.pause = 0.1
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    assert engine.measured_rate <= engine.batch / (2 * endpoint.pause)
