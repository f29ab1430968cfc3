"""Promise: every query of the Grafana dashboard names metrics and labels that there are, and no metric is missing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

DASHBOARD = json.loads((Path(__file__).parents[3] / "deploy" / "grafana" / "spacte.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
SCRAPED = {"instance", "job", "le"}
"""Labels that Prometheus adds, or that every histogram has."""


@pytest.fixture
def metrics(app: FastAPI) -> dict[str, set[str]]:
    """Each series that the gateway exposes, with its labels."""
    gathered = app.state.gateway.metrics
    gathered.answered("/v1/certify", "POST", 200, 0.1)
    gathered.drawn("digits@1", 100, 0.1)
    gathered.wasted("digits@1", 10, "past_stop")
    gathered.retried(1, "lost")
    gathered.jobs_are({"running": 1})
    gathered.job_images({"certified": 1})
    for counter in (gathered.certify_seconds, gathered.certify_samples):
        counter.labels("digits").observe(1)
    gathered.certificates.labels("digits", "n_max").inc()
    gathered.version_seconds.labels("digits", "0123456789ab").observe(1)
    gathered.version_abstentions.labels("digits", "0123456789ab").inc()
    gathered.abstentions.labels("digits").inc()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(gathered.text().decode())
        for sample in family.samples
        if sample.name.startswith("spacte_") and not sample.name.endswith("_created")
    }


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[f"{i}" for i in range(len(QUERIES))])
def test_a_query_names_what_there_is(metrics: dict[str, set[str]], title: str, query: str) -> None:
    named = set(re.findall(r"\bspacte_\w+", query))
    assert named, title
    assert named <= set(metrics), title
    labels = {
        label.strip()
        for group in re.findall(r"\b(?:by|on|without|group_left) \(([^)]*)\)", query)
        for label in group.split(",")
        if label.strip()
    }
    labels |= set(re.findall(r"(\w+)=~?\"", query))
    assert labels <= SCRAPED.union(*(metrics[name] for name in named)), title
    assert query.count("(") == query.count(")"), title
    assert query.count("{") == query.count("}"), title


def test_a_legend_names_labels_that_the_query_keeps() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
                assert not kept or any(label in group.split(", ") for group in kept), panel["title"]


def test_every_metric_is_on_the_dashboard(metrics: dict[str, set[str]]) -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name) for _, query in QUERIES for name in re.findall(r"spacte_\w+", query)
    }
    there = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics}
    assert shown == there


def test_panels_have_places_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
