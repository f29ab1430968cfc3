"""Promises: what lies elsewhere is read whole, below the prefixes that were named, and nothing else is."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module

import fsspec
import pytest

from spacte_workers.batch.inputs import InputError, load_driver, parts_of, pieces, scheme_of

ROOTS = ["memory://sets/public"]
WHOLE = bytes(range(256)) * 10_000


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    system = fsspec.filesystem("memory")
    for name in ("sets/public/a.npz", "sets/public/deep/a b.npz", "sets/private.npz", "sets/public-not/a.npz"):
        system.pipe(f"/{name}", WHOLE)
    yield
    system.rm("/sets", recursive=True)


def read(uri: str, roots: list[str] | None = ROOTS, most_bytes: int | None = None) -> bytes:
    return b"".join(pieces(uri, roots, most_bytes))


@pytest.mark.parametrize(
    "uri", ["memory://sets/public/a.npz", "MEMORY://sets/public/a.npz", "memory://sets/public/deep/a b.npz"]
)
def test_a_file_below_a_prefix(uri: str) -> None:
    assert read(uri) == WHOLE
    assert read(uri, None) == WHOLE
    assert read(uri, [*ROOTS, "s3://elsewhere"]) == WHOLE


def test_what_lies_outside_looks_like_what_is_not_there() -> None:
    said = set()
    for uri in (
        "memory://sets/public/missing.npz",
        "memory://sets/public/deep",  # a folder
        "memory://sets/public",
        "memory://sets/private.npz",
        "memory://sets/public-not/a.npz",
        "memory://elsewhere/public/a.npz",
        "memory:///sets/public/a.npz",
    ):
        with pytest.raises(InputError, match="There is no file") as refused:
            read(uri)
        said.add(str(refused.value).replace(uri, "", 1))
    assert said == {"There is no file '' below what may be read here (memory://sets/public)."}


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("memory://sets/public/../private.npz", "straight"),
        ("memory://sets/public/%2e%2e/private.npz", "straight"),
        ("memory://sets/public/%252e%252e/private.npz", "straight"),
        ("memory://sets/public/..%2fprivate.npz", "straight"),
        ("memory://sets/public/./a.npz", "straight"),
        ("memory://sets/public//a.npz", "straight"),
        ("memory://sets/public\\..\\private.npz", "one file"),
        ("memory://user:secret@sets/public/a.npz", "no credentials"),
        ("memory://key%40sets/public/a.npz", "no credentials"),
        ("simplecache::memory://sets/public/a.npz", "scheme://place/path"),
        ("memory://sets/public/a.npz::file:///etc/passwd", "one file"),
        ("memory://sets/public/a.npz?version=1", "one file"),
        ("memory://sets/public/a.npz#x", "one file"),
        ("memory://sets/public/a\nb.npz", "one file"),
        ("memory://sets/public/a.npz\0", "one file"),
        ("memory:sets/public/a.npz", "scheme://place/path"),
        ("memory://", "scheme://place/path"),
        ("sets/public/a.npz", "scheme://place/path"),
        ("", "scheme://place/path"),
    ],
)
def test_uris_that_do_not_say_plainly_where_they_lead(uri: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        read(uri)
    assert "secret" not in str(refused.value)
    with pytest.raises(InputError, match=sentence):
        read(uri, None)


def test_a_file_that_is_too_large_is_given_up_while_it_arrives() -> None:
    assert read(f"{ROOTS[0]}/a.npz", most_bytes=len(WHOLE)) == WHOLE
    with pytest.raises(InputError, match="more than 2,559,999 bytes"):
        read(f"{ROOTS[0]}/a.npz", most_bytes=len(WHOLE) - 1)


def test_a_driver_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError(f"Install the package of {scheme}")

    monkeypatch.setattr(import_module("fsspec.registry"), "get_filesystem_class", missing)
    with pytest.raises(InputError, match=r"^The driver .* not installed here: pip install 'spacte-workers\[s3\]'\.$"):
        load_driver("s3")
    with pytest.raises(InputError, match="not installed here: Install the package of sftp"):
        load_driver("sftp")


def test_a_scheme_that_nobody_knows() -> None:
    with pytest.raises(InputError, match="no driver for gopher: URIs"):
        read("gopher://host/a.npz", ["gopher://host"])


def test_whatever_a_driver_raises_is_a_problem_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("signature of secret does not match")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem._open", broken)
    with pytest.raises(InputError, match=r"cannot be read \(RuntimeError\): try again") as refused:
        read(f"{ROOTS[0]}/a.npz")
    assert "secret" not in str(refused.value)


class Handler(BaseHTTPRequestHandler):
    """`/sets/a.npz` is there, `/secret` too, and `/sets/away` leads to it."""

    def do_GET(self) -> None:
        if self.path == "/sets/away":
            self.send_response(302)
            self.send_header("location", "/secret")
            self.end_headers()
            return
        found = {"/sets/a.npz": WHOLE, "/secret": b"secret"}.get(self.path)
        self.send_response(404 if found is None else 200)
        self.send_header("content-length", str(len(found or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(found or b"")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_web_server_cannot_send_us_elsewhere(server: str) -> None:
    roots = [f"{server}/sets"]
    assert read(f"{server}/sets/a.npz", roots) == WHOLE
    for name in ("sets/missing.npz", "secret"):
        with pytest.raises(InputError, match="There is no file"):
            read(f"{server}/{name}", roots)
    with pytest.raises(InputError, match="There is no file"):
        read(f"{server}/sets/away", roots)


def test_schemes() -> None:
    assert [scheme_of(uri) for uri in ("/a/b", "S3://b/c", "file:///a", "a/b:c", "")] == ["", "s3", "file", "", ""]
    assert parts_of("s3://bucket/a/b/") == ("s3", "bucket", "a", "b")
