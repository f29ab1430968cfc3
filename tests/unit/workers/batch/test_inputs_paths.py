"""Promise: only files below the folders that may be read are read, whatever links and names say."""

import numpy as np
import pytest
from tests.job_inputs import COLOUR, on_file, pictures

from spacte_workers.batch.inputs import InputError, open_source, resolve_uri


def test_a_file_below_a_root(tmp_path):
    (tmp_path / "a b.npz").write_bytes(b"x")
    assert resolve_uri(f"file://{tmp_path}/a%20b.npz", [tmp_path]) == tmp_path / "a b.npz"
    assert resolve_uri(f"{tmp_path}/a b.npz", [tmp_path]) == tmp_path / "a b.npz"


def test_a_root_that_is_itself_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.npz").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert resolve_uri(f"file://{tmp_path}/link/a.npz", [tmp_path / "link"]).is_file()


def test_what_lies_outside_looks_like_what_is_not_there(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.npz").write_bytes(b"x")
    (root / "link.npz").symlink_to(tmp_path / "secret.npz")
    (root / "folder").symlink_to(tmp_path)
    said = set()
    for path in ("link.npz", "folder/secret.npz", "../secret.npz", "%2e%2e/secret.npz", "missing.npz", ""):
        with pytest.raises(InputError, match="There is no file") as refused:
            resolve_uri(f"file://{root}/{path}", [root])
        said.add(str(refused.value).replace(path, ""))
    assert len(said) == 1


@pytest.mark.parametrize(
    "uri",
    ["http://host/a.npz", "s3://b/a.npz", "file://host/a.npz", "a.npz", "file:///a\0", "file:///a?x", "file://[a"],
)
def test_other_schemes_and_hosts(tmp_path, uri):
    with pytest.raises(InputError, match=r"are not read here|is written file|no NUL"):
        resolve_uri(uri, [tmp_path])


def test_without_roots(tmp_path):
    with pytest.raises(InputError, match="reads no files"):
        resolve_uri(f"file://{tmp_path}", [])


def test_a_file_replaced_by_a_link_is_refused_when_it_is_opened(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    np.savez(tmp_path / "secret.npz", images=pictures(1))
    np.savez(root / "a.npz", images=pictures(1))
    spec = on_file(root / "a.npz", roots=(str(root),))
    open_source(spec, COLOUR).close()
    (root / "a.npz").unlink()
    (root / "a.npz").symlink_to(tmp_path / "secret.npz")
    with pytest.raises(InputError, match="There is no file"):
        open_source(spec, COLOUR)
