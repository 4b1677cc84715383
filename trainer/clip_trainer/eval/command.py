"""`python -m clip_trainer.eval.command REQUEST.json`: what `clipctl eval` runs.

The request says which model and what to evaluate it on; the answer is the results. With several processes this one
starts the others and is rank 0 itself.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clip_trainer.elastic import process_group
from clip_trainer.elastic.membership import membership_from_environment
from clip_trainer.eval.encoder import Encoder
from clip_trainer.eval.evaluate import Evaluator
from clip_trainer.jsonanswer import answer
from clip_trainer.library.create import create_model
from clip_trainer.library.tokenizers import get_tokenizer
from clip_trainer.model import get_precision
from clip_trainer.train.group import Group, alone
from clip_trainer.vision import transforms_for
from clipctl.contract.errors import MissingError
from clipctl.contract.sections import EvalSection


def main(arguments: list[str]) -> dict[str, Any]:
    """Evaluate; returns the results on rank 0 (other ranks return them too, to nobody).

    The request has `model` (a name, `local-dir:`, `hf-hub:`), `pretrained` (or null), `precision`, `device` (`cpu`,
    `cuda`, `auto`), `processes` and `eval`, an `eval` section of run.yaml.

    Raises:
        ClipError: the model or the data cannot be had.
    """
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    section = EvalSection.model_validate_json(json.dumps(request["eval"]))
    processes = int(request["processes"])
    with _peers(processes, arguments[0]):
        membership = membership_from_environment()
        group, generation = alone(membership.local_rank, processes, _gpus(request["device"])), membership.next()
        group.become(generation.rank, generation.world)
        process_group.enter(generation, group.device)
        evaluator = Evaluator(group, section, max(2, len(os.sched_getaffinity(0)) // group.world))
        results = evaluator.run(_encoder(request, group), evaluator.names)
        process_group.leave_group()
    return {"results": results, "processes": group.world, "device": group.device.type}


def _encoder(request: dict[str, Any], group: Group) -> Encoder:
    """The model of the request. Rank 0 goes first, so that weights are fetched once."""
    name, pretrained = request["model"], request["pretrained"]
    options = {"precision": request["precision"], "device": group.device, "require_pretrained": True}
    models: list[Any] = []

    def load() -> None:
        models.append(create_model(name, pretrained, **options))

    group.on_first(load)
    group.on_each(lambda: None if models else load())
    model = models[0]
    transforms = transforms_for(model)
    return Encoder(
        model=model,
        tokenize=get_tokenizer(name),
        transform=transforms.evaluate,
        preprocess=transforms.preprocess,
        precision=get_precision(request["precision"]),
        device=group.device,
    )


def _gpus(device: str) -> int:
    if device == "auto":
        return int(torch.cuda.is_available())
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingError("there is no CUDA device here.", hint="Leave --device out, or say --device cpu.")
    return int(device == "cuda")


@contextmanager
def _peers(processes: int, request: str) -> Iterator[None]:
    """The other ranks, if there are to be any and this is not one of them. They end when this process does."""
    if processes == 1 or "RANK" in os.environ:
        yield
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = port
    command = [sys.executable, "-m", "clip_trainer.eval.command", request]
    peers = []
    try:
        for rank in range(1, processes):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            peers.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        os.environ.update(shared, RANK="0", LOCAL_RANK="0")
        yield
        for peer in peers:
            peer.wait(30)
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()


if __name__ == "__main__":
    sys.exit(answer(main, sys.argv[1:]))
