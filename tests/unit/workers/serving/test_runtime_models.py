"""The runtime's models: which are served, in which precision, and how they are replaced and withdrawn while serving."""

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from spacte_workers.engine import Engine
from spacte_workers.engine import selection as choice
from spacte_workers.engine.precision_rule import PrecisionRule
from spacte_workers.engine.self_checks import compare
from spacte_workers.errors import ModelLoadError, ModelNotFoundError, ModelNotReadyError, NotOneFunctionError
from spacte_workers.serving import pools
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime
from spacte_workers.shards import Votes

from .conftest import an_image, ask, cut_weights, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def test_a_model_trained_without_noise_is_refused(tmp_path: Path, make_checkpoint: Callable[..., str]) -> None:
    make_checkpoint(tmp_path / "clean", sigma=0.0)
    async with running(tmp_path) as runtime:
        assert runtime.models()[0].state == "failed"
        assert runtime.ready()["models"] != "ok"


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        (PrecisionRule(), "fp32"),
        (PrecisionRule(min_agreement=0.9), "bf16"),
        (PrecisionRule(allow_int8=True, min_agreement=0.9), "int8"),
    ],
)
async def test_what_an_operator_allows_auto_to_choose(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rule: PrecisionRule, chosen: str
) -> None:
    agreed = {"fp32": 1.0, "bf16": 0.95, "int8": 0.91}
    monkeypatch.setattr(
        choice, "compare", lambda form, *rows: replace(compare(form, *rows), agreement=agreed[form.precision])
    )
    monkeypatch.setattr(choice, "precision_rate", lambda name, *_: {"fp32": 1, "bf16": 2, "int8": 9}[name])
    async with running(folder, precision="auto", rule=rule) as runtime:
        assert (await runtime.certify(an_image(), ask(), request_id="req_1")).precision == chosen


async def test_without_models_it_is_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path) as runtime:
        assert runtime.models() == []
        assert runtime.ready()["models"] != "ok"
        with pytest.raises(ModelNotFoundError):
            await runtime.certify(an_image(), ask(), request_id="req")


async def test_a_replacement_drops_no_request(folder: Path, make_checkpoint: Callable[..., str]) -> None:
    async with running(folder) as runtime:
        old = runtime.models()[0].version
        long = asyncio.create_task(runtime.certify(an_image(), ask(n=60_000), request_id="req_long"))
        await asyncio.sleep(0.05)
        new = make_checkpoint(folder / "digits", seed=5)
        replacing = asyncio.create_task(runtime.load("digits"))
        swap: set[tuple[str, str | None, bool]] = set()
        async with asyncio.timeout(60):
            while (seen := runtime.models()[0]).version == old:
                swap |= {(seen.state, seen.target_version, seen.answers)}
                await asyncio.sleep(0.01)
        short = await runtime.certify(an_image(), ask(n=20), request_id="req_short")
        assert not replacing.done() or long.done()  # the old version is kept while it is used
        answered = await long
        await replacing
    assert answered.model_version == old
    assert sum(answered.counts) == 60_000
    assert short.model_version == new != old
    assert ("loading", new, True) in swap
    assert (seen.state, seen.target_version) == ("ready", None)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (cut_weights, "damaged"),
        (lambda model: (model / "config.json").write_text("{"), r"config\.json"),
        (lambda model: (model / "model.safetensors").unlink(), r"model\.safetensors"),
        (shutil.rmtree, "put it back"),
    ],
    ids=["cut", "config", "weights", "gone"],
)
async def test_a_replacement_that_is_broken_leaves_the_old_version_answering(
    folder: Path, make_checkpoint: Callable[..., str], break_it: Callable[[Path], None], reason: str
) -> None:
    async with running(folder) as runtime:
        break_it(folder / "digits")
        for _ in range(2):
            with pytest.raises(ModelLoadError, match=reason):
                await runtime.load("digits")
        assert runtime.models()[0].state == "ready"
        await runtime.certify(an_image(), ask(n=20), request_id="req")
        version = make_checkpoint(folder / "digits", seed=5)
        await runtime.load("digits")
        assert runtime.models()[0].version == version


class Keeping(LocalPool):
    """Remembers what it was told to forget."""

    def __init__(self) -> None:
        super().__init__(1)
        self.forgotten: list[str] = []

    async def unload(self, key: str) -> None:
        """Forget a model."""
        self.forgotten.append(key)
        await super().unload(key)


