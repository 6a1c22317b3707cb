"""The API reference in markdown, from the same schemas as the CRDs.

Called by `make generate` and by the drift check. Pure: it returns text and writes nothing.
"""

import json
from collections.abc import Iterator
from typing import Final

from taskdeletion.api.common import API_VERSION, Kind
from taskdeletion.api.crd import HEADER, KINDS, Schema, build_schema

_INTRODUCTION: Final = f"""<!-- {HEADER} -->
# API reference

Kinds of `{API_VERSION}`. All are namespaced, and no field names another namespace. The API server fills in the
defaults and refuses what breaks a constraint. Only the operator writes `status`. `kubectl explain` says the same.
"""
_TABLE_HEAD: Final = "| field | type | default | required | constraints | description |\n|---|---|---|---|---|---|"
_RULES: Final = "x-kubernetes-validations"


def render_reference() -> str:
    """docs/api.md: one section per kind."""
    return "\n".join([_INTRODUCTION, *(_render_kind(kind) for kind in KINDS)])


def _render_kind(kind: type[Kind]) -> str:
    schema = build_schema(kind)
    names = ", ".join(f"`{name}`" for name in (*kind.SHORT_NAMES, *kind.CATEGORIES))
    parts = (_render_part(name, schema["properties"][name]) for name in ("spec", "status"))
    return "\n".join([f"## {kind.KIND}", "", schema["description"], f"Short name and category: {names}.", "", *parts])


def _render_part(name: str, schema: Schema) -> str:
    rows = [_row(*found) for found in _walk(name, schema)]
    messages = list(_messages(name, schema))
    rules = ["", "Rules:", "", *messages] if messages else []
    return "\n".join([f"### {name}", "", schema["description"], "", _TABLE_HEAD, *rows, *rules, ""])


def _walk(path: str, node: Schema) -> Iterator[tuple[str, str, Schema, Schema]]:
    """Path, name, schema and parent's schema of every field below `node`, parents first."""
    for name, field in node.get("properties", {}).items():
        yield f"{path}.{name}", name, field, node
        yield from _walk(f"{path}.{name}[]", field["items"]) if "items" in field else _walk(f"{path}.{name}", field)


def _row(path: str, name: str, field: Schema, parent: Schema) -> str:
    default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
    required = "yes" if _is_required(name, parent) else ""
    constraints = ", ".join([*_constraints(field), *_immutability(name, parent)])
    return f"| `{path}` | {_type(field)} | {default} | {required} | {constraints} | {_cell(field['description'])} |"


def _is_required(name: str, parent: Schema) -> bool:
    rules = _rules_for(name, parent)
    return name in parent.get("required", []) or any(rule.get("reason") == "FieldValueRequired" for rule in rules)


def _rules_for(name: str, parent: Schema) -> list[dict[str, str]]:
    return [rule for rule in parent.get(_RULES, []) if rule.get("fieldPath") == f".{name}"]


def _type(field: Schema) -> str:
    if field["type"] == "array":
        return f"list of {_type(field['items'])}s"
    return {"date-time": "time"}.get(field.get("format", ""), str(field["type"]))


def _constraints(field: Schema) -> Iterator[str]:
    if "enum" in field:
        yield "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    yield from _bounds(field, "minimum", "maximum", "")
    yield from _bounds(field, "minLength", "maxLength", " characters")
    yield from _bounds(field, "minItems", "maxItems", " items")
    if "x-kubernetes-list-type" in field:
        yield _list_type(field)
    if "items" in field:
        yield from (f"each {constraint}" for constraint in _constraints(field["items"]))


def _bounds(field: Schema, lower: str, upper: str, unit: str) -> Iterator[str]:
    match field.get(lower), field.get(upper):
        case None, None:
            return
        case low, None:
            yield f"at least {low}{unit}"
        case None, high:
            yield f"at most {high}{unit}"
        case low, high:
            yield f"{low} to {high}{unit}"


def _list_type(field: Schema) -> str:
    match field["x-kubernetes-list-type"]:
        case "set":
            return "no duplicates"
        case "map":
            return "one per " + ", ".join(f"`{key}`" for key in field["x-kubernetes-list-map-keys"])
    return "replaced as a whole"


def _immutability(name: str, parent: Schema) -> Iterator[str]:
    for rule in _rules_for(name, parent):
        if rule["rule"] == f"has(self.{name}) == has(oldSelf.{name})":
            yield "cannot be added or removed"
        elif "oldSelf" in rule["rule"]:
            yield "immutable"


def _messages(path: str, node: Schema) -> Iterator[str]:
    """What the refusals of a create say; the column of constraints tells what an edit may not do."""
    for rule in node.get(_RULES, []):
        if "oldSelf" not in rule["rule"]:
            yield f"- `{path}{rule.get('fieldPath', '')}`: {_cell(rule['message'])}"
    for name, field in node.get("properties", {}).items():
        yield from _messages(f"{path}.{name}", field)
    if "items" in node:
        yield from _messages(f"{path}[]", node["items"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
