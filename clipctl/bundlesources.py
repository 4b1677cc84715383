"""Where the parts of a bundle come from: published weights, a file, a hub repository, a directory, a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_trainer.pretrained.fetching import Fetched, Fetcher
from clip_trainer.pretrained.hub import Hub
from clip_trainer.pretrained.locations import HubLocation, PathLocation, is_location, parse_location
from clipctl.contract.errors import ClipError, CorruptError, MissingError, SpecError
from clipctl.exportcheckpoint import CONFIG
from clipctl.modelbundle import Ingredients, config_of, tokenizer_of
from clipctl.trainerprocess import run_trainer

_CONVERTER = "clip_trainer.pretrained.to_safetensors"


def from_weights(model: str, source: str, fetcher: Fetcher, *, tokenizer: bool = True) -> Ingredients:
    """A named model with weights by tag or location.

    Raises:
        SpecError: there is no such model.
        ClipError: the weights cannot be had.
    """
    from clip_trainer.model.config_catalogue import raw_config

    model_cfg = raw_config(model)
    fetched = fetcher.weights(model, source)
    entry = fetched.entry
    config = config_of(model_cfg, entry)
    licence, basis = (entry.licence, entry.licence_basis) if entry is not None else (None, None)
    if licence is None:
        licence, basis = _licence_on_the_hub(fetched, fetcher)
    return Ingredients(
        model=model,
        source=fetched.source,
        write_weights=weights_writer(fetched.path),
        config=config,
        licence=licence,
        licence_basis=basis,
        tag=None if entry is None else entry.tag,
        tokenizer=tokenizer_of(config, fetcher) if tokenizer else {},
    )


def from_location(source: str, fetcher: Fetcher, *, tokenizer: bool = True) -> Ingredients | None:
    """A hub repository or a directory that has its own configuration; None if `source` is neither.

    Raises:
        SpecError: a file of weights alone, which does not say what model it is for.
        ClipError: the files cannot be had.
    """
    if not is_location(source):
        return None
    place = parse_location(source)
    if isinstance(place, PathLocation) and not (place.path / CONFIG).is_file():
        if place.path.is_dir() or place.path.suffix in (".yaml", ".yml"):
            return None  # perhaps the root of a run
        raise _needs_model(source)
    if isinstance(place, HubLocation):
        config = _read_config(fetcher.file(place.repository, CONFIG, place.revision))
    elif isinstance(place, PathLocation):
        config = _read_config(place.path / CONFIG)
    elif "." in place.name:
        raise _needs_model(source)
    else:
        return None  # perhaps the root of a run in object storage
    fetched = fetcher.weights(None, source)
    licence, basis = _licence_on_the_hub(fetched, fetcher)
    return Ingredients(
        model=place.repository if isinstance(place, HubLocation) else place.path.resolve().name,
        source=source,
        write_weights=weights_writer(fetched.path),
        config=config,
        licence=licence,
        licence_basis=basis,
        tokenizer=_tokenizer_beside(place, config, fetcher) if tokenizer else {},
    )


def from_run(target: str, folder: Path, fetcher: Fetcher, *, tokenizer: bool = True) -> Ingredients:
    """The newest checkpoint of a run that verifies, exported to `folder` first.

    Raises:
        MissingError: there is no such run, or it has no checkpoint.
        ClipError: its storage cannot be read.
    """
    from clipctl.contract.commits import newest_verified
    from clipctl.exportcheckpoint import export
    from clipctl.output import note
    from clipctl.runtarget import find

    store = find(target).open()
    record = newest_verified(store, lambda rejected: note(f"REJECTED {rejected.checkpoint}: {rejected.problem}"))
    if record is None:
        raise MissingError(f"{store.root} holds no checkpoint.", hint="The run has not committed one yet.")
    weights, config_path = export(store, record.id, str(folder))
    config = _read_config(config_path)
    return Ingredients(
        model=target,
        source=f"{store.root}, checkpoint {record.id}",
        write_weights=lambda path: _move(weights, path),
        config=config,
        tokenizer=tokenizer_of(config, fetcher) if tokenizer else {},
    )


def weights_writer(source: Path) -> Callable[[Path], None]:
    """Writes the weights of a file as safetensors: a copy, or a conversion in a process that has torch."""

    def write(target: Path) -> None:
        if source.suffix == ".safetensors":
            shutil.copyfile(source, target)
        else:
            run_trainer(_CONVERTER, [str(source), str(target)])

    return write


def _tokenizer_beside(
    place: HubLocation | PathLocation, config: dict[str, Any], fetcher: Fetcher
) -> dict[str, Path | bytes]:
    """The tokenizer that lies with the weights, where there is one, else the one the configuration names."""
    from clip_trainer.pretrained.tokenizerfiles import tokenizer_files

    named = config.get("model_cfg", {}).get("text_cfg", {}).get("hf_tokenizer_name")
    where = place.repository if isinstance(place, HubLocation) else str(place.path)
    if named and where != named:
        try:
            return {**tokenizer_files(fetcher, where)}
        except MissingError:
            return tokenizer_of(config, fetcher)
    return tokenizer_of(config, fetcher)


def _licence_on_the_hub(fetched: Fetched, fetcher: Fetcher) -> tuple[str | None, str | None]:
    """What the model card of the repository says; nothing if it cannot be asked."""
    if not fetched.source.startswith("hf-hub:") or fetcher.settings.offline or fetcher.settings.mirror:
        return None, None
    place = parse_location(fetched.source)
    assert isinstance(place, HubLocation)
    try:
        licence = Hub(fetcher.settings).info(place.repository, place.revision).licence
    except ClipError:
        return None, None
    return licence, f"model card of {place.repository}" if licence else None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path} is not a model configuration: {error}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
        raise CorruptError(f"{path} is not a model configuration: it has no model_cfg.")
    return content


def _move(source: Path, target: Path) -> None:
    shutil.move(source, target)


def _needs_model(source: str) -> SpecError:
    return SpecError(
        f"{source} does not say what model it is for.", hint="Name it: clipctl models bundle MODEL WEIGHTS OUT."
    )
