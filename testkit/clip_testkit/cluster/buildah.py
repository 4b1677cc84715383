"""buildah with a store of its own in the cache, and reading images out of that store.

`buildah push` compresses every layer of an image anew, 25 s for ours. The store already knows each layer's digest, so
`containers-storage` reads just the layers that are wanted, as they are.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import Argument, run, succeeds
from clipctl.contract.errors import UnavailableError

RUN_ROOT = Path("/run/clipctl-buildah")


def command(settings: Settings, *words: Argument) -> list[Argument]:
    """A buildah command line against our store."""
    return ["buildah", "--root", _root(settings), "--runroot", RUN_ROOT, "--storage-driver", "overlay", *words]


def buildah(settings: Settings, *words: Argument, timeout: float = 1800) -> str:
    """Run buildah and return its stdout.

    Raises:
        UnavailableError: it failed.
    """
    return run(command(settings, *words), timeout=timeout).strip()


def has_image(settings: Settings, name: str) -> bool:
    """Whether the store holds an image of this name."""
    return succeeds(command(settings, "inspect", "--type", "image", name))


def image_data(settings: Settings, name: str) -> tuple[bytes, bytes]:
    """Manifest and configuration of an image, as JSON text.

    Raises:
        UnavailableError: the store has no such image.
    """
    manifest = run(_storage(settings, "get-image-data", name, "manifest"))
    config = run(_storage(settings, "get-image-data", name, json.loads(manifest)["config"]["digest"]))
    return manifest.encode(), config.encode()


def layer_ids(settings: Settings, name: str) -> list[str]:
    """Ids of an image's layers in the store, the base first."""
    top = json.loads(run(_storage(settings, "image", "-j", name)))[0]["layer"]
    return layer_chain(json.loads(run(_storage(settings, "layers", "-j"))), top)


def layer_chain(layers: Sequence[dict[str, Any]], top: str) -> list[str]:
    """Ids from the lowest layer up to `top`, by their parents."""
    parents: dict[str, str | None] = {layer["id"]: layer.get("parent") for layer in layers}
    chain = [top]
    while parent := parents[chain[-1]]:
        chain.append(parent)
    return chain[::-1]


def stale_images(images: Sequence[dict[str, Any]], layers: Sequence[dict[str, Any]], big: int = 500 << 20) -> list[str]:
    """Ids of the images that only keep a superseded big layer alive.

    Builds leave nameless images behind that serve as cache, which is good until the dependencies change: then each
    holds on to a layer of gigabytes that nothing will ask for again.

    Args:
        images: the store's images.
        layers: the store's layers.
        big: bytes from which a layer counts.
    """
    sizes = {layer["id"]: layer.get("diff-size", 0) for layer in layers}

    def big_layers(image: dict[str, Any]) -> set[str]:
        chain = layer_chain(layers, image["layer"]) if image.get("layer") else []
        return {layer for layer in chain if sizes[layer] >= big}

    wanted = {layer for image in images if image.get("names") for layer in big_layers(image)}
    return [image["id"] for image in images if not image.get("names") and big_layers(image) - wanted]


def remove_stale_images(settings: Settings) -> None:
    """Delete the images that only keep a superseded big layer alive."""
    images = json.loads(run(_storage(settings, "images", "-j")))
    layers = json.loads(run(_storage(settings, "layers", "-j")))
    for identity in stale_images(images, layers):
        run(_storage(settings, "delete-image", identity))


def copy_layer(settings: Settings, layer: str, out: IO[bytes]) -> None:
    """Write a layer's tar stream, whose digest is the one in the manifest.

    Raises:
        UnavailableError: the store could not reproduce it.
    """
    argv = [str(word) for word in _storage(settings, "diff", "-u", layer)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        shutil.copyfileobj(process.stdout, out, 1 << 20)
    if process.returncode != 0:
        raise UnavailableError(f"reading layer {layer[:12]} from buildah's store failed.")


def _root(settings: Settings) -> Path:
    return settings.cache / "buildah"


def _storage(settings: Settings, verb: str, *words: str) -> list[Argument]:
    where: list[Argument] = ["-g", _root(settings), "-R", RUN_ROOT, "-s", "overlay"]
    return ["containers-storage", *where, verb, *words]
