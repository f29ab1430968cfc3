"""Promises of a job's input: files are told by their bytes, data sets by name, and changed pixels are seen."""

import hashlib
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.job_inputs import COLOUR, labelled, on_file, pictures, png, zipped

from spacte_workers.batch.inputs import InputError, InputSpec, Limits, kind_of, open_source


def test_files_are_told_by_their_bytes(tmp_path):
    np.savez(tmp_path / "a", images=pictures(1))
    zipped(tmp_path / "b.npz", {"a.png": png(pictures(1)[0]), "b.npy": b""})
    pq.write_table(pa.table({"x": [1]}), tmp_path / "c.zip")
    (tmp_path / "d").write_bytes(png(pictures(1)[0]))
    (tmp_path / "e.npz").write_bytes(os.urandom(64))
    (tmp_path / "f.npz").write_bytes(b"")
    kinds = [kind_of(tmp_path / name) for name in ("a.npz", "b.npz", "c.zip", "d", "e.npz", "f.npz")]
    assert kinds == ["npz", "zip", "parquet", "image", None, None]
    with pytest.raises(InputError, match="none of npz, zip"):
        open_source(on_file(tmp_path / "e.npz"), COLOUR)


def test_limits_on_the_number_of_images(tmp_path):
    np.savez(tmp_path / "set.npz", images=pictures(5))
    zipped(tmp_path / "set.zip", {f"{i}.png": png(image) for i, image in enumerate(pictures(5))})
    for name in ("set.npz", "set.zip"):
        with pytest.raises(InputError, match="send at most 4"):
            open_source(on_file(tmp_path / name), COLOUR, Limits(images=4))


class TestDataset:
    def test_digits_are_the_held_out_ones(self):
        from spacte_core.data.digits import load_digits

        images, labels = load_digits("test")
        source = open_source(InputSpec("dataset", "digits", stride=40, limit=5), (1, 8, 8))
        assert list(source.indices) == [0, 40, 80, 120, 160]
        row = source.read(120)
        assert np.array_equal(np.rint(row.content * 255), images[120])
        assert row.label == labels[120]

    @pytest.mark.parametrize(
        ("spec", "shape", "sentence"),
        [
            (InputSpec("dataset", "nowhere"), (1, 8, 8), "no data source 'nowhere'"),
            (InputSpec("dataset", "digits", split="dev"), (1, 8, 8), "no split 'dev'"),
            (InputSpec("dataset", "digits"), (3, 32, 32), "but the model takes"),
        ],
    )
    def test_what_it_refuses(self, spec, shape, sentence):
        with pytest.raises(InputError, match=sentence):
            open_source(spec, shape)


class TestPin:
    @pytest.mark.parametrize("kind", ["npz", "zip", "parquet", "folder"])
    def test_replaced_pixels_are_seen(self, tmp_path, kind):
        if kind == "folder":
            for i in range(10):
                (tmp_path / "set" / "one").mkdir(parents=True, exist_ok=True)
                (tmp_path / "set" / "one" / f"{i}.png").write_bytes(png(pictures(i + 1)[i]))
            spec, file = InputSpec("dataset", f"folder:{tmp_path / 'set'}"), tmp_path / "set" / "one" / "9.png"
        else:
            spec = labelled(tmp_path, "npy in zip" if kind == "zip" else kind, [0, 1])
            file = Path(spec.location)
        with closing(open_source(spec, COLOUR)) as source:
            digest = source.pin(None)
        if kind != "folder":
            assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
        pinned = replace(spec, sha256=digest)
        source = open_source(pinned, COLOUR)
        index = source.indices[-1]
        content = file.read_bytes()
        os.utime(file, (1, 1))
        source.check_unchanged(index)
        at = len(content) // 2
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(InputError, match="was changed while the job ran"):
            source.check_unchanged(index)
        with pytest.raises(InputError, match="another one than the job was made for"):
            open_source(pinned, COLOUR)

    def test_a_set_in_memory_has_a_digest_of_its_pixels(self):
        first, other = (InputSpec("dataset", "digits", stride=stride, limit=3) for stride in (1, 2))
        digests = {open_source(spec, (1, 8, 8)).pin(None) for spec in (first, first, other)}
        assert len(digests) == 2
