"""Promises: every accepted layout gives the same rows, and what is not accepted is refused in one sentence."""

import hashlib
import io
import os
import stat
import time
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spacte_workers.batch.inputs import InputError, InputSpec, Limits, kind_of, open_source, resolve_uri
from spacte_workers.images import BadImageError

COLOUR = (3, 5, 4)
GREY = (1, 5, 4)


def pictures(count: int, shape: tuple[int, int, int] = COLOUR) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(image_CHW: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def on_file(path: Path, **changes) -> InputSpec:
    return InputSpec("file", str(path), **changes)


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW", "fortran", "float"])
    def test_every_layout_gives_the_same_rows(self, tmp_path, save, layout):
        images = pictures(7, GREY if layout == "NHW" else COLOUR)
        stored = {
            "NCHW": images,
            "NHWC": images.transpose(0, 2, 3, 1),
            "NHW": images[:, 0],
            "fortran": np.asfortranarray(images),
            "float": images.astype(np.float32) / 255,
        }[layout]
        save(tmp_path / "set.npz", images=stored, labels=np.arange(7))
        source = open_source(on_file(tmp_path / "set.npz"), images.shape[1:])
        assert list(source.indices) == list(range(7))
        for i in range(7):
            row = source.read(i)
            assert row.label == i
            content = np.rint(row.content * 255) if layout == "float" else row.content
            assert np.array_equal(content, images[i])
        source.close()

    def test_stride_and_limit_keep_the_positions_in_the_whole_input(self, tmp_path):
        images = pictures(10)
        np.savez(tmp_path / "set.npz", images=images)
        source = open_source(on_file(tmp_path / "set.npz", stride=3, limit=3), COLOUR)
        assert list(source.indices) == [0, 3, 6]
        assert np.array_equal(source.read(6).content, images[6])
        assert source.read(6).label is None

    @pytest.mark.parametrize(
        ("arrays", "sentence"),
        [
            ({"pictures": pictures(2)}, "needs an array named `images`"),
            ({"images": pictures(2, (3, 9, 9))}, "but the model takes"),
            ({"images": pictures(0)}, "holds no image"),
            ({"images": pictures(2), "labels": np.arange(3)}, "must hold 2 whole numbers"),
            ({"images": pictures(2), "labels": np.full(2, 0.5)}, "no whole numbers \\(0.5, say\\)"),
            ({"images": pictures(2).astype(np.int64)}, "pixels are uint8"),
            ({"images": np.array([object(), object()])}, "Python objects"),
        ],
    )
    def test_what_it_refuses(self, tmp_path, arrays, sentence):
        np.savez(tmp_path / "set.npz", **arrays)
        with pytest.raises(InputError, match=sentence):
            open_source(on_file(tmp_path / "set.npz"), COLOUR)

    def test_a_truncated_file(self, tmp_path):
        np.savez(tmp_path / "set.npz", images=pictures(50))
        whole = (tmp_path / "set.npz").read_bytes()
        (tmp_path / "set.npz").write_bytes(whole[:-200])
        with pytest.raises(InputError, match="damaged"):
            open_source(on_file(tmp_path / "set.npz"), COLOUR)

    def test_a_bomb_is_refused_unopened(self, tmp_path):
        np.savez_compressed(tmp_path / "set.npz", images=np.zeros((40_000, *COLOUR), np.uint8))
        with pytest.raises(InputError, match="more than the 1,048,576 unpacked here"):
            open_source(on_file(tmp_path / "set.npz"), COLOUR, Limits(unpacked_bytes=1 << 20))
        np.savez(tmp_path / "set.npz", images=np.zeros((40_000, *COLOUR), np.uint8))
        open_source(on_file(tmp_path / "set.npz"), COLOUR, Limits(unpacked_bytes=1 << 20)).close()  # it is mapped

    def test_a_header_that_promises_more_than_there_is(self, tmp_path):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, *COLOUR)}
        )
        zipped(tmp_path / "set.npz", {"images.npy": header.getvalue() + bytes(100)})
        with pytest.raises(InputError, match="not as long as its header says"):
            open_source(on_file(tmp_path / "set.npz"), COLOUR)


