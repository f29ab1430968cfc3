"""What `spacte compare` says beyond averages: given radii, classes, the distribution of p_A, other alpha and n."""

import csv
import json
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from scipy import stats

from spacte_client.analysis import LogError, Row, Run, read_log
from spacte_client.analysis.accuracy import Votes, share_above
from spacte_client.analysis.pairs import mcnemar
from spacte_client.analysis.recertified import recertified
from spacte_workers.statistics.bounds import clopper_pearson_lower

from .conftest import CERTIFICATE, Spacte


def run_of(chosen: int, n: int = 1000, *, label: int = 7, index: int = 0, **changes: Any) -> Run:
    votes = {"label": 7, "chosen": chosen, "n": n, "alpha": 0.001, "sigma": 0.25, "noise_error": 0.0}
    votes |= {"stops_early": False} | changes
    return Run("run", (Row(index, label, 7, 0.5, label == 7, 1.0, Votes(**votes)),))


def records(folder: Path, name: str, **changes: Any) -> str:
    lines = [
        CERTIFICATE | {"outcome": "certified", "index": i, "true_label": true, "radius": radius} | changes
        for i, (true, radius) in enumerate([(7, 0.5), (7, 0.2), (3, 0.4)])
    ]
    path = folder / name
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


@pytest.mark.parametrize("alpha", [0.1, 0.001, 1e-6])
@pytest.mark.parametrize("chosen", [0, 400, 700, 995, 1000])
def test_another_alpha_gives_the_bound_of_the_service(chosen: int, alpha: float) -> None:
    row = recertified(run_of(chosen, noise_error=1e-4), alpha=alpha).rows[0]
    p = float(clopper_pearson_lower(chosen, 1000, alpha)) - 1e-4
    assert row.predict == (7 if p > 0.5 else -1)
    assert row.correct == (p > 0.5)
    expected = 0.25 * NormalDist().inv_cdf(p) if p > 0.5 else 0
    assert expected - 2e-6 < row.radius <= expected


def test_votes_of_fewer_noises_are_hypergeometric() -> None:
    n, chosen, fewer, images = 60, 45, 20, 4000

    def radius_of(chosen: int, n: int, index: int = 0) -> float:
        return recertified(run_of(chosen, n, index=index, sigma=100.0), alpha=0.4, n=fewer).rows[0].radius

    radii = [radius_of(chosen, n, index) for index in range(images)]
    assert radius_of(chosen, n, 5) == radii[5]
    likely = [k for k in range(fewer + 1) if stats.hypergeom.pmf(k, n, chosen, fewer) * images > 10]
    seen = Counter(radii)
    found = [seen[radius_of(k, fewer)] for k in likely]
    assert sum(found) > 0.98 * images
    expected = stats.hypergeom.pmf(likely, n, chosen, fewer)
    assert stats.chisquare(found, expected / expected.sum() * sum(found)).pvalue > 1e-4


def test_what_cannot_be_certified_again_is_said(spacte: Spacte, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="at most"):
        recertified(run_of(700), n=1001)
    with pytest.raises(LogError, match="stopping rule"):
        recertified(run_of(700, stops_early=True), alpha=0.01)
    (tmp_path / "a.tsv").write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.4\t1\t1\n")
    run = spacte("compare", str(tmp_path / "a.tsv"), "--alpha", "0.01")
    assert (run.status, "no votes" in run.err) == (1, True)
    for rule in ({"tolerance": 0.1}, {"looks": 3}, {"n_max": 2000}):
        assert spacte("compare", records(tmp_path, "b.ndjson", **rule), "--n", "10").status == 1


def test_an_abstention_is_certified_where_alpha_allows_it(tmp_path: Path) -> None:
    counts = [0, 0, 0, 460, 0, 0, 0, 540, 0, 0]
    path = records(tmp_path, "a.ndjson", label=-1, radius=0.0, counts=counts)
    run = read_log(path)
    assert run.abstained == 3
    assert run.rules == {(1000, 0.001, 0.25)}
    assert [row.predict for row in recertified(run, alpha=0.05).rows] == [7, 7, 7]
    assert recertified(run).abstained == 3


def test_the_distribution_of_p_a() -> None:
    radius = 0.25 * NormalDist().inv_cdf(0.9)
    rows = (
        Row(0, 1, 1, radius + 1e-9, True),
        Row(1, 1, 2, 3.0, False),
        Row(2, 1, -1, 0.0, False),
        Row(3, 1, 1, 0.0, True),
    )
    assert share_above(Run("a", rows), [0.5, 0.8, 0.9, 0.95], 0.25) == [0.5, 0.25, 0.25, 0]


