"""Files that travel with the package: inside the wheel, or in the source tree it is run from."""

from __future__ import annotations

from pathlib import Path

from clipctl.contract.errors import InternalError

_PACKAGE = Path(__file__).resolve().parent


def chart_path(name: str) -> Path:
    """Directory of the chart `name`. Raises `InternalError` if the installation is incomplete."""
    candidates = (_PACKAGE / "_bundle" / "charts" / name, _PACKAGE.parent / "charts" / name)
    for candidate in candidates:
        if (candidate / "Chart.yaml").is_file():
            return candidate
    raise InternalError(f"the chart {name} is missing from this installation.", hint="Install clipctl again.")
