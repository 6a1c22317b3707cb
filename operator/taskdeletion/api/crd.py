"""CustomResourceDefinitions from the pydantic models: structural schemas that the API server accepts.

Called by the `crds` subcommand and by the drift check; the only I/O is in the functions that write and compare files.
A JSON schema keyword that it does not know is an error: nothing is dropped unseen.
"""

from pathlib import Path
from typing import Any, Final

import yaml

from taskdeletion.api.common import GROUP, VERSION, Kind
from taskdeletion.api.retention_policy import TaskRetentionPolicy
from taskdeletion.api.task_deletion import INT64_MAX, TaskDeletion
from taskdeletion.api.task_store import TaskStore

Schema = dict[str, Any]

KINDS: Final[tuple[type[Kind], ...]] = (TaskDeletion, TaskRetentionPolicy, TaskStore)
HEADER: Final = "Generated from operator/taskdeletion/api by `make generate`. Do not edit."

_RULES: Final = "x-kubernetes-validations"
_KEYWORDS: Final = (  # all that a schema here may say, in the order in which it is read best
    *("description", "type", "format", "enum", "default", "minimum", "maximum", "minLength", "maxLength"),
    *("minItems", "maxItems", "required", "properties", "items"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", _RULES),
)
_OBJECT_FIELDS: Final[dict[str, Schema]] = {
    "apiVersion": {
        "description": "Version of the schema that this object is written in: datapipeline.dev/v1beta1.",
        "type": "string",
    },
    "kind": {"description": "Kind of this object, in CamelCase.", "type": "string"},
    "metadata": {"type": "object"},  # the API server refuses to be told more, and describes it itself
}


def build_crd(kind: type[Kind]) -> dict[str, Any]:
    """The CustomResourceDefinition of `kind`, as JSON values."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "names": _names(kind), "scope": "Namespaced", "versions": [_version(kind)]},
    }


def build_schema(kind: type[Kind]) -> Schema:
    """The structural schema of `kind`: no references, no unions, the fields of every object first."""
    found = kind.model_json_schema(by_alias=True)
    schema = _structural(found, found.get("$defs", {}))
    rules = {_RULES: [dict(found) for found in kind.ROOT_RULES]} if kind.ROOT_RULES else {}
    return {**schema, "properties": {**_OBJECT_FIELDS, **schema["properties"]}, **rules}


def render_crds() -> dict[str, str]:
    """File name to YAML, one file per kind."""
    return {f"{GROUP}_{kind.PLURAL}.yaml": f"# {HEADER}\n{_to_yaml(build_crd(kind))}" for kind in KINDS}


def render_chart_templates() -> dict[str, str]:
    """File name to Helm template: the same CRDs, installed on request and kept when the release goes."""
    return {f"crd-{kind.PLURAL}.yaml": _chart_template(build_crd(kind)) for kind in KINDS}


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Write generated `files` (name to text) into `directory`, which is made where it is absent."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


def find_drift(directory: Path, files: dict[str, str]) -> list[str]:
    """Names of `files` that are absent from `directory` or differ there."""
    return [name for name, text in files.items() if not _holds(directory / name, text)]


def write_crds(directory: Path) -> None:
    """Write the CRD of every kind into `directory`."""
    write_files(directory, render_crds())


def check_crds(directory: Path) -> list[str]:
    """Names of CRD files in `directory` that are absent, differ, or belong to no kind."""
    files = render_crds()
    strangers = {path.name for path in directory.glob("*.yaml")} - files.keys()
    return sorted([*find_drift(directory, files), *strangers])


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _names(kind: type[Kind]) -> dict[str, Any]:
    return {
        "kind": kind.KIND,
        "listKind": f"{kind.KIND}List",
        "plural": kind.PLURAL,
        "singular": kind.KIND.lower(),
        "shortNames": list(kind.SHORT_NAMES),
        "categories": list(kind.CATEGORIES),
    }


def _version(kind: type[Kind]) -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [dict(column) for column in kind.PRINTER_COLUMNS],
        "schema": {"openAPIV3Schema": build_schema(kind)},
    }


def _structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    found = _keyword_by_keyword(_flat(node, definitions))
    if "properties" in found:
        found["properties"] = {name: _structural(field, definitions) for name, field in found["properties"].items()}
    if "items" in found:
        found["items"] = _structural(found["items"], definitions)
    return found


def _flat(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """`node` with its reference and its `| None` replaced by what they stand for."""
    if "$ref" in node:
        return _flat(_merged(definitions[node["$ref"].rpartition("/")[2]], node, without="$ref"), definitions)
    if "anyOf" in node:
        return _flat(_merged(_only_alternative(node), node, without="anyOf"), definitions)
    return node


def _only_alternative(node: Schema) -> Schema:
    alternatives: list[Schema] = [found for found in node["anyOf"] if found != {"type": "null"}]
    if len(alternatives) != 1:
        raise TypeError(f"a CRD has no unions: {node['anyOf']}")
    return alternatives[0]


def _merged(base: Schema, over: Schema, *, without: str) -> Schema:
    """What a field says wins over what its type says; rules of both hold."""
    merged = {**base, **{key: value for key, value in over.items() if key != without}}
    rules = [*base.get(_RULES, []), *over.get(_RULES, [])]
    return {**merged, _RULES: rules} if rules else merged


def _keyword_by_keyword(node: Schema) -> Schema:
    found: Schema = {}
    for key, value in node.items():
        if not _says_nothing(key, value, node):
            found.update(_keyword(key, value, node))
    if found.get("type") == "integer":
        found["format"] = "int64"
    return {key: found[key] for key in _KEYWORDS if key in found}


def _says_nothing(key: str, value: Any, node: Schema) -> bool:
    match key:
        case "title" | "$defs":
            return True
        case "default":
            return value is None
        case "additionalProperties":  # unknown fields are pruned, or refused under --validate=strict
            return value is False
        case "pattern":  # a refusal would show the bare regex beside the advice of the rule
            return _RULES in node
        case "maximum":  # the format says it; the API server would round it up, as a float
            return bool(value >= INT64_MAX)
    return False


def _keyword(key: str, value: Any, node: Schema) -> Schema:
    match key:
        case "const":
            return {"enum": [value]}
        case "default" if isinstance(value, dict):  # an optional field that is not set is left out
            return {key: {name: given for name, given in value.items() if given is not None}}
        case "exclusiveMinimum" if node["type"] == "integer":
            return {"minimum": value + 1}
        case "exclusiveMaximum" if node["type"] == "integer":
            return {"maximum": value - 1}
        case _ if key in _KEYWORDS:
            return {key: value}
    raise TypeError(f"no place in a CRD for {key}: {value!r}")


class _Dumper(yaml.SafeDumper):
    """Block style without anchors: what people and diffs read best."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _to_yaml(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return str(text)


def _chart_template(crd: dict[str, Any]) -> str:
    metadata = {**crd["metadata"], "annotations": {"helm.sh/resource-policy": "keep"}}
    text = _to_yaml({**crd, "metadata": metadata})
    return f"{{{{- if .Values.crds.install }}}}\n# {HEADER}\n{escape_for_helm(text)}{{{{- end }}}}\n"


def escape_for_helm(text: str) -> str:
    """`text` as a template that renders to itself: only `{{` means something to Helm."""
    return text.replace("{{", '{{ "{{" }}')
