"""Logs, certified accuracy and its interval, tables and plots; the interval against scipy."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from spacte_client.analysis import LogError, Row, Run, clopper_pearson, curve_at, read_log
from spacte_client.analysis.accuracy import radius_grid
from spacte_client.analysis.binomial import beta_cdf
from spacte_client.analysis.logs import log_name, seconds
from spacte_client.analysis.pairs import mcnemar

from .conftest import ABSTENTION, CERTIFICATE, Spacte

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
LOG = (
    HEADER
    + "0\t3\t3\t0.953\t1\t0:00:04.501837\n20\t5\t-1\t0.0\t0\t0:00:03.9\n"
    + "40\t8\t8\t0.25\t1\t12.5\n60\t1\t2\t0.7\t0\t1\n"
)


@given(
    st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.9, 0.95, 0.999]),
)
def test_the_interval_is_that_of_scipy(counts: tuple[int, int], confidence: float) -> None:
    successes, trials = counts
    tail = (1 - confidence) / 2
    low, high = clopper_pearson(successes, trials, confidence)
    expected_low = 0.0 if successes == 0 else stats.beta.ppf(tail, successes, trials - successes + 1)
    expected_high = 1.0 if successes == trials else stats.beta.ppf(1 - tail, successes + 1, trials - successes)
    assert low == pytest.approx(expected_low, rel=1e-8)
    assert high == pytest.approx(expected_high, rel=1e-8)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10_000_000), (1, 10_000_000), (6_000_000, 10_000_000)])
def test_the_interval_of_ten_million(successes: int, trials: int) -> None:
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson(successes, trials) == pytest.approx((interval.low, interval.high), rel=1e-6)


@given(st.floats(0, 1), st.floats(0.5, 1e4), st.floats(0.5, 1e4))
@example(1 - 1e-9, 0.5, 0.5)
def test_the_incomplete_beta_function(x: float, a: float, b: float) -> None:
    x = round(x, 9)  # SciPy errs by 3e-9 next to 1, where the function is as steep as a root
    assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-9)


@pytest.mark.parametrize("wrong", [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 5, 0.0), (1, 5, 1.0)])
def test_impossible_counts_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="required"):
        clopper_pearson(*wrong)


def test_the_width_at_60_percent_of_500_is_4_3_points() -> None:
    low, high = clopper_pearson(300, 500)
    assert (0.6 - low, high - 0.6) == pytest.approx((0.0444, 0.0433), abs=2e-4)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "cohen.tsv"
    path.write_text(LOG)
    return path


def test_a_published_log(log: Path) -> None:
    run = read_log(log)
    assert run.name == "cohen"
    assert run.rows[0] == Row(0, 3, 3, 0.953, True, 4.501837)
    assert [row.seconds for row in run.rows] == [4.501837, 3.9, 12.5, 1.0]
    assert (run.images, run.abstained, run.largest_radius) == (4, 1, 0.953)
    assert run.acr == pytest.approx((0.953 + 0.25) / 4)
    assert [run.correct_beyond(r) for r in (0, 0.25, 0.2500001, 0.953, 1)] == [2, 2, 1, 1, 0]


def test_the_records_of_a_job(tmp_path: Path) -> None:
    path = tmp_path / "job.ndjson"
    records = [
        CERTIFICATE | {"outcome": "certified", "index": 0, "true_label": 7},
        ABSTENTION | {"outcome": "abstained", "index": 1, "true_label": 7},
        {"outcome": "errored", "index": 2, "error": {"code": "bad_image", "detail": "Send a PNG."}},
    ]
    path.write_text("\n".join(json.dumps(entry) for entry in records))
    run = read_log(path, "mine")
    assert (run.name, run.images, run.abstained, run.errored) == ("mine", 2, 1, 1)
    assert run.acr == pytest.approx(CERTIFICATE["radius"] / 2)
    assert run.rows[0].seconds == pytest.approx(1.2345)
    path.write_text(json.dumps(records[0] | {"true_label": None}))
    with pytest.raises(LogError, match="true_label"):
        read_log(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:01:23.5", 83.5), ("83.5", 83.5), ("1 day, 2:00:00", 93600), ("2 days, 0:00:01", 172801), ("1:02:03", 3723)],
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEADER, "no certified images"),
        ("", "no certified images"),
        (HEADER + "0\t3\t3\n", "line 2"),
        (HEADER + "0\t3\t3\tnan\t1\t0:00:01\n", "line 2"),
        (HEADER + "0\t3\t3\t-0.5\t1\t0:00:01\n", "line 2"),
        (HEADER + "0\t3\t3\t0.5\t7\t0:00:01\n", "line 2"),
        (HEADER + "0\t3\tcat\t0.5\t1\t0:00:01\n", "line 2"),
        (LOG + "0\t3\t3\t0.5\t1\tsoon\n", "line 6"),
        ("{oops\n", "line 1"),
        ('{"outcome": "certified"}\n', "line 1"),
    ],
)
def test_a_log_that_is_not_whole_names_the_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(text)
    with pytest.raises(LogError, match=sentence):
        read_log(path)


def test_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="check the path"):
        read_log(tmp_path / "missing.tsv")
    path = tmp_path / "binary.tsv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LogError, match="not text"):
        read_log(path)


def test_a_curve_carries_its_interval(log: Path) -> None:
    curve = curve_at(read_log(log), [0.0, 0.5, 2.0])
    assert curve.values == [0.5, 0.25, 0.0]
    assert (curve.lows[0], curve.highs[0]) == clopper_pearson(2, 4)
    assert curve.lows[2] == 0


def test_a_run_without_a_correct_answer() -> None:
    run = Run("wrong", (Row(0, 1, 2, 0.5, False),))
    assert (run.acr, run.largest_radius) == (0, 0)
    assert radius_grid([run], 0.25) == [0, 0.25]


def test_the_grid_ends_where_no_run_reaches(log: Path) -> None:
    assert radius_grid([read_log(log)], 0.25) == [0, 0.25, 0.5, 0.75, 1.0]


def test_compare_prints_a_table_or_json(spacte: Spacte, log: Path) -> None:
    run = spacte("compare", str(log), str(log), "--name", "a", "--name", "b", "--step", "0.5")
    assert run.status == 0
    rows = [line.split("  ") for line in run.out.splitlines()]
    assert rows[0][0] == "certified accuracy"
    assert "ACR" in run.out
    assert "0.301" in run.out  # 0.30075, to nearest
    assert "at 0.5" in run.out
    assert "25.0%" in run.out
    documents = json.loads(spacte("compare", str(log), "--json", "--confidence", "0.9").out)
    assert documents[0]["name"] == "cohen"
    assert documents[0]["acr"] == pytest.approx(0.30075)
    first = documents[0]["certified_accuracy"][0]
    assert (first["value"], (first["low"], first["high"])) == (0.5, pytest.approx(clopper_pearson(2, 4, 0.9)))


@pytest.mark.parametrize(
    "options", [("--step", "0"), ("--confidence", "1"), ("--name", "only-one", "--name", "too-many")]
)
def test_wrong_options_are_usage_errors(spacte: Spacte, log: Path, options: tuple[str, ...]) -> None:
    assert spacte("compare", str(log), *options).status == 2


@pytest.mark.slow
def test_plot_writes_png_and_svg(spacte: Spacte, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "curve"
    run = spacte("plot", str(log), str(log), "--name", "ours", "--name", "theirs", "--out", str(out))
    assert (run.status, run.out.split()) == (0, [f"{out}.png", f"{out}.svg"])
    assert Path(f"{out}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path(f"{out}.svg").read_text()
    pdf = tmp_path / "x.pdf"
    assert spacte("plot", str(log), "--out", str(pdf), "--title", "T").out.split() == [str(pdf)]
    assert pdf.read_bytes().startswith(b"%PDF")


def test_the_plot_draws_what_the_log_says(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from spacte_client.analysis.plotting import plot_runs

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    plot_runs([read_log(log), read_log(log, "twin")], [tmp_path / "x.svg"])
    axes = drawn[0].axes[0]
    first = axes.lines[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cohen (ACR 0.301)", "twin (ACR 0.301)"]
    radii, values = first.get_xdata(), first.get_ydata()
    assert values[0] == 0.5
    assert values[-1] == 0
    assert all(v == read_log(log).correct_beyond(r) / 4 for r, v in zip(radii, values, strict=True))
    assert len(axes.collections) == 2
    assert math.isclose(axes.get_xlim()[1], 0.953 * 1.05)


@pytest.mark.slow
def test_plot_failures_are_one_sentence(
    spacte: Spacte, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = spacte("plot", str(log), "--out", str(tmp_path / "no" / "x.png"))
    assert run.status == 1
    assert "check the folder" in run.err
    run = spacte("plot", str(tmp_path / "missing.tsv"))
    assert run.status == 1
    assert "check the path" in run.err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = spacte("plot", str(log), "--out", str(tmp_path / "x.png"))
    assert run == (1, "", "Error: Plots need matplotlib; install it with `pip install 'spacte-client[plot]'`.\n")


def test_comparing_imports_neither_numpy_nor_matplotlib(log: Path) -> None:
    program = (
        f"import sys\nfrom spacte_client.cli import main\nsys.argv = ['spacte', 'compare', {str(log)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('numpy', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_an_interval_that_was_not_found_is_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacte_client.analysis.binomial.MOST_TERMS", 2)
    with pytest.raises(ArithmeticError, match="did not converge"):
        clopper_pearson(4321, 8765)


def paired_logs(folder: Path) -> list[str]:
    for name, rows in {
        "a-0.50.log": "\ufeff# a comment\r\n" + HEADER + "0\t3\t3\t1.0\t1\t1\textra\r\n1\t2\tABSTAIN\t0.0\t0\t1\r\n",
        "b-0.50.log": HEADER + "0\t3\t3\t0.4\t1\t1\n1\t2\t2\t0.2\t1\t1\n",
    }.items():
        (folder / name).write_text(rows, encoding="utf-8", newline="")
    return [str(folder / "a-0.50.log"), str(folder / "b-0.50.log")]


def test_pairs_have_differences_and_sign_tests(spacte: Spacte, tmp_path: Path) -> None:
    logs = paired_logs(tmp_path)
    document = json.loads(spacte("compare", *logs, "--format", "json").out)
    assert [run["name"] for run in document["runs"]] == ["a-0.50", "b-0.50"]
    acr, at_0, at_sigma, *_ = document["pairs"]
    assert (acr["radius"], acr["difference"]) == (None, pytest.approx(0.2))
    assert (at_0["radius"], at_0["difference"], at_0["standard_error"], at_0["p_value"]) == (0, -0.5, 0.5, 1)
    assert (at_sigma["radius"], at_sigma["difference"]) == (0.5, 0.5)
    for form, sign in {
        "csv": "difference,standard_error,p_value",
        "markdown": "| ---: |",
        "latex": r"\begin{tabular}",
    }.items():
        assert sign in spacte("compare", *logs, "--format", form).out


def test_the_sign_test_is_that_of_scipy() -> None:
    for first, second in [(0, 0), (1, 5), (16, 41), (300, 320)]:
        expected = stats.binomtest(first, first + second).pvalue if first + second else 1
        assert mcnemar(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("row", "sentence", "status"),
    [
        ("0\t3\t3\t0.4\t1\t1\n", "same images", 0),  # shown beside each other, without a difference
        ("0\t3\t3\t0.4\t1\t1\n1\t5\t5\t0.2\t1\t1\n", "label", 1),
        ("0\t3\t3\t0.4\t1\t1\n0\t3\t3\t0.4\t1\t1\n", "second time", 1),
        ("0\t3\t4\t0.4\t1\t1\n", "contradicts", 1),
    ],
)
def test_runs_that_cannot_be_paired(spacte: Spacte, tmp_path: Path, row: str, sentence: str, status: int) -> None:
    logs = paired_logs(tmp_path)
    Path(logs[1]).write_text(HEADER + row)
    run = spacte("compare", *logs)
    assert run.status == status
    assert sentence in run.err


PUBLISHED = Path(__file__).parents[4] / "shared" / "reference" / "logs"


@pytest.mark.shared
@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published logs are not beside the checkout")
def test_published_logs_compare_as_stated(spacte: Spacte) -> None:
    """Certified accuracy at 0, sigma, 2 sigma and 3 sigma of SPACTE against single networks, and the sign tests."""
    accuracies = {
        "gaussian-0.25": ([83.4, 71.6, 54.4, 40.4], [78.8, 65.2, 49.0, 34.0]),
        "smoothmix-0.50": ([53.4, 46.8, 40.0, 31.2], [58.4, 47.4, 37.2, 25.2]),
        "smoothmix-1.00": ([38.4, 30.2, 22.0, 14.2], [43.2, 31.4, 19.0, 11.2]),
    }
    for name, expected in accuracies.items():
        logs = [str(PUBLISHED / f"{kind}-{name}.log") for kind in ("spacte", "single")]
        found = json.loads(spacte("compare", *logs, "--format", "json").out)
        for run, values in zip(found["runs"], expected, strict=True):
            assert [100 * point["value"] for point in run["certified_accuracy"]] == pytest.approx(values)
        if name == "smoothmix-0.50":
            p_values = {pair["radius"]: pair["p_value"] for pair in found["pairs"]}
            assert (p_values[0], p_values[1.5]) == (pytest.approx(0.0015, rel=0.05), pytest.approx(3e-6, rel=0.1))
    acr = [0.580, 0.745, 0.830, 0.537, 0.668, 0.656, 0.589, 0.759, 0.870]
    table = spacte("compare", *map(str, sorted(PUBLISHED.glob("spacte-*.log"))), "--format", "csv").out
    rows = csv.DictReader(table.splitlines())
    found = [float(row["value"]) for row in rows if row["measure"] == "acr" and not row["minus"]]
    assert [round(value, 3) for value in found] == acr


def test_names_keep_their_numbers(tmp_path: Path) -> None:
    assert [log_name(tmp_path / name) for name in ("sigma_0.12", "sigma_0.25.log")] == ["sigma_0.12", "sigma_0.25"]
