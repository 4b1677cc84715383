"""Where the shape and the weights of a Hugging Face text model come from: data of ours, a folder, or the hub.

`transformers` is optional and imported on first use. Code from the hub is never run, pickled weights never read.
"""

from __future__ import annotations

import copy
import inspect
import json
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from clipctl.contract.errors import MissingError, SpecError, UnavailableError

_DECODER_DEPTHS = ("num_decoder_layers", "decoder_layers")


def transformers_module() -> ModuleType:
    """The `transformers` package.

    Raises:
        SpecError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise SpecError(
            "The text tower is a Hugging Face model, but the package transformers is not installed.",
            hint="Install it: pip install 'clipctl[hf]'.",
        ) from None
    module: ModuleType = transformers
    return module


def hf_config(name: str) -> Any:
    """The `PretrainedConfig` of a text model.

    Args:
        name: a folder with `config.json`, one of the models OpenCLIP's configurations name (their shape is built in,
            so that no network is needed), or any other repository of the hub.

    Raises:
        SpecError: transformers does not know such a model, or is not installed.
        MissingError: the folder has no configuration.
        UnavailableError: the hub cannot be reached.
    """
    transformers = transformers_module()
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise MissingError(f"There is no config.json in {name}.", hint="Check the folder.")
    built_in = _built_in().get(name.removeprefix("FacebookAI/"))
    if built_in is not None and not Path(name).is_dir():
        return transformers.AutoConfig.for_model(**built_in)
    return _read(transformers.AutoConfig, name, "configuration")


def build_hf_model(config: Any, *, pooling_layer: bool) -> nn.Module:
    """A text encoder with fresh weights: of an encoder-decoder, the encoder (its decoder is built with no layers).

    Args:
        config: a `PretrainedConfig`.
        pooling_layer: whether the model's own pooling layer is part of it, where the architecture has one.
    """
    auto = transformers_module().AutoModel
    config = copy.deepcopy(config)
    for field in _DECODER_DEPTHS:
        if config.is_encoder_decoder and hasattr(config, field):
            setattr(config, field, 0)
    model = auto.from_config(config, **_pooling_argument(config, pooling_layer))
    return _encoder(model, config)


def load_hf_model(name: str, config: Any, *, pooling_layer: bool) -> nn.Module:
    """The text encoder with its published weights, from safetensors files only.

    Args:
        name: folder or repository of the hub.
        config: its `PretrainedConfig`.
        pooling_layer: as in `build_hf_model`.

    Raises:
        MissingError: there is no such folder or repository, or it has no safetensors weights.
        UnavailableError: the hub cannot be reached.
    """
    auto = transformers_module().AutoModel
    arguments = _pooling_argument(config, pooling_layer)
    return _encoder(_read(auto, name, "weights", config=config, use_safetensors=True, **arguments), config)


def _encoder(model: Any, config: Any) -> nn.Module:
    encoder = model.encoder if config.is_encoder_decoder else model
    assert isinstance(encoder, nn.Module)
    return encoder


def _pooling_argument(config: Any, pooling_layer: bool) -> dict[str, bool]:
    """BERT's relatives take `add_pooling_layer`; other architectures have no such layer and refuse the argument."""
    classes = transformers_module().MODEL_MAPPING
    if type(config) not in classes or config.is_encoder_decoder:
        return {}
    parameters = inspect.signature(classes[type(config)].__init__).parameters
    return {"add_pooling_layer": pooling_layer} if "add_pooling_layer" in parameters else {}


def _read(factory: Any, name: str, what: str, **arguments: Any) -> Any:
    """`factory.from_pretrained`, with errors that say what to do."""
    try:
        return factory.from_pretrained(name, trust_remote_code=False, **arguments)
    except ValueError as error:
        raise SpecError(f"transformers cannot use {name!r}: {error}", hint="Check text_cfg.hf_model_name.") from None
    except OSError as error:
        if Path(name).is_dir() or Path(name).is_absolute():
            raise MissingError(f"There is no readable {what} in {name}: {error}", hint="Check the folder.") from None
        raise UnavailableError(
            f"The {what} of {name!r} could not be fetched from the Hugging Face hub: {error}",
            hint="Check the name and the network, give a local folder, or set HF_ENDPOINT to a mirror; the weights "
            "of the whole model do not need it (model.pretrained).",
        ) from None


def _built_in() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("hf_architectures.json").read_text(encoding="utf-8")
    data: dict[str, dict[str, Any]] = json.loads(text)
    return data
