"""The project's image: built by its Dockerfile on the bootstrapped base, and loaded into the cluster's containerd."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import IO

from clip_testkit.cluster import buildah, containerd, installconfig, ociarchive, stubwheels
from clip_testkit.cluster.baseimage import ensure_base_image
from clip_testkit.cluster.packages import install_prerequisites, repository_root, require_root
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import locked, say

REPOSITORY = "localhost/clipctl/clipctl"
EXTRAS = frozenset({"trainer", "operator"})
INSIDE = "/run/clipctl-build"
"""Where the build finds the constraints and stub wheels."""
KEPT_TAGS = 10


def build_and_load(settings: Settings, flavour: str) -> str:
    """Build the image, load it, and return its name, whose tag is its content's.

    Args:
        settings: where the caches and the cluster are.
        flavour: `full` for the torch that ships, `cpu-stub` for the same with stub CUDA libraries.

    Raises:
        ClusterConfigError: not root.
        MissingError: the test environment is not installed (its versions are those of the image).
        UnavailableError: the build or the import failed.
    """
    require_root()
    install_prerequisites()
    with locked(settings.cache / "images.lock"):
        name, tag = build(settings, flavour)
        if containerd.serves(settings):
            load(settings, name, tag)
    return name


def constraints(versions: dict[str, str], stubs: dict[str, str]) -> str:
    """A constraints file: the versions of this environment, so that the image holds what the unit tests tested."""
    marked = {name: f"{version}+{stubwheels.LOCAL}" if name in stubs else version for name, version in versions.items()}
    return "".join(f"{name}=={version}\n" for name, version in marked.items())


def ensure_build_inputs(settings: Settings, flavour: str) -> Path:
    """A directory, named by its content, with the constraints and the stub wheels."""
    versions = stubwheels.closure("clipctl", EXTRAS)
    stubs = stubwheels.stubbed(versions) if flavour == "cpu-stub" else {}
    text = constraints(versions, stubs)
    directory = settings.cache / "wheels" / hashlib.sha256(text.encode() + stubwheels.sources()).hexdigest()[:12]
    if not directory.exists():
        say(f"writing {len(stubs)} stub wheels ...")
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".wheels-") as work:
            partial = Path(work, "inputs")
            partial.mkdir()
            (partial / "constraints.txt").write_text(text)
            stubwheels.write_stub_wheels(partial, stubs)
            partial.rename(directory)
    return directory


def uv_arguments(key: str) -> str:
    """The Dockerfile's UV_ARGS; names the inputs by key, so that other inputs are another layer."""
    return f"--constraint {INSIDE}/{key}/constraints.txt --find-links {INSIDE}/{key}"


def build(settings: Settings, flavour: str) -> tuple[str, str]:
    """Build the image; return its name by content and its tag in buildah's store."""
    tag = f"{REPOSITORY}:{flavour}"
    base = ensure_base_image(settings)
    inputs = ensure_build_inputs(settings, flavour)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clipctl-build-") as work:
        mounts = [*installconfig.write_mounts(Path(work)), f"--volume={inputs}:{INSIDE}/{inputs.name}:ro"]
        arguments = [f"--build-arg=BASE={base}", f"--build-arg=UV_ARGS={uv_arguments(inputs.name)}"]
        how = ["--isolation=chroot", "--network=host", "--layers", "--format=oci"]
        buildah.buildah(settings, "bud", *how, *mounts, *arguments, "--tag", tag, repository_root())
    buildah.remove_stale_images(settings)
    manifest, _ = buildah.image_data(settings, tag)
    name = f"{REPOSITORY}:{ociarchive.digest(manifest).removeprefix('sha256:')[:12]}"
    say(f"built {name} ({flavour}) in {time.monotonic() - began:.0f} s")
    return name, tag


def load(settings: Settings, name: str, tag: str) -> None:
    """Import an image of buildah's store into containerd unless it is there.

    Args:
        settings: where the caches and the cluster are.
        name: its name in containerd.
        tag: its name in buildah's store.

    Raises:
        UnavailableError: containerd refused it.
    """
    if name in containerd.images(settings):
        return
    began = time.monotonic()
    manifest, config = buildah.image_data(settings, tag)
    digests = [layer["digest"] for layer in json.loads(manifest)["layers"]]
    ids = dict(zip(digests, buildah.layer_ids(settings, tag), strict=True))

    def copy_layer(digest: str, out: IO[bytes]) -> None:
        buildah.copy_layer(settings, ids[digest], out)

    present = containerd.blobs(settings)
    with containerd.importing(settings) as out:
        size = ociarchive.write_archive(out, name, manifest, config, present, copy_layer)
    say(f"imported {name}: {size / 2**20:.0f} MiB in {time.monotonic() - began:.0f} s")
    _forget_old(settings, name)


def _forget_old(settings: Settings, name: str) -> None:
    """Remove all but the last few images of the project, so that a long session does not fill the disk."""
    record = settings.cache / "images"
    names = [line for line in (record.read_text().split() if record.exists() else []) if line != name] + [name]
    old = [n for n in names[:-KEPT_TAGS] if n in containerd.images(settings)]
    if old:
        containerd.ctr(settings, "images", "rm", *old)
    record.write_text("\n".join(names[-KEPT_TAGS:]) + "\n")
