"""What `clipctl eval` evaluates, and on what: from the words of the command line to a request to the trainer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clipctl.contract.errors import CannotCreateError, MissingError, SpecError
from clipctl.contract.sections import EvalSection

_DEVICES = ("auto", "cpu", "cuda")
_HINT = "Give --data, --folder or --retrieval; or a run.yaml that has an eval section."


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        name: what to call it in results.
        model: model name, `local-dir:PATH` or `hf-hub:...`.
        pretrained: tag or file of its weights, if `model` does not have them.
        checkpoint: id of the checkpoint it is, if it is one.
    """

    name: str
    model: str
    pretrained: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Questions:
    """The options of the command line that say what to measure."""

    data: str | None = None
    folder: str | None = None
    classes: str | None = None
    templates: Sequence[str] = ()
    retrieval: str | None = None
    captions: str = "all"
    loss_batch: int = 64

    def section(self, default: EvalSection | None) -> EvalSection:
        """As an `eval` section of run.yaml; `default` if the options ask for nothing.

        Raises:
            SpecError: they contradict each other, or there is nothing to measure.
        """
        if not (self.data or self.folder or self.retrieval):
            if self.classes or self.templates:
                raise SpecError("--classes and --templates need images.", hint="Give --data or --folder as well.")
            if default is None or default == EvalSection():
                raise SpecError("there is nothing to evaluate on.", hint=_HINT)
            return default
        raw: dict[str, Any] = {}
        if self.data or self.folder:
            raw["zero_shot"] = self._zero_shot()
        if self.retrieval:
            raw["retrieval"] = {"data": self.retrieval, "captions": self.captions, "loss_batch": self.loss_batch}
        try:
            return EvalSection.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"][:2])
            raise SpecError(f"{where}: {first['msg']}.", hint="See `clipctl eval -h`.") from None

    def _zero_shot(self) -> dict[str, Any]:
        if not self.classes:
            raise SpecError("--data and --folder need --classes.", hint="`imagenet`, a JSON file, or cat,dog,bird.")
        values: dict[str, Any] = {"data": self.data, "folder": self.folder, "classes": _classes(self.classes)}
        if self.templates:
            one = self.templates[0]
            named = len(self.templates) == 1 and "{}" not in one
            values["templates"] = one if named else list(self.templates)
        return values


def _classes(text: str) -> str | list[str]:
    if text == "imagenet" or text.endswith(".json"):
        return text
    return [name.strip() for name in text.split(",")]


def request_of(
    subject: Subject, section: EvalSection, *, precision: str, device: str, processes: int
) -> dict[str, Any]:
    """What `clip_trainer.eval.command` is asked. Raises `SpecError` for an unknown device."""
    if device not in _DEVICES:
        raise SpecError(f"there is no device {device!r}.", hint=f"One of {', '.join(_DEVICES)}.")
    return {
        "model": subject.model,
        "pretrained": subject.pretrained,
        "precision": precision,
        "device": device,
        "processes": processes,
        "eval": section.model_dump(mode="json"),
    }


def run(request: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """The trainer's answer to a request. Raises the trainer's errors."""
    from clipctl.trainerprocess import run_trainer

    path = scratch / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    return run_trainer("clip_trainer.eval.command", [str(path)])


def metrics(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, float]]:
    """Results as rows of data set, metric and value."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from metrics(value, f"{prefix}.{name}".lstrip("."))
        else:
            yield prefix, name, value


def append(path: str, record: Mapping[str, Any]) -> None:
    """Add a line to a JSONL file. Raises `CannotCreateError` if that is impossible."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")
    except OSError as error:
        raise CannotCreateError(f"{path} cannot be written: {error.strerror}.", hint="Give another --out.") from error


def require_model(name: str) -> None:
    """Say what is missing if somebody names a model without weights. Raises `MissingError` in that case."""
    from clipctl.models import canonical_name, model_names

    if canonical_name(name) in model_names():
        raise MissingError(
            f"{name} is a model without weights.",
            hint="Give its weights with --pretrained: a tag (`clipctl models list --pretrained`) or a file.",
        )
