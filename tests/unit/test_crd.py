"""The CRD generator: what a structural schema has to be, what the files look like, and that drift is found."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from pydantic import Field

from taskdeletion.api.common import Kind, Model, rule, with_rules
from taskdeletion.api.crd import (
    KINDS,
    Schema,
    build_crd,
    build_schema,
    check_crds,
    escape_for_helm,
    find_drift,
    render_chart_templates,
    render_crds,
    write_crds,
    write_files,
)
from taskdeletion.api.reference import render_reference
from taskdeletion.api.task_deletion import TaskDeletion

ROOT = Path(__file__).parents[2]
STANDARD = {"apiVersion", "kind", "metadata"}


def _nodes(path: str, node: Schema) -> Iterator[tuple[str, Schema]]:
    """Every schema in `node`, with the path that leads there."""
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from _nodes(f"{path}.{name}", field)
    if "items" in node:
        yield from _nodes(f"{path}[]", node["items"])


NODES = [
    pytest.param(path, node, id=path)
    for kind in KINDS
    for path, node in _nodes(kind.KIND, build_schema(kind))
    if path.rpartition(".")[2] not in STANDARD
]
every_schema = pytest.mark.parametrize(("path", "node"), NODES)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.KIND for kind in KINDS])


def _crd_version(kind: type[Kind]) -> dict[str, Any]:
    versions: list[dict[str, Any]] = build_crd(kind)["spec"]["versions"]
    assert len(versions) == 1
    return versions[0]


# --- every schema -------------------------------------------------------------------------------------------------

FORBIDDEN = {
    *("$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "title", "const", "pattern", "uniqueItems"),
    *("additionalProperties", "exclusiveMinimum", "exclusiveMaximum", "nullable"),
}


@every_schema
def test_a_schema_is_structural(path: str, node: Schema) -> None:
    assert not FORBIDDEN & node.keys()
    assert isinstance(node["type"], str)
    assert node.get("default", "set") is not None


@every_schema
def test_a_string_or_list_is_bounded(path: str, node: Schema) -> None:
    if node["type"] == "string":
        assert "maxLength" in node or "enum" in node or node.get("format") == "date-time"
    if node["type"] == "array":
        assert "maxItems" in node
    if node["type"] == "object":
        assert node["properties"]


@every_schema
def test_a_field_is_described(path: str, node: Schema) -> None:
    if not path.endswith("[]"):
        assert node["description"].rstrip().endswith(".")


@every_schema
def test_a_list_says_how_it_is_merged(path: str, node: Schema) -> None:
    if node["type"] == "array":
        assert node["x-kubernetes-list-type"] in {"set", "map", "atomic"}


@every_schema
def test_an_integer_has_a_width_and_no_limit_that_a_float_would_round(path: str, node: Schema) -> None:
    if node["type"] == "integer":
        assert node["format"] == "int64"
        assert int(float(node.get("maximum", 0))) == node.get("maximum", 0)


@every_schema
def test_a_rule_has_advice_and_names_a_field_that_exists(path: str, node: Schema) -> None:
    for found in node.get("x-kubernetes-validations", []):
        assert found["message"]
        assert found.get("fieldPath", "").removeprefix(".") in {"", *node.get("properties", {})}


# --- one kind -----------------------------------------------------------------------------------------------------


@every_kind
def test_a_crd_carries_what_its_kind_says(kind: type[Kind]) -> None:
    crd, version = build_crd(kind), _crd_version(kind)
    assert crd["metadata"]["name"] == f"{kind.PLURAL}.datapipeline.dev"
    assert crd["spec"]["scope"] == "Namespaced"
    assert crd["spec"]["names"]["shortNames"] == list(kind.SHORT_NAMES)
    assert crd["spec"]["names"]["categories"] == ["datapipeline"]
    assert (version["name"], version["served"], version["storage"]) == ("v1beta1", True, True)
    assert version["subresources"] == {"status": {}}
    assert version["additionalPrinterColumns"] == list(kind.PRINTER_COLUMNS)


@every_kind
def test_the_status_has_a_default_and_the_spec_is_required(kind: type[Kind]) -> None:
    schema = build_schema(kind)
    assert schema["required"] == ["spec"]
    assert schema["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_defaults_are_what_the_models_have() -> None:
    spec = build_schema(TaskDeletion)["properties"]["spec"]["properties"]
    assert spec["storeRef"]["default"] == {"name": "default"}
    assert {name for name, field in spec.items() if "default" in field} == {
        *("storeRef", "force", "deleteDatabaseRecords", "continueOnError", "dryRun", "notFoundPolicy"),
        *("backoffLimit", "suspend"),
    }


# --- the generator on models of its own ---------------------------------------------------------------------------


class Inner(Model):
    """An inner object."""

    size: Annotated[int, Field(gt=1, lt=9)] = Field(description="A size.")


class Sample(Kind):
    """A sample."""

    KIND: ClassVar[str] = "Sample"
    PLURAL: ClassVar[str] = "samples"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ()
    PRINTER_COLUMNS: ClassVar[tuple[dict[str, Any], ...]] = ()

    constant: Literal["only"] = Field(description="A constant.")
    documented: Inner
    described: Inner | None = Field(default=None, description="Described where it is used.")
    ruled: Annotated[str, Field(json_schema_extra=with_rules(rule("self != ''", "inner")))] | None = Field(
        default=None, description="Ruled twice.", json_schema_extra=with_rules(rule("self != 'a'", "outer"))
    )


def _sample(name: str) -> Schema:
    found: Schema = build_schema(Sample)["properties"][name]
    return found


def test_a_constant_becomes_an_enum_of_one() -> None:
    assert _sample("constant") == {"description": "A constant.", "type": "string", "enum": ["only"]}


def test_exclusive_limits_become_inclusive_ones() -> None:
    size = _sample("documented")["properties"]["size"]
    assert (size["minimum"], size["maximum"]) == (2, 8)


def test_a_field_without_a_description_takes_the_docstring_of_its_class() -> None:
    assert _sample("documented")["description"] == "An inner object."
    assert _sample("described")["description"] == "Described where it is used."


def test_an_optional_object_is_the_object_without_a_default() -> None:
    assert _sample("described")["properties"] == _sample("documented")["properties"]
    assert "default" not in _sample("described")


def test_rules_of_a_type_and_of_its_use_both_hold() -> None:
    assert [found["message"] for found in _sample("ruled")["x-kubernetes-validations"]] == ["inner", "outer"]


class Union(Sample):
    """A field of two types."""

    both: Annotated[int | str, Field(description="Two.")]


class Map(Sample):
    """A field that the generator has no place for."""

    labels: dict[str, str] = Field(description="A map.")


class BarePattern(Sample):
    """A pattern whose refusal would show a regular expression only."""

    name: Annotated[str, Field(pattern="^a$")] = Field(description="A name.")


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        pytest.param(Union, "no unions", id="union"),
        pytest.param(Map, "additionalProperties", id="map"),
        pytest.param(BarePattern, "pattern", id="pattern-without-advice"),
    ],
)
def test_what_a_crd_cannot_say_well_is_an_error_and_never_dropped(kind: type[Kind], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        build_schema(kind)


# --- files --------------------------------------------------------------------------------------------------------


def test_the_files_are_the_same_every_time_and_say_where_they_come_from() -> None:
    assert render_crds() == render_crds()
    assert set(render_crds()) == {f"datapipeline.dev_{kind.PLURAL}.yaml" for kind in KINDS}
    assert all("Do not edit" in text.splitlines()[0] for text in render_crds().values())


@every_kind
def test_the_yaml_says_what_the_schema_says(kind: type[Kind]) -> None:
    assert yaml.safe_load(render_crds()[f"datapipeline.dev_{kind.PLURAL}.yaml"]) == build_crd(kind)


def test_fresh_files_have_no_drift(tmp_path: Path) -> None:
    write_crds(tmp_path / "crds")
    assert check_crds(tmp_path / "crds") == []


def _edit(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("maxItems: 500", "maxItems: 501"), encoding="utf-8")


@pytest.mark.parametrize("change", [pytest.param(_edit, id="edited"), pytest.param(Path.unlink, id="absent")])
def test_a_file_that_was_changed_by_hand_is_found(tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_crds(tmp_path)
    change(tmp_path / "datapipeline.dev_taskdeletions.yaml")
    assert check_crds(tmp_path) == ["datapipeline.dev_taskdeletions.yaml"]


def test_a_crd_of_a_kind_that_is_gone_is_found(tmp_path: Path) -> None:
    write_crds(tmp_path)
    (tmp_path / "datapipeline.dev_others.yaml").touch()
    assert check_crds(tmp_path) == ["datapipeline.dev_others.yaml"]


def test_the_committed_crds_and_reference_are_current() -> None:
    assert check_crds(ROOT / "crds") == []
    assert find_drift(ROOT / "docs", {"api.md": render_reference()}) == []


# --- the chart ----------------------------------------------------------------------------------------------------


def _rendered(template: str) -> str:
    """What Helm makes of a template that has no actions but the guard and escaped braces."""
    first, *lines, last = template.splitlines()
    assert (first, last) == ("{{- if .Values.crds.install }}", "{{- end }}")
    body = "\n".join(lines)
    assert "{{" not in body.replace('{{ "{{" }}', "")
    return body.replace('{{ "{{" }}', "{{")


@every_kind
def test_the_chart_installs_the_same_crd_and_keeps_it(kind: type[Kind]) -> None:
    crd = yaml.safe_load(_rendered(render_chart_templates()[f"crd-{kind.PLURAL}.yaml"]))
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd == build_crd(kind)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        pytest.param("task:{taskId}:*", "task:{taskId}:*", id="single-braces-stay"),
        pytest.param("{{taskId}}:x", '{{ "{{" }}taskId}}:x', id="double-braces"),
        pytest.param("{{{a", '{{ "{{" }}{a', id="three-braces"),
    ],
)
def test_braces_are_escaped_for_helm(text: str, escaped: str) -> None:
    assert escape_for_helm(text) == escaped


def test_files_are_written_into_a_new_directory(tmp_path: Path) -> None:
    write_files(tmp_path / "a" / "b", {"x.yaml": "é\n"})
    assert (tmp_path / "a" / "b" / "x.yaml").read_text(encoding="utf-8") == "é\n"


# --- the reference ------------------------------------------------------------------------------------------------


@every_kind
def test_the_reference_lists_every_field(kind: type[Kind]) -> None:
    text = render_reference()
    for path, _ in _nodes("", build_schema(kind)):
        name = path.removeprefix(".")
        if name not in {"", "spec", "status", *STANDARD} and not path.endswith("[]"):
            assert f"| `{name}` |" in text


def test_the_reference_marks_what_an_edit_may_not_change() -> None:
    rows = {row.split("|")[1].strip(" `"): row for row in render_reference().splitlines() if row.startswith("| `")}
    assert "| 1 to 500 items, no duplicates, each 1 to 128 characters, immutable |" in rows["spec.taskIds"]
    assert "immutable" not in rows["spec.suspend"]
    assert "cannot be added or removed" in rows["spec.redis"]
    assert rows["spec.confirm"].split("|")[4].strip() == "yes"
