"""The surface that users, dashboards and scripts depend on, as one JSON value.

`python tests/arch/surface.py --update` rewrites `surface.json`; do it only together with a line in CHANGELOG.md.
"""

import hashlib
import json
import sys
from pathlib import Path

SURFACE_FILE = Path(__file__).with_name("surface.json")


def commands(command, prefix="clipctl"):
    """Every command path with its options and arguments."""
    found = {prefix: sorted(parameter(p) for p in command.params)} if prefix != "clipctl" else {}
    for name, child in getattr(command, "commands", {}).items():
        found |= commands(child, f"{prefix} {name}")
    return found


def parameter(p):
    if p.param_type_name == "argument":
        return (p.metavar or p.name).upper() + ("..." if p.nargs == -1 else "")
    return " ".join(sorted([*p.opts, *p.secondary_opts], key=lambda flag: (len(flag), flag)))


def command_tree():
    from clipctl.app import load_command
    from clipctl.cli import COMMANDS

    found = {}
    for name in COMMANDS:
        found |= commands(load_command(name), f"clipctl {name}")
    return found


def constants(module, prefixes):
    return {name: value for name, value in sorted(vars(module).items()) if name.startswith(prefixes)}


# Texts may change freely; nested schemas have paths of their own.
NOT_FROZEN = {
    *("title", "description", "$defs", "$ref", "properties", "patternProperties", "additionalProperties"),
    *("items", "anyOf"),
}


def schema_paths(schema):
    """Every field of run.yaml with its type, default and limits; descriptions may change freely."""
    definitions = schema.get("$defs", {})
    found = {}

    def visit(node, path):
        if "$ref" in node:
            node = {**definitions[node["$ref"].rpartition("/")[2]], **{k: v for k, v in node.items() if k != "$ref"}}
        facts = {key: value for key, value in node.items() if key not in NOT_FROZEN}
        found[path or "."] = json.dumps(facts, sort_keys=True)
        for name, child in node.get("properties", {}).items():
            visit(child, f"{path}.{name}".lstrip("."))
        for index, child in enumerate(node.get("anyOf", ())):
            visit(child, f"{path}|{index}")
        for child in node.get("patternProperties", {}).values():
            visit(child, f"{path}.*")
        for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
            if isinstance(node.get(key), dict):
                visit(node[key], f"{path}{suffix}")

    visit(schema, "")
    return found


def surface():
    from clipctl.contract import metric_names, names
    from clipctl.contract.errors import PERMANENT_CODES, ExitCode
    from clipctl.contract.spec import RunSpec

    metrics = (*metric_names.TRAINER_METRICS, *metric_names.OPERATOR_METRICS)
    schema = RunSpec.model_json_schema()
    paths = schema_paths(schema)
    return {
        "commands": command_tree(),
        "exit_codes": {code.name: int(code) for code in ExitCode},
        "permanent_exit_codes": sorted(int(code) for code in PERMANENT_CODES),
        "labels": constants(names, ("LABEL_",)),
        "annotations": constants(names, ("ANNOTATION_",)),
        "reasons": constants(names, ("REASON_",)),
        "states": list(names.STATES),
        "causes": list(names.CAUSES),
        "environment": constants(names, ("ENV_",)),
        "ports": constants(names, ("RENDEZVOUS_PORT", "METRICS_PORT", "OPERATOR_METRICS_PORT")),
        "metrics": {metric.name: [metric.kind, *metric.labels] for metric in metrics},
        "run_yaml": paths,
        "run_yaml_digest": hashlib.sha256(json.dumps(paths, sort_keys=True).encode()).hexdigest(),
    }


def render():
    return json.dumps(surface(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit("usage: python tests/arch/surface.py --update")
    SURFACE_FILE.write_text(render(), encoding="utf-8")
    print(f"wrote {SURFACE_FILE}")