def test_given_radii_classes_and_distribution(spacte: Spacte, tmp_path: Path) -> None:
    logs = [records(tmp_path, "a.ndjson"), records(tmp_path, "b.ndjson")]
    options = ("--radius", "0.3", "--radius", "0.1", "--per-class", "--ecdf", "--format")
    first = json.loads(spacte("compare", *logs, *options, "json").out)["runs"][0]
    assert [(p["radius"], p["value"]) for p in first["certified_accuracy"]] == [(0.3, 1 / 3), (0.1, 2 / 3)]
    of_classes = {part["label"]: (part["images"], part["acr"]) for part in first["classes"]}
    assert of_classes == {3: (1, 0), 7: (2, pytest.approx(0.35))}
    assert [p["at_least"] for p in first["proven_probability"]][:2] == [0.5, 0.6]
    assert first["proven_probability"][0]["value"] == pytest.approx(2 / 3)
    for form in ("table", "markdown", "latex"):
        text = spacte("compare", *logs, *options, form).out
        assert all(part in text for part in ("at 0.3", "a: 7", "0.350", "proven"))


def test_the_csv_is_one_table_of_numbers(spacte: Spacte, tmp_path: Path) -> None:
    logs = [records(tmp_path, "a.ndjson"), records(tmp_path, "b,c.ndjson")]
    options = ("--radius", "0.3", "--per-class", "--ecdf", "--format")
    rows = list(csv.DictReader(spacte("compare", *logs, *options, "csv").out.splitlines()))
    document = json.loads(spacte("compare", *logs, *options, "json").out)

    def found(**wanted: str) -> list[dict[str, str]]:
        return [row for row in rows if all(row[name] == value for name, value in wanted.items())]

    for run in document["runs"]:
        (whole,) = found(run=run["name"], minus="", measure="certified_accuracy", **{"class": ""})
        (point,) = run["certified_accuracy"]
        assert [float(whole[name]) for name in ("at", "value", "low", "high")] == [
            point[name] for name in ("radius", "value", "low", "high")
        ]
        assert [float(row["value"]) for row in found(run=run["name"], measure="acr", minus="")] == [
            run["acr"],
            *(part["acr"] for part in run["classes"]),
        ]
        levels = found(run=run["name"], measure="proven_probability")
        assert [float(row["value"]) for row in levels] == [level["value"] for level in run["proven_probability"]]
    differences = found(run="a", minus="b,c")
    assert [float(row["difference"]) for row in differences] == [pair["difference"] for pair in document["pairs"]]
    assert all(len(row) == 11 and None not in row for row in rows)


def test_different_rules_beside_each_other_are_said(spacte: Spacte, tmp_path: Path) -> None:
    logs = [records(tmp_path, "a.ndjson"), records(tmp_path, "b.ndjson", alpha=0.01)]
    assert "different rules" in spacte("compare", *logs).err
    assert spacte("compare", *logs, "--alpha", "0.01").err == ""
    assert spacte("compare", *logs[:1], *logs[:1]).err == ""


def stopped(folder: Path, name: str) -> str:
    """The records with the image whose answer is wrong stopped before the estimation."""
    path = Path(records(folder, name))
    *whole, last = map(json.loads, path.read_text().splitlines())
    changes = {"outcome": "abstained", "label": -1, "label_name": None, "abstained": True, "radius": 0.0}
    changes |= {"p_lower": 0.0, "n": 0, "counts": [0] * 10, "looks": 0, "stop_reason": "incorrect", "expected": 3}
    path.write_text("\n".join(map(json.dumps, [*whole, last | changes])))
    return str(path)


def test_images_stopped_as_incorrect_count_as_wrong_and_are_told(spacte: Spacte, tmp_path: Path) -> None:
    logs = [records(tmp_path, "whole.ndjson"), stopped(tmp_path, "stopped.ndjson")]
    told = spacte("compare", *logs, "--format", "json")
    assert told.err == (
        "Stopped as incorrect: 1 image of stopped. They count as abstentions, and change no ACR and no accuracy.\n"
    )
    whole, other = json.loads(told.out)["runs"]
    assert (other["abstained"], other["incorrect"]) == (1, 1)
    names = ("images", "acr", "certified_accuracy")
    assert [whole[name] for name in names] == [other[name] for name in names]
    again = [json.loads(spacte("compare", log, "--n", "500", "--json").out)[0]["acr"] for log in logs]
    assert again[0] == again[1] > 0


