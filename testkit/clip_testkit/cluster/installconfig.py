"""How this machine reaches its package index, handed to pip and uv inside an image build.

A build sees neither the host's environment nor its files. What matters of pip's configuration (index and certificates)
is written anew for both tools and bound read-only for the time of the build, so nothing of it stays in the image.
"""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Mapping
from pathlib import Path

KEYS = ("index-url", "extra-index-url", "trusted-host", "cert")
FILES = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
"""pip's configuration files on Linux, the later ones win (pip documentation, Configuration)."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""Where a Debian image keeps its certificate bundle; the host's is bound over it."""


def pip_settings(environ: Mapping[str, str], texts: list[str]) -> dict[str, str]:
    """The settings that pip would use, of those in `KEYS`.

    Args:
        environ: environment; `PIP_INDEX_URL` and the like win over files.
        texts: contents of configuration files, the later ones win.
    """
    found: dict[str, str] = {}
    for text in texts:
        parser = configparser.RawConfigParser()
        parser.read_string(text)
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {key: value for key, value in parser.items(section) if key in KEYS}
    for key in KEYS:
        value = environ.get(f"PIP_{key.replace('-', '_').upper()}")
        if value:
            found[key] = value
    return found


def pip_conf(settings: Mapping[str, str]) -> str:
    """The text of pip's configuration inside the build."""
    inside = {**settings, "cert": CERTIFICATES} if "cert" in settings else dict(settings)
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(inside.items()))


def uv_toml(settings: Mapping[str, str]) -> str:
    """The text of uv's configuration inside the build; the system's certificates are those bound into it."""
    lines = ["system-certs = true"] if "cert" in settings else []
    if "index-url" in settings:
        lines.append(f"index-url = {json.dumps(settings['index-url'])}")
    for key, name in (("extra-index-url", "extra-index-url"), ("trusted-host", "allow-insecure-host")):
        if key in settings:
            lines.append(f"{name} = {json.dumps(settings[key].split())}")
    return "".join(f"{line}\n" for line in lines)


def write_mounts(directory: Path) -> list[str]:
    """Write both configurations below a directory and return buildah's `--volume` arguments for them."""
    texts = [path.read_text() for path in map(Path.expanduser, map(Path, FILES)) if path.is_file()]
    settings = pip_settings(os.environ, texts)
    (directory / "pip.conf").write_text(pip_conf(settings))
    (directory / "uv.toml").write_text(uv_toml(settings))
    volumes = [f"{directory}/pip.conf:/etc/pip.conf:ro", f"{directory}/uv.toml:/etc/uv/uv.toml:ro"]
    if "cert" in settings:
        volumes.append(f"{settings['cert']}:{CERTIFICATES}:ro")
    return [f"--volume={volume}" for volume in volumes]