class TestZip:
    def test_images_in_the_order_of_their_names_with_their_labels(self, tmp_path):
        images = pictures(3)
        members = {f"{name}.png": png(image) for name, image in zip("cab", images, strict=True)}
        labels = b"name,label\na.png,1\nb.png,2\nc.png,0\n"
        left = dict.fromkeys(("__MACOSX/._a.png", "@eaDir/a.png", "set/#recycle/b.png", "READ"), b"junk")
        zipped(tmp_path / "set.zip", members | left | {"labels.csv": labels})
        source = open_source(on_file(tmp_path / "set.zip"), COLOUR)
        rows = [source.read(i) for i in source.indices]
        assert [row.custom_id for row in rows] == ["a.png", "b.png", "c.png"]
        assert [row.label for row in rows] == [1, 2, 0]
        assert rows[0].content == members["a.png"]

    def test_a_damaged_member_costs_only_itself(self, tmp_path):
        images = pictures(2)
        path = zipped(tmp_path / "set.zip", {"a.png": png(images[0]), "b.png": png(images[1])})
        raw = bytearray(path.read_bytes())
        at = raw.index(png(images[0])) + 20
        raw[at] ^= 255
        path.write_bytes(raw)
        source = open_source(on_file(path), COLOUR)
        with pytest.raises(BadImageError, match=r"a\.png is damaged"):
            source.read(0)
        assert source.about(0) == (None, "a.png")
        assert source.read(1).content == png(images[1])

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("../evil.png", "outside itself"),
            ("/etc/evil.png", "outside itself"),
            ("a/../../evil.png", "outside itself"),
            ("C:/evil.png", "outside itself"),
            ("notes.txt", "holds no PNG"),
        ],
    )
    def test_names_that_lead_out(self, tmp_path, name, sentence):
        zipped(tmp_path / "set.zip", {name: png(pictures(1)[0])})
        with pytest.raises(InputError, match=sentence):
            open_source(on_file(tmp_path / "set.zip"), COLOUR)

    def test_links(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            link = zipfile.ZipInfo("a.png")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
        with pytest.raises(InputError, match="is a link"):
            open_source(on_file(tmp_path / "set.zip"), COLOUR)

    def test_a_bomb_is_refused_unopened(self, tmp_path):
        zipped(tmp_path / "set.zip", {"a.png": bytes(65 << 20)}, zipfile.ZIP_DEFLATED)
        with pytest.raises(InputError, match="unpacks from"):
            open_source(on_file(tmp_path / "set.zip"), COLOUR)

    @pytest.mark.slow
    def test_a_hundred_thousand_empty_members_are_refused_soon(self, tmp_path):
        path = zipped(tmp_path / "set.zip", {f"{number}.png": b"" for number in range(100_000)})
        began = time.process_time()
        with pytest.raises(InputError, match="All 100,000 files of the zip file are empty"):
            open_source(on_file(path), COLOUR)
        assert time.process_time() - began < 2

    def test_an_image_without_a_label(self, tmp_path):
        members = {"a.png": png(pictures(1)[0]), "labels.csv": b"name,label\nb.png,1\n"}
        with pytest.raises(InputError, match=r"no row for 'a\.png'"):
            open_source(on_file(zipped(tmp_path / "set.zip", members)), COLOUR)


class TestParquet:
    def table(self, images, **columns):
        encoded = [None if image is None else {"bytes": png(image), "path": None} for image in images]
        return pa.table({"img": encoded, **columns})

    def test_rows_over_several_groups(self, tmp_path):
        images = pictures(9)
        pq.write_table(self.table(images, label=list(range(9))), tmp_path / "set.parquet", row_group_size=2)
        source = open_source(on_file(tmp_path / "set.parquet"), COLOUR)
        for i in (8, 0, 3, 4, 1):
            assert source.read(i).content == png(images[i])
            assert source.read(i).label == i

    def test_a_row_without_an_image_costs_only_itself(self, tmp_path):
        images = list(pictures(3))
        images[1] = None
        pq.write_table(self.table(images, label=[5, 6, 7]), tmp_path / "set.parquet")
        source = open_source(on_file(tmp_path / "set.parquet"), COLOUR)
        with pytest.raises(BadImageError, match="Row 1 has no image"):
            source.read(1)
        assert source.about(1) == (6, None)
        assert source.read(2).label == 7

    def test_a_custom_id_that_cannot_be_kept_costs_only_its_row(self, tmp_path):
        bad_utf8 = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
        ids = pa.chunked_array([pa.array(["a\0b"]), bad_utf8, pa.array(["c"])])
        pq.write_table(self.table(pictures(3), custom_id=ids), tmp_path / "set.parquet")
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
    def test_other_columns(self, tmp_path, table, sentence):
        pq.write_table(table, tmp_path / "set.parquet")
        with pytest.raises(InputError, match=sentence):
            open_source(on_file(tmp_path / "set.parquet"), COLOUR)

    def test_a_small_file_of_many_large_rows_takes_little_memory(self, tmp_path):
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

    def test_an_image_that_is_too_large_costs_only_itself(self, tmp_path):
        images = [b"x" * 2000, b"y" * 10]
        pq.write_table(pa.table({"img": images}), tmp_path / "set.parquet")
        source = open_source(on_file(tmp_path / "set.parquet"), COLOUR, Limits(member_bytes=1000))
        with pytest.raises(BadImageError, match="The image of row 0 has 2,000 bytes: send at most 1,000"):
            source.read(0)
        assert source.read(1).content == images[1]

    def test_rows_before_the_damage_are_read(self, tmp_path):
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

    def test_a_damaged_file(self, tmp_path):
        (tmp_path / "set.parquet").write_bytes(b"PAR1" + bytes(50))
        with pytest.raises(InputError, match="damaged"):
            open_source(on_file(tmp_path / "set.parquet"), COLOUR)


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


class TestLabels:
    """Labels that are no class of the model are never counted as wrong answers."""

    NAMES = ("one", "two", "three")

    def stored(self, path: Path, kind: str, labels: list[int], name: str = "label") -> InputSpec:
        images = pictures(len(labels))
        match kind:
            case "parquet":
                rows = [{"bytes": png(image)} for image in images]
                pq.write_table(pa.table({"image": rows, name: labels}), path / "set")
            case "npz":
                np.savez(path / "set.npz", images=images, **{name: np.array(labels)})
                (path / "set.npz").rename(path / "set")
            case "npy in zip" | "packed folder":
                folder = "pictures/" if kind == "packed folder" else ""
                table = f"name,{name}\n" + "".join(f"{i}.npy,{label}\n" for i, label in enumerate(labels))
                members = {f"{folder}{i}.npy": npy(image) for i, image in enumerate(images)}
                zipped(path / "set", members | {f"{folder}labels.csv": table.encode()})
            case "arrays packed by hand":
                arrays = {"images": npy(images), name: npy(np.array(labels))}
                zipped(path / "set", {f"set/{key}.npy": value for key, value in arrays.items()})
        return on_file(path / "set")

    @pytest.mark.parametrize("kind", ["parquet", "npz", "npy in zip", "packed folder", "arrays packed by hand"])
    def test_minus_one_is_none_and_one_too_large_is_refused(self, tmp_path, kind):
        some = open_source(self.stored(tmp_path, kind, [-1, 2]), COLOUR, class_names=self.NAMES)
        assert [some.read(i).label for i in (0, 1)] == [None, 2]
        assert some.remark.startswith("1 of 2 images have a label below 0")
        none = open_source(self.stored(tmp_path, kind, [-1, -100]), COLOUR, class_names=self.NAMES)
        assert none.about(1)[0] is None
        assert none.remark.endswith("so no accuracy is measured.")
        assert open_source(self.stored(tmp_path, kind, [0, 2]), COLOUR, class_names=self.NAMES).remark == ""
        with pytest.raises(InputError, match="Row 1 has label 3, but the model has the classes 0 to 2, and 1 of 2"):
            open_source(self.stored(tmp_path, kind, [0, 3]), COLOUR, class_names=self.NAMES)

    @pytest.mark.parametrize("kind", ["parquet", "npz", "npy in zip"])
    def test_a_column_of_another_name(self, tmp_path, kind):
        spec = self.stored(tmp_path, kind, [1, 2], name="genus")
        if kind == "npy in zip":
            with pytest.raises(InputError, match="has the columns name, genus in its first row"):
                open_source(spec, COLOUR, class_names=self.NAMES)
        else:
            without = open_source(spec, COLOUR, class_names=self.NAMES)
            assert (without.read(1).label, "genus" in without.remark) == (None, True)
        named = open_source(replace(spec, label_column="genus"), COLOUR, class_names=self.NAMES)
        assert (named.read(1).label, named.remark) == (2, "")
        with pytest.raises(InputError, match="species"):
            open_source(replace(spec, label_column="species"), COLOUR, class_names=self.NAMES)

    def test_class_folders_count_by_name(self, tmp_path):
        members = {"set/two/a.png": png(pictures(1)[0]), "set/three/b.png": png(pictures(1)[0])}
        source = open_source(on_file(zipped(tmp_path / "set.zip", members)), COLOUR, class_names=self.NAMES)
        assert [source.read(i).label for i in (0, 1)] == [2, 1]
        for name in ("two", "three"):
            for i in range(10):
                file = tmp_path / "set" / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(png(pictures(1)[0]))
        folder = InputSpec("dataset", f"folder:{tmp_path / 'set'}")
        found = open_source(folder, COLOUR, class_names=self.NAMES)
        assert [found.read(i).label for i in (0, 1)] == [2, 1]
        (tmp_path / "set" / "two").rename(tmp_path / "set" / "zwei")
        with pytest.raises(InputError, match=r"has 2 classes, but the model 3 .*and 'zwei' is none of these"):
            open_source(folder, COLOUR, class_names=self.NAMES)


class TestPin:
    @pytest.mark.parametrize("kind", ["npz", "zip", "parquet", "folder"])
    def test_replaced_pixels_are_seen(self, tmp_path, kind):
        if kind == "folder":
            for i in range(10):
                (tmp_path / "set" / "one").mkdir(parents=True, exist_ok=True)
                (tmp_path / "set" / "one" / f"{i}.png").write_bytes(png(pictures(i + 1)[i]))
            spec, file = InputSpec("dataset", f"folder:{tmp_path / 'set'}"), tmp_path / "set" / "one" / "9.png"
        else:
            spec = TestLabels().stored(tmp_path, "npy in zip" if kind == "zip" else kind, [0, 1])
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


class TestUri:
    def test_a_file_below_a_root(self, tmp_path):
        (tmp_path / "a b.npz").write_bytes(b"x")
        assert resolve_uri(f"file://{tmp_path}/a%20b.npz", [tmp_path]) == tmp_path / "a b.npz"
        assert resolve_uri(f"{tmp_path}/a b.npz", [tmp_path]) == tmp_path / "a b.npz"

    def test_a_root_that_is_itself_a_link(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "a.npz").write_bytes(b"x")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert resolve_uri(f"file://{tmp_path}/link/a.npz", [tmp_path / "link"]).is_file()

    def test_what_lies_outside_looks_like_what_is_not_there(self, tmp_path):
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
    def test_other_schemes_and_hosts(self, tmp_path, uri):
        with pytest.raises(InputError, match=r"are not read here|is written file|no NUL"):
            resolve_uri(uri, [tmp_path])

    def test_without_roots(self, tmp_path):
        with pytest.raises(InputError, match="reads no files"):
            resolve_uri(f"file://{tmp_path}", [])

    def test_a_file_replaced_by_a_link_is_refused_when_it_is_opened(self, tmp_path):
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
