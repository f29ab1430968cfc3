"""Promise: a model elsewhere is fetched from where the operator allows, as the pinned version, or not at all."""

import functools
import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import fsspec
import pytest

from spacte_client.types import CertifyParams
from spacte_core.checkpoint import read_config
from spacte_workers.errors import ModelLoadError
from spacte_workers.serving.model_sources import ModelSource, ModelSources, sources_of
from spacte_workers.serving.model_store import ModelStore
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime
from spacte_workers.serving.served_model import ServedModel
from spacte_workers.shards import Image

ROOT = "memory://bucket/models"
FILES = ("config.json", "model.safetensors")


@pytest.fixture
def bucket() -> Iterator[Any]:
    """fsspec's file system in memory, empty."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def publish(bucket: Any, make_checkpoint: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """`publish(place, seed=)` puts a checkpoint into the bucket; gives the source that pins it."""

    def put(place: str, **options: Any) -> str:
        version = make_checkpoint(tmp_path / "made", **options)
        for file in FILES:
            bucket.pipe_file(f"/{place}/{file}", (tmp_path / "made" / file).read_bytes())
        return f"memory://{place}#sha256={version}"

    return put


@pytest.fixture
def sources(tmp_path: Path) -> ModelSources:
    return ModelSources(tmp_path / "fetched", [ROOT])


def leftovers(folder: Path) -> list[str]:
    """What is in the folder of fetched models, besides empty folders."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_is_fetched_once_and_kept_under_its_version(
    sources: ModelSources, publish: Callable[..., str], bucket: Any, tmp_path: Path
) -> None:
    source = ModelSource.parse(publish("bucket/models/digits"))
    bucket.pipe_file("/bucket/models/digits/diagnosis.json", b"{}")
    place = sources.fetch("digits", source)
    assert place == tmp_path / "fetched" / source.version / "digits"
    assert sorted(path.name for path in place.iterdir()) == ["config.json", "diagnosis.json", "model.safetensors"]
    bucket.store.clear()
    assert sources.fetch("digits") == place
    assert sources.folders() == [place]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
            "holds version .*: pin that one, or put the right",
        ),
        (lambda text: text.replace("digits", "nothing"), "There is no file .*nothing/config.json"),
        (
            lambda text: text.replace("bucket/models", "bucket/secrets"),
            "below no prefix that is allowed .*--model-roots",
        ),
        (lambda text: text.replace("bucket/models", "bucket/models-of-others"), "below no prefix that is allowed"),
        (lambda text: text.replace("bucket/models", "bucket/models/../secrets"), "leave out .*`..`"),
        (lambda text: text.replace("memory:", "gopher:"), "no driver for gopher: URIs"),
        (lambda text: text.replace("memory://", "memory://me:secret@"), "carries no credentials"),
    ],
)
def test_what_is_not_allowed_or_not_as_pinned_leaves_nothing(
    sources: ModelSources, publish: Callable[..., str], tmp_path: Path, change: Callable[[str], str], sentence: str
) -> None:
    text = change(publish("bucket/models/digits"))
    with pytest.raises(ModelLoadError, match=sentence) as refused:
        sources.fetch("digits", ModelSource.parse(text))
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")
    assert leftovers(tmp_path) == ["made/config.json", "made/model.safetensors"]
    assert sources.names() == []


def test_a_file_that_breaks_off_leaves_nothing(
    sources: ModelSources, publish: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelSource.parse(publish("bucket/models/digits"))
    plain = fsspec.implementations.memory.MemoryFile.read

    def read(self: Any, size: int = -1) -> bytes:
        if self.tell():
            raise ConnectionResetError("the other end is gone")
        return plain(self, min(size, 100))

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFile, "read", read)
    with pytest.raises(
        ModelLoadError, match=r"cannot be read \(ConnectionResetError\): try again, or mend access to it"
    ):
        sources.fetch("digits", source)
    assert leftovers(tmp_path / "fetched") == []
    monkeypatch.undo()
    assert sources.fetch("digits", source).is_dir()


