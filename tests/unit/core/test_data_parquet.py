"""Promises of parquet files: order and names as published, columns as hubs name them, errors that name the remedy."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.image_sets import png, random_image, refusal

from spacte_core.data import DataConfig, DataError, load_data
from spacte_core.data.base import in_order

CPU = torch.device("cpu")


def write_parquet(
    file: Path, labels: list[Any], column: str = "img", names: list[str] | None = None, label: str = "label"
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(random_image(i)), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({column: rows, "coarse_label": [0] * len(labels), label: labels})
    if names:
        info = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, file)


def test_parquet_folder_keeps_the_order_and_the_names(tmp_path: Path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1], names=["no", "yes"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [1], names=["no", "yes"])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [1, 0, 1], column="image", names=["no", "yes"])
    config = DataConfig(source=f"parquet:{tmp_path}")
    train, test = load_data(config, "train"), load_data(config, "test")
    assert list(train.class_names) == ["no", "yes"]
    assert next(train.batches(in_order(3, 3), CPU)).y_B.tolist() == [0, 1, 1]
    batch = next(test.batches(in_order(3, 3), CPU))
    assert batch.y_B.tolist() == [1, 0, 1]
    assert torch.equal(batch.x_BCHW[2], torch.from_numpy(random_image(2)).permute(2, 0, 1).float() / 255)


def test_parquet_errors_name_the_remedy(tmp_path: Path):
    assert "There is no file or folder" in refusal(f"parquet:{tmp_path / 'nowhere'}")
    assert "holds no train-*.parquet" in refusal(f"parquet:{tmp_path}")
    (tmp_path / "train-0.parquet").write_text("nonsense")
    assert "not a parquet file" in refusal(f"parquet:{tmp_path}")
    pq.write_table(pa.table({"pixels": [1], "label": [0]}), tmp_path / "train-0.parquet")
    assert "columns pixels, label" in refusal(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 2, 2], "no image of class '1'"),
        ([-1, 0], "1 rows of"),
        ([0, None], "1 rows of"),
        (["cat", "dog"], "of type string: number the classes"),
    ],
)
def test_labels_that_do_not_number_the_classes_are_refused(tmp_path: Path, labels: list[Any], sentence: str):
    write_parquet(tmp_path / "train-0.parquet", labels)
    assert sentence in refusal(f"parquet:{tmp_path}")


def test_columns_as_hubs_name_them_and_any_other_by_name(tmp_path: Path):
    write_parquet(tmp_path / "train-0.parquet", [0, 1], names=["no", "yes"], label="fine_label")
    train = load_data(DataConfig(source=f"parquet:{tmp_path}"), "train")
    assert (list(train.class_names), train.labels_N.tolist()) == (["no", "yes"], [0, 1])
    write_parquet(tmp_path / "train-0.parquet", [1, 0], label="genus")
    assert "columns img, coarse_label, genus, and no label" in refusal(f"parquet:{tmp_path}")
    named = load_data(DataConfig(source=f"parquet:{tmp_path}", label_column="genus"), "train")
    assert named.labels_N.tolist() == [1, 0]
    with pytest.raises(DataError, match="no column 'species' among img, coarse_label, genus"):
        load_data(DataConfig(source=f"parquet:{tmp_path}", label_column="species"), "train")


def test_a_clone_of_a_hub_and_its_hidden_test_labels(tmp_path: Path):
    write_parquet(tmp_path / "data" / "train-0.parquet", [0, 1])
    write_parquet(tmp_path / "data" / "test-0.parquet", [-1, -1])
    config = DataConfig(source=f"parquet:{tmp_path}")
    assert load_data(config, "train").labels_N.tolist() == [0, 1]
    assert "2 rows of" in refusal(f"parquet:{tmp_path}", "test")
    write_parquet(tmp_path / "data" / "validation-0.parquet", [1, 0])
    assert load_data(config, "test").labels_N.tolist() == [1, 0]
    (tmp_path / "data").rename(tmp_path / "plain")
    assert load_data(config, "train").labels_N.tolist() == [0, 1]
    write_parquet(tmp_path / "other" / "train-0.parquet", [0, 1])
    assert "several sets (other, plain)" in refusal(f"parquet:{tmp_path}")


@pytest.mark.shared
def test_the_shared_cifar10_is_read_in_place():
    path = Path(__file__).parents[4] / "shared/data/cifar10"
    if not path.is_dir():
        pytest.skip("the CIFAR-10 parquet files are not beside the checkout")
    data = load_data(DataConfig(source=f"parquet:{path}"), "test")
    assert len(data) == 10_000
    assert data.input_shape == (3, 32, 32)
    assert next(data.batches([torch.arange(10)], CPU)).y_B.tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
