"""Promise: labels that are no class of the model are never counted as wrong answers."""

from dataclasses import replace

import pytest
from tests.job_inputs import COLOUR, labelled, on_file, pictures, png, zipped

from spacte_workers.batch.inputs import InputError, InputSpec, open_source

NAMES = ("one", "two", "three")


@pytest.mark.parametrize("kind", ["parquet", "npz", "npy in zip", "packed folder", "arrays packed by hand"])
def test_minus_one_is_none_and_one_too_large_is_refused(tmp_path, kind):
    some = open_source(labelled(tmp_path, kind, [-1, 2]), COLOUR, class_names=NAMES)
    assert [some.read(i).label for i in (0, 1)] == [None, 2]
    assert some.remark.startswith("1 of 2 images have a label below 0")
    none = open_source(labelled(tmp_path, kind, [-1, -100]), COLOUR, class_names=NAMES)
    assert none.about(1)[0] is None
    assert none.remark.endswith("so no accuracy is measured.")
    assert open_source(labelled(tmp_path, kind, [0, 2]), COLOUR, class_names=NAMES).remark == ""
    with pytest.raises(InputError, match="Row 1 has label 3, but the model has the classes 0 to 2, and 1 of 2"):
        open_source(labelled(tmp_path, kind, [0, 3]), COLOUR, class_names=NAMES)


@pytest.mark.parametrize("kind", ["parquet", "npz", "npy in zip"])
def test_a_column_of_another_name(tmp_path, kind):
    spec = labelled(tmp_path, kind, [1, 2], name="genus")
    if kind == "npy in zip":
        with pytest.raises(InputError, match="has the columns name, genus in its first row"):
            open_source(spec, COLOUR, class_names=NAMES)
    else:
        without = open_source(spec, COLOUR, class_names=NAMES)
        assert (without.read(1).label, "genus" in without.remark) == (None, True)
    named = open_source(replace(spec, label_column="genus"), COLOUR, class_names=NAMES)
    assert (named.read(1).label, named.remark) == (2, "")
    with pytest.raises(InputError, match="species"):
        open_source(replace(spec, label_column="species"), COLOUR, class_names=NAMES)


def test_class_folders_count_by_name(tmp_path):
    members = {"set/two/a.png": png(pictures(1)[0]), "set/three/b.png": png(pictures(1)[0])}
    source = open_source(on_file(zipped(tmp_path / "set.zip", members)), COLOUR, class_names=NAMES)
    assert [source.read(i).label for i in (0, 1)] == [2, 1]
    for name in ("two", "three"):
        for i in range(10):
            file = tmp_path / "set" / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(pictures(1)[0]))
    folder = InputSpec("dataset", f"folder:{tmp_path / 'set'}")
    found = open_source(folder, COLOUR, class_names=NAMES)
    assert [found.read(i).label for i in (0, 1)] == [2, 1]
    (tmp_path / "set" / "two").rename(tmp_path / "set" / "zwei")
    with pytest.raises(InputError, match=r"has 2 classes, but the model 3 .*and 'zwei' is none of these"):
        open_source(folder, COLOUR, class_names=NAMES)