@pytest.mark.parametrize(
    "text",
    [
        "memory://b/digits",
        "memory://b/digits#sha256=12",
        "memory://b/digits#md5=" + 64 * "a",
        "#sha256=" + 64 * "a",
        "",
    ],
)
def test_what_is_not_pinned_is_refused(text: str) -> None:
    with pytest.raises(ModelLoadError, match="does not pin what is fetched: write URI#sha256=VERSION"):
        ModelSource.parse(text)


def test_sources_by_name() -> None:
    pin = "a" * 64
    found = sources_of(f"one=memory://b/one#sha256={pin}, two=hf://o/two/folder/#sha256={pin.upper()}")
    assert found == {"one": ModelSource("memory://b/one", pin), "two": ModelSource("hf://o/two/folder", pin)}
    for text in (f"memory://b/one#sha256={pin}", f"../x=memory://b/one#sha256={pin}"):
        with pytest.raises(ModelLoadError, match=r"write it so|names no model"):
            sources_of(text)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError(f"Install the package of {scheme}")

    monkeypatch.setattr(import_module("fsspec.registry"), "get_filesystem_class", missing)
    sources = ModelSources(tmp_path, ["s3://bucket", "hf://owner"])
    with pytest.raises(ModelLoadError, match=r"not installed here: pip install 'spacte-workers\[s3\]'\.$"):
        sources.fetch("digits", ModelSource("s3://bucket/digits", "a" * 64))
    with pytest.raises(ModelLoadError, match=r"not installed here: Install the package of hf\.$"):
        sources.fetch("digits", ModelSource("hf://owner/digits", "a" * 64))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A web server on this machine: the folder that it serves, and its address."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/moved/", "/digits/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()


def test_from_a_web_server(web: tuple[Path, str], make_checkpoint: Callable[..., str], tmp_path: Path) -> None:
    folder, url = web
    version = make_checkpoint(folder / "digits")
    sources = ModelSources(tmp_path / "fetched", [url])
    place = sources.fetch("digits", ModelSource(f"{url}/digits", version))
    assert [(place / file).read_bytes() for file in FILES] == [
        (folder / "digits" / file).read_bytes() for file in FILES
    ]
    with pytest.raises(ModelLoadError, match="There is no file"):  # a redirection could lead anywhere
        sources.fetch("moved", ModelSource(f"{url}/moved", version))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of botocore's and moto's own code
def test_from_s3(s3: Any, make_checkpoint: Callable[..., str], tmp_path: Path) -> None:
    version = make_checkpoint(tmp_path / "digits")
    for file in FILES:
        s3.upload_file(str(tmp_path / "digits" / file), "bucket", f"models/digits/{file}")
    sources = ModelSources(tmp_path / "fetched", ["s3://bucket/models"])
    place = sources.fetch("digits", ModelSource("s3://bucket/models/digits", version))
    assert [(place / file).read_bytes() for file in FILES] == [
        (tmp_path / "digits" / file).read_bytes() for file in FILES
    ]
    with pytest.raises(ModelLoadError, match=r"There is no file 's3://bucket/models/none/config\.json'"):
        sources.fetch("none", ModelSource("s3://bucket/models/none", version))
    s3.put_object(Bucket="bucket", Key="models/digits/config.json", Body=b"{}")
    with pytest.raises(ModelLoadError, match="holds version"):
        sources.fetch("again", ModelSource("s3://bucket/models/digits", version))