async def test_models_are_changed_while_old_versions_answer_their_last_requests(
    folder: Path, make_checkpoint: Callable[..., str]
) -> None:
    """And a version is forgotten only when it neither answers nor has a request left."""
    make_checkpoint(folder / "other", seed=1)
    pool = Keeping()
    runtime = Runtime(folder, pool, precision="fp32")
    await runtime.start()
    first = runtime.model("digits")
    leaving: list[asyncio.Task[None]] = []

    async def replace(seed: int) -> None:
        version = make_checkpoint(folder / "digits", seed=seed)
        leaving.append(asyncio.create_task(runtime.load("digits")))
        async with asyncio.timeout(60):
            while runtime.model("digits").version != version:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    try:
        with first.used():
            await replace(5)
            async with asyncio.timeout(60):
                await runtime.unload("other")
            second = runtime.model("digits")
            with second.used():
                await replace(0)
                assert runtime.model("digits").key == first.key
                await replace(5)
            await asyncio.gather(*leaving[1:])
            assert first.key not in pool.forgotten  # a request of its first time runs yet
        await asyncio.gather(*leaving)
        assert pool.forgotten[1:] == [first.key]
        await runtime.certify(an_image(), ask(n=20), request_id="req")
    finally:
        await runtime.stop()


async def test_other_models_do_not_wait_for_a_plain_network(
    folder: Path, make_checkpoint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the samplers load what the first `certify: fp32` of a model asks for, another one is swapped and withdrawn.

    Two such requests load it once.
    """
    version = make_checkpoint(folder / "other", seed=1)
    begun, goes_on, loads = threading.Event(), threading.Event(), list[str]()
    load_engine = pools.load_engine

    def slow_where_plain(model: pools.ModelFiles, device: str | None = None) -> tuple[Engine, pools.LoadReport]:
        if model.is_plain:
            loads.append(model.key)
            begun.set()
            assert goes_on.wait(60)
        return load_engine(model, device)

    monkeypatch.setattr(pools, "load_engine", slow_where_plain)
    async with running(folder) as runtime:
        asked = ask(model="digits", n=20, certify="fp32")
        certifying = [asyncio.create_task(runtime.certify(an_image(), asked, request_id=f"req-{i}")) for i in range(2)]
        try:
            assert await asyncio.to_thread(begun.wait, 60)
            async with asyncio.timeout(60):
                assert make_checkpoint(folder / "other", seed=5) != version
                await runtime.load("other")
                await runtime.unload("other")
            assert not any(each.done() for each in certifying)
        finally:
            goes_on.set()
            certificates = await asyncio.gather(*certifying)
    assert [certificate.precision for certificate in certificates] == ["fp32", "fp32"]
    assert len(loads) == 1


async def test_unload_and_load_again(folder: Path) -> None:
    async with running(folder) as runtime:
        await runtime.unload("digits")
        assert runtime.models()[0].state == "unloaded"
        with pytest.raises(ModelNotReadyError) as caught:
            await runtime.certify(an_image(), ask(), request_id="req")
        assert caught.value.state == "unloaded"
        await runtime.load("digits")
        await runtime.certify(an_image(), ask(n=20), request_id="req")
        with pytest.raises(ModelNotFoundError):
            await runtime.unload("nothing")


async def test_a_signed_model_with_one_changed_byte_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    encoding = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(*encoding))
    models = tmp_path / "models"
    models.mkdir()
    (folder / "digits").rename(models / "digits")
    async with running(models, signer=public) as runtime:
        (model,) = runtime.models()
        assert model.state == "failed"
        with pytest.raises(ModelLoadError, match=r"has no model\.sig: sign it"):
            await runtime.load("digits")
        command = [sys.executable, "-m", "model_signing", "sign", "key", str(models / "digits")]
        command += ["--signature", str(models / "digits" / "model.sig"), "--private_key", str(private)]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        await runtime.load("digits")
        await runtime.certify(an_image(), ask(n=20), request_id="req")
        weights = models / "digits" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(ModelLoadError, match=r"is not what was signed \(.*model\.safetensors"):
            await runtime.load("digits")
        assert runtime.models()[0].state == "ready"  # what was loaded before goes on answering


async def test_a_model_that_answers_otherwise_when_asked_again_is_withdrawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes_many = Engine.votes_many

    def wavering(engine: Engine, shards: Any) -> list[Votes]:
        found = votes_many(engine, shards)
        return [
            replace(votes, logits_NK=votes.logits_NK + 1e-6) if shard.again and votes.logits_NK is not None else votes
            for votes, (_, shard) in zip(found, shards, strict=True)
        ]

    async with running(folder) as runtime:
        assert (await runtime.certify(an_image(), ask(), request_id="req")).redrawn == 16
        monkeypatch.setattr(Engine, "votes_many", wavering)
        with pytest.raises(NotOneFunctionError, match="drawn again"):
            await runtime.certify(an_image(), ask(), request_id="req")
        with pytest.raises(ModelNotReadyError, match="is not served: Rows that were drawn again"):
            await runtime.certify(an_image(), ask(), request_id="req")
        assert [model.state for model in runtime.models()] == ["failed"]
        assert runtime.ready()["models"] == "No model is loaded."
        monkeypatch.undo()
        await runtime.load("digits")
        assert (await runtime.certify(an_image(), ask(), request_id="req")).redrawn == 16
