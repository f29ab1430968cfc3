"""Promises of inputs that are read in a decoding process: the same rows, and a fault costs one row."""

import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.odd_pictures import colour, saved

from spacte_workers.batch.inputs import InputError, InputSpec, Row, Source, open_source
from spacte_workers.decoding import Decoders, decoders, open_isolated
from spacte_workers.images import BadImageError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
SHAPE = (3, 8, 8)
ROWS = 6


@pytest.fixture(scope="module")
def real() -> Iterator[Decoders]:
    """One decoding process."""
    pool = Decoders(memory_bytes=256 << 20)
    yield pool
    pool.close()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoders]:
    """One that dies where a file's name says so."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pool = Decoders(tasks="tests.faulty_tasks")
    yield pool
    pool.close()


def an_npz(path: Path, packed: bool = False) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), dtype=np.uint8)
    (np.savez_compressed if packed else np.savez)(path, images=values / 255 if packed else values, labels=range(ROWS))
    return path


def a_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(ROWS):
            archive.writestr(f"{number}.png", b"" if number == 3 else saved(colour(8, 8 + number)))
    return path


def a_parquet(path: Path) -> Path:
    images = [None if number == 3 else saved(colour(8, 8 + number)) for number in range(ROWS)]
    ids = [f"é{number}" for number in range(ROWS)]
    pq.write_table(pa.table({"img": images, "label": list(range(ROWS)), "custom_id": ids}), path)
    return path


FILES = {"npz": an_npz, "packed npz": lambda path: an_npz(path, packed=True), "zip": a_zip, "parquet": a_parquet}


def rows(source: Source) -> list[object]:
    def row(index: int) -> object:
        try:
            found: Row = source.read(index)
        except BadImageError as error:
            return str(error), source.about(index)
        content = found.content if isinstance(found.content, bytes) else (found.content.tolist(), found.content.dtype)
        return content, found.label, found.custom_id

    return [source.remark, source.total, source.pin(None), *map(row, source.indices)]


@pytest.mark.parametrize("kind", FILES)
def test_rows_are_those_of_this_process(real: Decoders, tmp_path: Path, kind: str) -> None:
    suffix = kind.rpartition(" ")[2]
    spec = InputSpec("file", str(FILES[kind](tmp_path / f"set.{suffix}")), stride=1, limit=ROWS)
    names = [str(number) for number in range(10)]
    with (
        closing(open_source(spec, SHAPE, class_names=names)) as ours,
        closing(open_isolated(spec, SHAPE, real, class_names=names)) as isolated,
    ):
        assert rows(isolated) == rows(ours)
    assert real.lost == 0


def test_sentences_too(real: Decoders, tmp_path: Path) -> None:
    spec = InputSpec("file", str(an_npz(tmp_path / "set.npz")))
    for shape, names in (((1, 8, 8), ["a"]), (SHAPE, ["a"])):
        with pytest.raises(InputError) as ours:
            open_source(spec, shape, class_names=names)
        with pytest.raises(InputError) as isolated:
            open_isolated(spec, shape, real, class_names=names)
        assert str(ours.value) == str(isolated.value)


def test_a_row_that_kills_its_reader_costs_only_itself(faulty: Decoders, tmp_path: Path) -> None:
    spec = InputSpec("file", str(a_parquet(tmp_path / "rows.parquet")))
    with closing(open_isolated(spec, SHAPE, faulty)) as source:
        for index in range(ROWS):
            if index in (2, 3):
                with pytest.raises(BadImageError, match=f"Row {index} cannot be read within 30 s and 512 MiB"):
                    source.read(index)
                assert source.about(index) == (index, f"é{index}")
            else:
                assert source.read(index).label == index
    assert faulty.lost == 2


def test_a_lost_process_is_replaced_once_there_is_another(
    faulty: Decoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = InputSpec("file", str(a_parquet(tmp_path / "rows.parquet")))
    with closing(open_isolated(spec, SHAPE, faulty)) as source:
        with pytest.raises(BadImageError):
            source.read(2)
        with monkeypatch.context() as patch:
            patch.setattr(decoders, "DecodingProcess", none_can_be_started)
            with pytest.raises(BadImageError, match="Row 4 cannot be read"):
                source.read(4)
        assert source.read(4).label == 4
        with pytest.raises(BadImageError):
            source.read(2)
        monkeypatch.setattr(decoders, "DecodingProcess", none_can_be_started)
        with pytest.raises(BadImageError):
            source.read(4)
    assert faulty.lost == 2
    places = [faulty._free.get_nowait()]
    assert faulty._free.empty()  # it gave back one place, not two
    faulty._free.put(places[0])


def none_can_be_started(*_: object) -> None:
    raise OSError("Resource temporarily unavailable")


def test_a_file_that_kills_its_opener_is_refused(faulty: Decoders, tmp_path: Path) -> None:
    bad = InputSpec("file", str(an_npz(tmp_path / "opening.npz")))
    good = InputSpec("file", str(an_npz(tmp_path / "set.npz")))
    with pytest.raises(InputError, match="cannot be opened within 120 s and 512 MiB"):
        open_isolated(bad, SHAPE, faulty)
    with closing(open_isolated(good, SHAPE, faulty)) as source:
        assert source.read(0).label == 0
    assert faulty.lost == 1


def test_another_file_than_the_job_was_made_for(real: Decoders, tmp_path: Path) -> None:
    spec = InputSpec("file", str(an_npz(tmp_path / "set.npz")), sha256="0" * 64)
    with pytest.raises(InputError, match="another one than the job was made for"):
        open_isolated(spec, SHAPE, real)
    assert real.kind(tmp_path / "set.npz") == "npz"  # the process is free again


class TestMemory:
    """What stands for far more than it weighs is refused, or read within the memory of the process."""

    def test_one_large_value_in_many_rows(self, real: Decoders, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        column = pa.DictionaryArray.from_arrays(np.zeros(64, np.int32), pa.array([bytes(8 << 20)]))
        pq.write_table(pa.table({"img": column}), path, compression="zstd", store_schema=False)
        assert path.stat().st_size < 3_000
        with closing(open_isolated(InputSpec("file", str(path)), SHAPE, real)) as source:
            assert {source.read(index).content for index in source.indices} == {bytes(8 << 20)}
        assert real.lost == 0

    def test_a_value_beyond_the_memory(self, real: Decoders, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        pq.write_table(pa.table({"img": [bytes(200 << 20)]}), path, compression="zstd", use_dictionary=False)
        assert path.stat().st_size < 200_000
        spec = InputSpec("file", str(path))
        with closing(open_isolated(spec, SHAPE, real)) as source, pytest.raises(BadImageError):
            source.read(0)

    def test_labels_beyond_the_memory(self, real: Decoders, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        names = pa.DictionaryArray.from_arrays(np.zeros(5_000, np.int32), pa.array(["x" * (1 << 20)]))
        images = pa.array([b"x"] * 5_000)
        pq.write_table(pa.table({"img": images, "label": names}), path, compression="zstd", store_schema=False)
        with pytest.raises(InputError):
            open_isolated(InputSpec("file", str(path)), SHAPE, real, class_names=["a"])