def test_versions_that_nobody_needs_go_the_longest_unused_first(
    publish: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that answer or are what a name means stay, even beyond the bound."""
    caplog.set_level("INFO")
    texts = [publish(f"bucket/models/{i}", seed=i) for i in range(6)]
    made = [ModelSource.parse(text) for text in texts]
    folder = tmp_path / "fetched"
    size = sum(len(fsspec.filesystem("memory").cat(f"/bucket/models/0/{file}")) for file in FILES)
    sources = ModelSources(folder, [ROOT], {"other": made[0]}, most_bytes=int(4.5 * size))
    store = ModelStore(tmp_path / "none", sources=sources)
    store.find()
    store.fetch("other", made[0])
    for age, source in enumerate(made[1:5]):
        store.fetch("digits", source)
        os.utime(sources.place("digits", source), (age, age))
        if age == 0:
            config, _ = read_config(sources.place("digits", source))
            store.ready("digits", ServedModel("digits", source.version, config, "fp32", "plain"))
    kept = {path.name for path in folder.iterdir()}
    assert kept == {made[i].version for i in (0, 1, 3, 4)}
    deleted = [record.getMessage() for record in caplog.records if "is deleted" in record.getMessage()]
    assert len(deleted) == 1
    assert made[2].version[:12] in deleted[0]
    abandoned, fresh = folder / ".part-killed", folder / ".part-now"
    for part in (abandoned, fresh):
        part.mkdir()
    os.utime(abandoned, (0, 0))
    tight = ModelSources(folder, [ROOT], {"other": made[0]}, most_bytes=1)
    assert {path.parent.name for path in tight.make_room({made[4].version})} == {made[1].version, made[3].version}
    assert {path.name for path in folder.iterdir()} == {made[0].version, made[4].version, fresh.name}
    assert tight.fetch("digits", made[2]).is_dir()  # it is fetched again where it is asked for


def test_a_server_that_does_not_answer_is_told_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    sources = ModelSources(tmp_path / "fetched", [url])
    with pytest.raises(ModelLoadError, match=r"cannot be read \(Client\w+\): try again, or mend access to it"):
        sources.fetch("digits", ModelSource(f"{url}/digits", "a" * 64))


async def test_models_that_are_fetched_are_served_and_replaced(
    publish: Callable[..., str], make_checkpoint: Callable[..., str], tmp_path: Path
) -> None:
    make_checkpoint(tmp_path / "models" / "here", seed=3)
    first, second = (publish(f"bucket/models/{name}", seed=i) for i, name in enumerate(("first", "second")))
    missing = first.replace("first", "missing")
    named = sources_of(f"digits={first},broken={missing}")
    store = ModelStore(tmp_path / "models", sources=ModelSources(tmp_path / "fetched", [ROOT], named))
    assert store.find() == ["here", "digits", "broken"]
    assert set(store.still_loading()) == {"here", "digits", "broken"}
    runtime = Runtime(store, LocalPool(1), precision="fp32")
    await runtime.start()
    try:
        states = {model.name: (model.state, model.version) for model in runtime.models()}
        assert states["digits"] == ("ready", first[-64:])
        assert states["here"][0] == "ready"
        broken = next(model for model in runtime.models() if model.name == "broken")
        assert broken.state == "failed"
        assert "There is no file 'memory://bucket/models/missing/config.json'" in str(broken.reason)

        await runtime.load("digits", 0.5, second)
        assert [share.version for share in runtime.models()[1].traffic] == [first[-64:], second[-64:]]
        assert (tmp_path / "fetched" / first[-64:] / "digits").is_dir()  # so that it can be loaded again
        await runtime.load("new", None, second)
        image = Image(bytes(64), (1, 8, 8), "uint8")
        certificate = await runtime.certify(image, CertifyParams(model="new", n=50, n0=10), request_id="r")
        assert certificate.model_version == second[-64:]

        with pytest.raises(ModelLoadError, match="holds version"):
            await runtime.load("digits", None, f"{second[:-64]}{first[-64:-1]}0")
        digits = next(model for model in runtime.models() if model.name == "digits")
        assert (digits.state, len(digits.traffic)) == ("ready", 2)
        assert "holds version" in str(digits.reason)
        with pytest.raises(ModelLoadError, match="below no prefix"):
            await runtime.load("other", None, second.replace("models", "others"))
        assert "other" not in [model.name for model in runtime.models()]
    finally:
        await runtime.stop()