@pytest.mark.parametrize(
    "options",
    [
        ("--radius", "-1"),
        ("--radius", "1", "--step", "1"),
        ("--alpha", "0.5"),
        ("--n", "0"),
        ("--ecdf", "--sigma", "-1"),
    ],
)
def test_options_that_cannot_be(spacte: Spacte, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert spacte("compare", records(tmp_path, "a.ndjson"), *options).status == 2


def test_a_distribution_needs_one_noise_level(spacte: Spacte, tmp_path: Path) -> None:
    logs = [records(tmp_path, "a.ndjson"), records(tmp_path, "b.ndjson", sigma=0.5)]
    assert (spacte("compare", *logs, "--ecdf").status, spacte("compare", *logs[:1], "--ecdf").status) == (2, 0)


@pytest.mark.parametrize(("radius", "options"), [(0.5, ("--step", "1e-9")), (99_999.0, ())])
def test_a_grid_of_millions_of_radii_is_refused(spacte: Spacte, tmp_path: Path, radius: float, options: Any) -> None:
    found = spacte("compare", records(tmp_path, "a.ndjson", radius=radius), *options)
    assert found.status == 2
    assert "--step" in found.err


@pytest.mark.slow
def test_the_distribution_is_drawn(spacte: Spacte, tmp_path: Path) -> None:
    out = tmp_path / "ecdf.svg"
    assert spacte("plot", records(tmp_path, "a.ndjson"), "--ecdf", "--out", str(out)).status == 0
    assert b"proven probability" in out.read_bytes() or out.stat().st_size > 5000


HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
ROWS = "0\t3\t3\t0.5\t1\t0:00:12.345\n20\t7\t-1\t0.0\t0\t0:00:01\n"


@pytest.mark.parametrize(
    "text",
    [
        (HEAD + ROWS).replace("\t", " "),
        (HEAD + ROWS).replace("\t", ","),
        (HEAD + ROWS).replace("-1", "abstain").replace("idx", "Index"),
        "  # sigma = 0.25\n" + ROWS.replace("\t", "   "),
        "# " + (HEAD + ROWS).replace("\t", " "),
        "# idx predict label radius correct\n0 3 3 0.5 1\n20 -1 7 0.0 0\n",
        '"idx","label","predict","radius","correct","time"\n"0","3","3","0.5","1","1 day, 0:00:01"\n20,7,-1,0,0,1\n',
        "idx\tpredict\tlabel\tp_lower\tcorrect\tradius\n0\t3\t3\t0.97\t1\t0.5\n20\t-1\t7\t0\t0\t0\n",
    ],
)
def test_columns_are_read_where_the_first_line_names_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.log").write_text(text)
    run = read_log(tmp_path / "a.log")
    assert [(r.index, r.label, r.predict, r.radius) for r in run.rows] == [(0, 3, 3, 0.5), (20, 7, -1, 0.0)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "-1\t3\t3\t0.5\t1\t1\n", "index -1 is no image"),
        (HEAD + "0\t3\t-5\t0.0\t0\t1\n", "predict -5 is no class"),
        (HEAD + "0\t3\t-1\t0.5\t0\t1\n", "radius 0.5 contradicts an abstention"),
        (HEAD + "0\t3\t3\t1e308\t1\t1\n", "radius 1e[+]308 cannot be"),
        ("idx\tlabel\tpredict\tradius\tradius\tcorrect\n0\t3\t3\t0.5\t0.7\t1\n", "more than once the column radius"),
    ],
)
def test_what_no_certification_writes_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.log").write_text(text)
    with pytest.raises(LogError, match=says):
        read_log(tmp_path / "a.log")


@pytest.mark.parametrize("radius", [float("nan"), -0.5])
def test_a_record_whose_radius_cannot_be_is_refused(tmp_path: Path, radius: float) -> None:
    with pytest.raises(LogError, match=r"a\.ndjson, line 1, .* cannot be"):
        read_log(records(tmp_path, "a.ndjson", radius=radius))


def test_a_log_without_a_column_or_a_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("idx\tlabel\tpredict\tcorrect\ttime\n0\t3\t3\t1\t0:00:01\n")
    with pytest.raises(LogError, match="no column radius"):
        read_log(path)
    path.write_text(HEAD + "0\t-1\t-1\t0.0\t1\t1\n")
    with pytest.raises(LogError, match="label -1"):
        read_log(path)
    for changes in ({"true_label": -1, "label": -1}, {"correct": False, "true_label": 7, "label": 7}):
        with pytest.raises(LogError, match=r"label -1|contradicts"):
            read_log(records(tmp_path, "b.ndjson", **changes))


def test_names_in_folders_that_are_alike_stay_apart(spacte: Spacte, tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("noise_0.25/test/sigma_0.25", "noise_0.50/test/sigma_0.25", "a.tsv", "a.log")]
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(HEAD + ROWS)
    runs = json.loads(spacte("compare", *map(str, logs), "--json").out)
    expected = ["noise_0.25/test/sigma_0.25", "noise_0.50/test/sigma_0.25"]
    assert [run["name"] for run in runs] == [*expected, f"{tmp_path.name}/a.tsv", f"{tmp_path.name}/a.log"]
    assert spacte("compare", *map(str, logs[:2]), "--name", "a", "--name", "a").status == 2


