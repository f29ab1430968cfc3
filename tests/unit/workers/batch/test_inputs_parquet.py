"""Promises of parquet files: rows in any order, and what is damaged or too large costs only itself."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.job_inputs import COLOUR, on_file, pictures, png

from spacte_workers.batch.inputs import InputError, Limits, open_source
from spacte_workers.images import BadImageError


def a_table(images, **columns):
    encoded = [None if image is None else {"bytes": png(image), "path": None} for image in images]
    return pa.table({"img": encoded, **columns})


def test_rows_over_several_groups(tmp_path):
    images = pictures(9)
    pq.write_table(a_table(images, label=list(range(9))), tmp_path / "set.parquet", row_group_size=2)
    source = open_source(on_file(tmp_path / "set.parquet"), COLOUR)
    for i in (8, 0, 3, 4, 1):
        assert source.read(i).content == png(images[i])
        assert source.read(i).label == i


def test_a_row_without_an_image_costs_only_itself(tmp_path):
    images = list(pictures(3))
    images[1] = None
    pq.write_table(a_table(images, label=[5, 6, 7]), tmp_path / "set.parquet")
    source = open_source(on_file(tmp_path / "set.parquet"), COLOUR)
    with pytest.raises(BadImageError, match="Row 1 has no image"):
        source.read(1)
    assert source.about(1) == (6, None)
    assert source.read(2).label == 7


def test_a_custom_id_that_cannot_be_kept_costs_only_its_row(tmp_path):
    bad_utf8 = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    ids = pa.chunked_array([pa.array(["a\0b"]), bad_utf8, pa.array(["c"])])
    pq.write_table(a_table(pictures(3), custom_id=ids), tmp_path / "set.parquet")
    source = open_source(on_file(tmp_path / "set.parquet"), COLOUR)
    for index, sentence in enumerate(("custom_id of row 0 has a NUL", "text in row 1 is not UTF-8")):
        with pytest.raises(BadImageError, match=sentence):
            source.read(index)
        assert source.about(index) == (None, None)
    assert source.read(2).custom_id == "c"


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (pa.table({"pixels": [1], "class": [2]}), "has columns pixels, class: it needs `img` or `image`"),
        (pa.table({"img": ["a.png"], "label": [2]}), "it needs `img` or `image`"),
        (pa.table({"img": [{"bytes": b"x"}], "label": ["cat"]}), "name the class 'cat'"),
        (pa.table({"img": [{"bytes": b"x"}], "label": [0.5]}), "no whole number"),
        (pa.table({"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), "holds no image"),
    ],
)
def test_other_columns(tmp_path, table, sentence):
    pq.write_table(table, tmp_path / "set.parquet")
    with pytest.raises(InputError, match=sentence):
        open_source(on_file(tmp_path / "set.parquet"), COLOUR)


def test_a_small_file_of_many_large_rows_takes_little_memory(tmp_path):
    noise = os.urandom(400_000)
    column = pa.DictionaryArray.from_arrays(np.zeros(5_000, np.int32), pa.array([noise]))
    table = pa.table({"img": column})
    pq.write_table(table, tmp_path / "set.parquet", row_group_size=5_000, store_schema=False)
    assert (tmp_path / "set.parquet").stat().st_size < 500_000  # and 2 GB when it is unpacked
    source = open_source(on_file(tmp_path / "set.parquet"), COLOUR)
    before = pa.total_allocated_bytes()
    for index in (0, 700, 4_999, 4_998, 1):
        assert source.read(index).content == noise
    assert pa.total_allocated_bytes() - before < 64 << 20


def test_an_image_that_is_too_large_costs_only_itself(tmp_path):
    images = [b"x" * 2000, b"y" * 10]
    pq.write_table(pa.table({"img": images}), tmp_path / "set.parquet")
    source = open_source(on_file(tmp_path / "set.parquet"), COLOUR, Limits(member_bytes=1000))
    with pytest.raises(BadImageError, match="The image of row 0 has 2,000 bytes: send at most 1,000"):
        source.read(0)
    assert source.read(1).content == images[1]


def test_rows_before_the_damage_are_read(tmp_path):
    images = [os.urandom(3_000) for _ in range(200)]
    pq.write_table(
        pa.table({"img": images, "label": list(range(200))}),
        tmp_path / "set.parquet",
        use_dictionary=False,
        compression="none",
        data_page_size=50_000,
        write_page_checksum=False,
        write_statistics=False,  # they repeat the greatest image before its page
    )
    raw = bytearray((tmp_path / "set.parquet").read_bytes())
    at = raw.index(images[150]) - 4  # its length
    raw[at : at + 4] = b"\xff\xff\xff\x7f"
    (tmp_path / "set.parquet").write_bytes(raw)
    source = open_source(on_file(tmp_path / "set.parquet"), COLOUR)
    for index in (0, 100, 190, 50, 199, 100):
        if index > 150:
            with pytest.raises(BadImageError, match=f"Row {index} lies in a damaged part"):
                source.read(index)
            assert source.about(index) == (index, None)
        else:
            assert source.read(index).content == images[index]


def test_a_damaged_file(tmp_path):
    (tmp_path / "set.parquet").write_bytes(b"PAR1" + bytes(50))
    with pytest.raises(InputError, match="damaged"):
        open_source(on_file(tmp_path / "set.parquet"), COLOUR)
