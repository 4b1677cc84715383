#!/usr/bin/env bash
# `helm lint --strict` on both charts, and the rendered manifests against the Kubernetes schemas.
# Uses helm from PATH; without one, the test cluster's (built from its Go module into the cache).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
helm=$(command -v helm || "$python" -m clip_testkit.cluster build helm | tail -n 1)

# The values of the quickstart, exactly as the CLI gives them to the chart.
values=$(mktemp --suffix=.json)
trap 'rm -f "$values"' EXIT
"$python" -c 'import json
from clipctl.render import values_for
from clipctl.specfile import load_spec
print(json.dumps(values_for(load_spec("examples/quickstart/run.yaml"))))' >"$values"
"$helm" lint --strict charts/clip-run --values "$values"
"$helm" lint --strict charts/clip-operator
# The API server checks PyTorchJob itself in the end-to-end tests; kubernetes-validate has no schema for it.
"$python" - manifests/*.yaml <<'PYTHON'
import sys
import kubernetes_validate, yaml

checked = 0
for path in sys.argv[1:]:
    for item in yaml.safe_load_all(open(path)):
        if item["apiVersion"].split("/")[0] in {"kubeflow.org", "monitoring.coreos.com"}:
            continue
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
        checked += 1
print(f"kubernetes-validate: {checked} objects are valid")
PYTHON
