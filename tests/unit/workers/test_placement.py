"""Placement: a node gets as many samplers as it has room for, wherever Ray put them at first."""

from spacte_workers.cluster.placement import astray, spare_nodes


def test_the_emptiest_node_comes_first_and_each_as_often_as_it_has_room() -> None:
    assert spare_nodes({"a": 2, "b": 3}, []) == ["a", "b", "a", "b", "b"]
    assert spare_nodes({"a": 2, "b": 3}, ["b"]) == ["a", "a", "b", "b"]
    assert spare_nodes({"a": 2}, ["a", "a"]) == []


def test_samplers_on_lost_nodes_or_nowhere_take_no_room() -> None:
    assert spare_nodes({"a": 1}, ["gone", None]) == ["a"]
    assert astray({"a": 1}, ["gone", None]) is None


def test_one_of_too_many_on_a_node_is_astray() -> None:
    assert astray({"a": 2, "b": 1}, ["b", "a", "a"]) is None
    assert astray({"a": 1, "b": 1}, ["b", "a", "a"]) == 1
