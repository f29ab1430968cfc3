"""Promises of npz and zip files: every layout gives the same rows, and what is not accepted is refused."""

import io
import stat
import time
import zipfile

import numpy as np
import pytest
from tests.job_inputs import COLOUR, GREY, on_file, pictures, png, zipped

from spacte_workers.batch.inputs import InputError, Limits, open_source
from spacte_workers.images import BadImageError


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
        began = time.thread_time()
        with pytest.raises(InputError, match="All 100,000 files of the zip file are empty"):
            open_source(on_file(path), COLOUR)
        assert time.thread_time() - began < 4

    def test_an_image_without_a_label(self, tmp_path):
        members = {"a.png": png(pictures(1)[0]), "labels.csv": b"name,label\nb.png,1\n"}
        with pytest.raises(InputError, match=r"no row for 'a\.png'"):
            open_source(on_file(zipped(tmp_path / "set.zip", members)), COLOUR)
