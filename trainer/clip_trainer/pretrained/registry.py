"""The weights that can be asked for by model and tag: the 196 pairs of OpenCLIP 3.3.0, as data.

The functions have OpenCLIP's names, arguments and results. `entry` knows more: published digests and licences. Where
the data come from stands in `registry/NOTICE.md`. Nothing here imports torch or touches the network.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from clipctl.contract.errors import MissingError

FAMILIES = (
    *("resnet", "vit", "hf_text", "convnext", "coca", "eva", "siglip", "siglip2", "clipa", "nllb"),
    *("mobileclip", "mobileclip2", "vitamin", "pe_core", "metaclip2"),
)
"""Data files, in the order in which OpenCLIP lists the models."""

_Triple = tuple[float, float, float]
NORMS: dict[str, tuple[_Triple, _Triple]] = {
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of the channels, 0 to 1, by the name the data files use."""
_QUICK = "-quickgelu"


@dataclass(frozen=True)
class PretrainedEntry:
    """One published set of weights."""

    model: str
    tag: str
    hf_hub: str  # `org/repo/` for the standard file names, or `org/repo/file`; empty if it is not on the hub
    url: str  # direct address; empty if there is none
    sha256: str | None  # of the file at `url`: 64 hex digits, or the first 8 if only these are published
    mean: _Triple
    std: _Triple
    interpolation: str
    resize_mode: str
    quick_gelu: bool
    licence: str | None  # SPDX identifier; None if it is not known
    licence_basis: str | None  # where the licence was read

    def to_cfg(self) -> dict[str, Any]:
        """The entry as OpenCLIP's `get_pretrained_cfg` gives it."""
        fields = ("url", "hf_hub", "mean", "std", "interpolation", "resize_mode")
        cfg = {field: getattr(self, field) for field in fields}
        return {**cfg, "quick_gelu": True} if self.quick_gelu else cfg

    @property
    def repository(self) -> tuple[str, str]:
        """Hub repository and file name; the name is empty where the standard names apply."""
        repository, _, filename = self.hf_hub.rpartition("/")
        return repository, filename


def list_pretrained(as_str: bool = False) -> list[Any]:
    """All pairs of model and tag, as tuples, or as `model:tag` if `as_str`."""
    pairs = [(model, tag) for model, tags in _table().items() for tag in tags]
    return [f"{model}:{tag}" for model, tag in pairs] if as_str else pairs


def list_pretrained_models_by_tag(tag: str) -> list[str]:
    """Models that have weights with this tag."""
    return [model for model, tags in _table().items() if clean_tag(tag) in tags]


def list_pretrained_tags_by_model(model: str) -> list[str]:
    """Tags of a model; empty if the model is unknown."""
    return list(_table().get(model, ()))


def is_pretrained_cfg(model: str, tag: str) -> bool:
    """Whether the model has weights with this tag."""
    return clean_tag(tag) in _table().get(model, ())


def get_pretrained_cfg(model: str, tag: str) -> dict[str, Any]:
    """Sources and preprocessing of the weights; empty if there are none."""
    found = _table().get(model, {}).get(clean_tag(tag))
    return {} if found is None else found.to_cfg()


def get_pretrained_url(model: str, tag: str) -> str:
    """Direct address of the weights; empty if there is none."""
    return str(get_pretrained_cfg(model, tag).get("url", ""))


def clean_tag(tag: str) -> str:
    """A tag as it stands in the registry: lower case, `-` as `_`."""
    return tag.lower().replace("-", "_")


def entry(model: str, tag: str) -> PretrainedEntry:
    """All that is known about the weights.

    Raises:
        MissingError: the model has no weights with this tag; those it has are named.
    """
    tags = _table().get(canonical_model(model), {})
    if clean_tag(tag) in tags:
        return tags[clean_tag(tag)]
    others = list_pretrained_models_by_tag(tag)
    hint = f"It has {', '.join(tags)}." if tags else "No published weights are known for this model."
    if others:
        hint += f" The tag belongs to {', '.join(others[:6])}."
    raise MissingError(f"{model} has no pretrained weights called {tag!r}.", hint=hint)


def canonical_model(model: str) -> str:
    """The name of a model as the registry has it: `ViT-B/32` is `ViT-B-32`."""
    return model.replace("/", "-")


@cache
def _table() -> dict[str, dict[str, PretrainedEntry]]:
    """Model to tag to entry, with the `-quickgelu` names derived as OpenCLIP does: weights that need it, again."""
    table: dict[str, dict[str, PretrainedEntry]] = {}
    for family in FAMILIES:
        data = json.loads(_read(f"{family}.json"))
        for model, tags in data["models"].items():
            table[model] = {tag: _entry(model, tag, {**data["defaults"], **raw}) for tag, raw in tags.items()}
    quick = {
        model + _QUICK: {tag: replace(e, model=model + _QUICK) for tag, e in tags.items() if e.quick_gelu}
        for model, tags in table.items()
    }
    return {**table, **{model: tags for model, tags in quick.items() if tags}}


def _entry(model: str, tag: str, raw: dict[str, Any]) -> PretrainedEntry:
    hub, url = raw.get("hf_hub", ""), raw.get("url", "")
    mean, std = NORMS[raw["norm"]]
    licence, basis = _licence(tag, hub, url)
    return PretrainedEntry(
        model=model,
        tag=tag,
        hf_hub=hub,
        url=url,
        sha256=raw.get("sha256"),
        mean=mean,
        std=std,
        interpolation=raw["interpolation"],
        resize_mode=raw["resize_mode"],
        quick_gelu=raw.get("quick_gelu", False),
        licence=licence,
        licence_basis=basis,
    )


def _licence(tag: str, hub: str, url: str) -> tuple[str | None, str | None]:
    """Licence and where it was read, by the first rule that matches."""
    known = {"tag": tag, "hub": hub, "url": url}
    for rule in _licence_rules():
        wanted = [key for key in known if key in rule]
        excluded = "not_hub" in rule and fnmatchcase(hub, rule["not_hub"])
        if not excluded and all(fnmatchcase(known[key], rule[key]) for key in wanted):
            return rule["licence"], rule["basis"]
    return None, None


@cache
def _licence_rules() -> list[dict[str, str]]:
    rules: list[dict[str, str]] = json.loads(_read("licences.json"))
    return rules


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("registry", name).read_text(encoding="utf-8")
