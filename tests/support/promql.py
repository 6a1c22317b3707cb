"""Which metrics and labels an expression asks for, from the syntax tree that Prometheus makes of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from taskdeletion.observe.families import FAMILIES
from taskdeletion.observe.metrics import Metrics
from tests.support.scraping import Scrape

Tree = Mapping[str, Any]
#: What Prometheus knows of a target itself.
OF_THE_TARGET = frozenset({"namespace", "pod", "job", "instance"})
_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def known_labels() -> dict[str, frozenset[str]]:
    """Every name that can be asked for, with its labels."""
    found = {
        family.name + suffix: frozenset(family.labels) | ({"le"} if suffix == "_bucket" else set())
        for family in FAMILIES
        for suffix in _SUFFIXES[family.kind]
    }
    metrics = Metrics()
    metrics.watch_process("1")
    for name, labels, _ in Scrape(metrics.expose().decode()).samples():
        found.setdefault(name, frozenset(labels))
    return {name: labels | OF_THE_TARGET for name, labels in found.items()} | {"up": OF_THE_TARGET}


def find_unknown(tree: Tree, known: Mapping[str, frozenset[str]]) -> list[str]:
    """The names and labels in an expression that nothing has, in words."""
    return [problem for node in _nodes(tree) for problem in _find_in(node, known)]


def _find_in(node: Tree, known: Mapping[str, frozenset[str]]) -> Iterator[str]:
    names = {inner["name"] for inner in _nodes(node) if "Selector" in inner["type"]}
    labels = frozenset().union(*(known.get(name, frozenset()) for name in names))
    if "Selector" in node["type"] and node["name"] not in known:
        yield f"no metric {node['name']!r}"
    yield from (f"no label {label!r} of {sorted(names)}" for label in _labels_in(node) if label not in labels)


def _labels_in(node: Tree) -> Iterator[str]:
    yield from (matcher["name"] for matcher in node.get("matchers") or () if matcher["name"] != "__name__")
    yield from node.get("grouping") or ()
    matching = node.get("matching") or {}
    yield from matching.get("labels") or ()
    yield from matching.get("include") or ()


def _nodes(tree: Any) -> Iterator[Tree]:
    """A node and all below it."""
    if isinstance(tree, Mapping):
        if isinstance(tree.get("type"), str):
            yield tree
        for inner in tree.values():
            yield from _nodes(inner)
    elif isinstance(tree, list):
        for inner in tree:
            yield from _nodes(inner)
