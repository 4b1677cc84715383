"""JSON Schemas generated from `RunSpec`: of run.yaml for editors, and of the chart's values for Helm."""

from __future__ import annotations

import json
from typing import Any

from clipctl.contract.spec import RunSpec

_DIALECT = "http://json-schema.org/draft-07/schema#"
_BASE = "https://clipctl.dev/schema"

_TEXT = {"type": "string", "minLength": 1}
_DERIVED: dict[str, Any] = {
    "specDigest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "attempt": {"type": "integer", "minimum": 1},
    "jobName": _TEXT,
    "rendezvousName": _TEXT,
    "rendezvousId": _TEXT,
    "rendezvousPort": {"type": "integer", "minimum": 1, "maximum": 65535},
    "configName": _TEXT,
    "configFile": _TEXT,
    "configDir": _TEXT,
    "config": _TEXT,
    "serviceAccount": _TEXT,
    "createServiceAccount": {"type": "boolean"},
    "runRoot": _TEXT,
    "maxWorld": {"type": "integer", "minimum": 1},
    "clipctlVersion": _TEXT,
}


def run_schema() -> dict[str, Any]:
    """JSON Schema of run.yaml."""
    return {"$schema": _DIALECT, "$id": f"{_BASE}/run.json", **_draft7(RunSpec.model_json_schema())}


def values_schema() -> dict[str, Any]:
    """JSON Schema of the values of charts/clip-run: the resolved spec, in which every field is present, and what is
    derived from it.
    """
    spec = _draft7(RunSpec.model_json_schema(mode="serialization"))
    definitions = spec.pop("definitions", {})
    derived = {
        "type": "object",
        "description": "Computed by clipctl from the spec.",
        "properties": _DERIVED,
        "required": sorted(_DERIVED),
        "additionalProperties": False,
    }
    return {
        "$schema": _DIALECT,
        "$id": f"{_BASE}/clip-run-values.json",
        "title": "Values of the chart clip-run",
        "type": "object",
        "properties": {"spec": spec, "derived": derived, "global": {"type": "object"}},
        "required": ["derived", "spec"],
        "additionalProperties": False,
        "definitions": definitions,
    }


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as the file that is committed and printed."""
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _draft7(node: Any) -> Any:
    """Pydantic writes the 2020 dialect; Helm and most editors are safest with draft 7. They differ in two keywords."""
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    renamed = {"definitions" if key == "$defs" else key: _draft7(value) for key, value in node.items()}
    if isinstance(renamed.get("$ref"), str):
        renamed["$ref"] = renamed["$ref"].replace("#/$defs/", "#/definitions/")
    if "prefixItems" in renamed:
        renamed["items"] = renamed.pop("prefixItems")
    return renamed