def test_long_names_stand_above_the_table_and_leave_room_for_figures(spacte: Spacte, tmp_path: Path) -> None:
    long = [f"a-study-of-{'many-' * 12}methods-seed-{seed}" for seed in range(5)]
    files = [records(tmp_path, f"{name}.jsonl") for name in long]
    found = spacte("compare", *files, "--radius", "0.1", "--radius", "0.3")
    for i, name in enumerate(long):
        assert f"run {i + 1}: {name}\n" in found.out
    assert "run 5 3 0 0.233 66.7% 33.3%" in [" ".join(line.split()) for line in found.out.splitlines()]
    assert "run 1 - run 5" in found.out
    assert f"{long[0]},{long[4]}," in spacte("compare", *files, "--format", "csv").out
    assert "run 1" not in spacte("compare", *files[:2], "--format", "markdown").out


def test_what_is_certified_again_keeps_its_noise_level(spacte: Spacte, tmp_path: Path) -> None:
    logs = [records(tmp_path, "a.ndjson"), records(tmp_path, "b.ndjson", alpha=0.01)]
    assert spacte("compare", *logs, "--alpha", "0.01", "--ecdf").status == 0
    assert "different rules" in spacte("compare", *logs, "--n", "500").err


def test_votes_of_another_function_are_not_bounded_again(spacte: Spacte, tmp_path: Path) -> None:
    log = records(tmp_path, "a.ndjson", carried={"pairs": 100, "differences": 3})
    run = spacte("compare", log, "--alpha", "0.01")
    assert (run.status, "carried over" in run.err) == (1, True)
    assert spacte("compare", log).status == 0


def test_an_alpha_below_the_spacing_of_doubles_has_its_bound() -> None:
    p = float(clopper_pearson_lower(995, 1000, 1e-20))
    expected = pytest.approx(0.25 * NormalDist().inv_cdf(p), abs=2e-6)
    assert recertified(run_of(995), alpha=1e-20).rows[0].radius == expected


@pytest.mark.parametrize("sigma", ["-1", "0", "nan", "inf"])
def test_a_noise_level_that_cannot_be_is_refused(spacte: Spacte, tmp_path: Path, sigma: str) -> None:
    assert spacte("compare", records(tmp_path, "a.ndjson"), "--sigma", sigma).status == 2


def test_a_radius_that_is_certified_is_reached(spacte: Spacte, tmp_path: Path) -> None:
    """Three times .1 is above .3 in doubles."""
    (tmp_path / "noise_0.1").write_text("0\t3\t3\t0.3\t1\t1\n")
    points = json.loads(spacte("compare", str(tmp_path / "noise_0.1"), "--json").out)[0]["certified_accuracy"]
    assert [(point["radius"], point["value"]) for point in points][-1] == (0.3, 1.0)


def test_one_image_decides_nothing_and_thousands_take_no_time(spacte: Spacte, tmp_path: Path) -> None:
    for name, radius in (("a", 0.5), ("b", 0.2)):
        (tmp_path / name).write_text(f"0\t3\t3\t{radius}\t1\t1\n")
    found = json.loads(spacte("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--format", "json").out)
    assert found["pairs"][0]["p_value"] == 1
    assert mcnemar(4990, 5010) == pytest.approx(stats.binomtest(4990, 10_000).pvalue, rel=1e-6)


def test_images_without_a_certificate_are_told(spacte: Spacte, tmp_path: Path) -> None:
    log = Path(records(tmp_path, "a.ndjson"))
    log.write_text(log.read_text() + '\n{"outcome": "errored", "index": 9}')
    for form in ("table", "csv", "latex"):
        assert "errored" in spacte("compare", str(log), "--format", form).out


def test_latex_has_no_character_of_its_own(spacte: Spacte, tmp_path: Path) -> None:
    name = r"[5] #1 $x$ a\b {c}~^"
    run = spacte("compare", records(tmp_path, "a.ndjson"), "--name", name, "--ecdf", "--format", "latex")
    told = r"{[}5] \#1 \$x\$ a\textbackslash{}b \{c\}\textasciitilde{}\textasciicircum{} & "
    assert told in run.out
    assert r"$\geq$ 0.5" in run.out


@pytest.mark.slow
def test_a_picture_tells_of_other_rules_and_images(spacte: Spacte, tmp_path: Path) -> None:
    (tmp_path / "c.log").write_text(ROWS.replace("0\t3\t3", "0\t7\t7"))
    logs = [records(tmp_path, "a.ndjson"), records(tmp_path, "b.ndjson", alpha=0.01), str(tmp_path / "c.log")]
    run = spacte("plot", *logs, "--out", str(tmp_path / "a.svg"))
    assert "No artists" not in spacte("plot", logs[0], "--name", "_a", "--out", str(tmp_path / "b.svg")).err
    assert (run.status, "different rules" in run.err, "are the same" in run.err) == (0, True, True)
