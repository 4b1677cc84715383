"""From a `RunSpec` to Kubernetes objects: pure values, and Helm as the template engine.

Helm is the `[helm]` extra (the Helm library inside this process) or a `helm` binary on PATH; both give the same
objects.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

from clipctl.bundle import chart_path
from clipctl.contract import names
from clipctl.contract.digest import canonical_json
from clipctl.contract.errors import InternalError, MissingError, UnavailableError
from clipctl.contract.spec import RunSpec
from clipctl.manifests import Manifest, in_order, is_hook, parse_manifests
from clipctl.version import version

CHART = "clip-run"
_TIMEOUT_SECONDS = 60


def values_for(spec: RunSpec, attempt: int = 1) -> dict[str, Any]:
    """Values of the chart clip-run; pure.

    Fields that are not set are left out: Helm drops nulls in ways that depend on its version.
    """
    digest = spec.digest()
    config = {"spec": spec.resolved(), "spec_digest": digest}
    account = spec.scale.service_account
    return {
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "derived": {
            "specDigest": digest,
            "attempt": attempt,
            "jobName": names.job_name(spec.name, attempt),
            "rendezvousName": names.rendezvous_name(spec.name),
            "rendezvousId": names.rendezvous_id(spec.name, digest, attempt),
            "rendezvousPort": names.RENDEZVOUS_PORT,
            "configName": names.config_name(spec.name),
            "configFile": names.CONFIG_FILE,
            "configDir": names.CONFIG_DIR,
            "config": canonical_json(config).decode(),
            "serviceAccount": account or spec.name,
            "createServiceAccount": account is None,
            "runRoot": spec.root,
            "maxWorld": spec.max_world,
            "clipctlVersion": version(),
        },
    }


class Renderer(Protocol):
    """A template engine for Helm charts."""

    def render(self, chart: Path, values: dict[str, Any], release: str, namespace: str) -> str:
        """All templates of `chart`, rendered into one YAML stream, without its NOTES.txt."""
        ...


class EmbeddedHelm:
    """The Helm library of the `[helm]` extra; needs no other program."""

    def render(self, chart: Path, values: dict[str, Any], release: str, namespace: str) -> str:
        """See `Renderer.render`."""
        from helm_python import Chart, HelmError

        try:
            with Chart.load(chart) as loaded:
                # Unlike `helm template`, render alone would not check the values against the schema.
                loaded.validate_schema(values)
                rendered = loaded.render(values, name=release, namespace=namespace, is_install=True)
        except HelmError as error:
            raise _refused(str(error)) from error
        return "\n---\n".join(text for path, text in sorted(rendered.items()) if path.endswith((".yaml", ".yml")))


class HelmBinary:
    """A `helm` program."""

    def __init__(self, program: str) -> None:
        self._program = program

    def render(self, chart: Path, values: dict[str, Any], release: str, namespace: str) -> str:
        """See `Renderer.render`."""
        command = [self._program, "template", release, str(chart), "--namespace", namespace, "--values", "-"]
        try:
            done = subprocess.run(
                command,
                input=_yaml_ascii(values),
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"{self._program} did not finish in {_TIMEOUT_SECONDS} s.") from error
        except OSError as error:
            raise UnavailableError(f"cannot run {self._program}: {error.strerror or error}.") from error
        if done.returncode:
            raise _refused(done.stderr.decode(errors="replace"))
        return done.stdout.decode()


def choose_renderer() -> Renderer:
    """The embedded Helm if it is installed, because its version is known; else `helm` on PATH.

    Raises:
        MissingError: neither is there.
    """
    if importlib.util.find_spec("helm_python") is not None:
        return EmbeddedHelm()
    program = shutil.which("helm")
    if program is not None:
        return HelmBinary(program)
    raise MissingError(
        "no Helm to render the chart with.",
        hint="Install it with `pip install 'clipctl[helm]'`, or put a helm binary on PATH.",
    )


def render(
    spec: RunSpec, namespace: str = "default", *, attempt: int = 1, renderer: Renderer | None = None
) -> list[Manifest]:
    """All Kubernetes objects of one attempt of a run, in the order they are applied."""
    engine = choose_renderer() if renderer is None else renderer
    text = engine.render(chart_path(CHART), values_for(spec, attempt), spec.name, namespace)
    return in_order(item for item in parse_manifests(text) if not is_hook(item))


def _yaml_ascii(values: dict[str, Any]) -> bytes:
    """JSON that Helm's YAML parser reads back exactly: ASCII, and YAML's escape where JSON has surrogate pairs."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    return "".join(c if " " <= c <= "~" else _escape(ord(c)) for c in text).encode("ascii")


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _refused(message: str) -> InternalError:
    return InternalError(
        f"the chart {CHART} does not render: {' '.join(message.split())}",
        hint="RunSpec accepted what the chart refuses; please report it with the run.yaml.",
    )
