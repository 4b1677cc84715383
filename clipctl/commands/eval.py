"""`clipctl eval`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clipctl.commands.options import Context, Json, Namespace, command_app

app = command_app()


Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="A run (run.yaml, name or root), an exported directory or bundle, or a model name with --pretrained.",
    ),
]
Pretrained = Annotated[
    str | None, typer.Option("--pretrained", metavar="TAG|FILE", help="Weights of a model given by name.")
]
Step = Annotated[
    int | None, typer.Option("--step", min=0, help="Checkpoint of this step. Default: the newest that verifies.")
]
RawWeights = Annotated[
    bool, typer.Option("--raw-weights", help="Of a run with train.ema, the weights that are not averaged.")
]
Data = Annotated[str | None, typer.Option("--data", help="Shards with class numbers, for zero-shot accuracy.")]
Folder = Annotated[
    str | None, typer.Option("--folder", help="Folder with a sub-folder per class, for zero-shot accuracy.")
]
Classes = Annotated[
    str | None, typer.Option("--classes", help="`imagenet`, a JSON file with names, or names as cat,dog,bird.")
]
Templates = Annotated[
    list[str] | None,
    typer.Option("--templates", help="`imagenet`, `simple`, a JSON file, or a prompt with {}. Repeatable."),
]
Retrieval = Annotated[
    str | None, typer.Option("--retrieval", help="Shards with captions, for retrieval and validation loss.")
]
Captions = Annotated[str, typer.Option("--captions", help="Rank `all` captions of an image or the `first`.")]
LossBatch = Annotated[int, typer.Option("--loss-batch", min=1, help="Pairs contrasted in the validation loss.")]
Precision = Annotated[
    str | None, typer.Option("--precision", help="As model.precision. Default: the run.yaml's, or fp32.")
]
Device = Annotated[str, typer.Option("--device", help="`cpu`, `cuda`, or `auto`: what there is.")]
Processes = Annotated[int, typer.Option("--nproc", min=1, help="Processes that share the work on this machine.")]
Out = Annotated[str | None, typer.Option("--out", help="JSONL file to append the results to.")]


@app.command("eval")
def evaluate(
    target: Target,
    pretrained: Pretrained = None,
    step: Step = None,
    raw_weights: RawWeights = False,
    data: Data = None,
    folder: Folder = None,
    classes: Classes = None,
    templates: Templates = None,
    retrieval: Retrieval = None,
    captions: Captions = "all",
    loss_batch: LossBatch = 64,
    precision: Precision = None,
    device: Device = "auto",
    nproc: Processes = 1,
    out: Out = None,
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Measure a model: zero-shot accuracy, retrieval, validation loss.

    Without --data, --folder and --retrieval, a run.yaml is evaluated on what its own eval section says.
    """
    import tempfile
    from pathlib import Path

    from clipctl.evaluation import Questions, append, request_of, run
    from clipctl.evaluationsubject import Choice, find_subject, spec_of

    spec = spec_of(target) if pretrained is None else None
    asked = Questions(data, folder, classes, templates or (), retrieval, captions, loss_batch)
    section = asked.section(None if spec is None else spec.eval)
    precision = precision or ("fp32" if spec is None else spec.model.precision)
    with tempfile.TemporaryDirectory(prefix="clipctl-eval-") as scratch:
        subject = find_subject(target, Path(scratch), Choice(pretrained, step, raw_weights), namespace, context)
        request = request_of(subject, section, precision=precision, device=device, processes=nproc)
        answer = run(request, Path(scratch))
    record = {"model": subject.name, "checkpoint": subject.checkpoint, "precision": precision, **answer}
    if out is not None:
        append(out, record)
    _show(record, json)


def _show(record: dict[str, Any], json: bool) -> None:
    from clipctl.evaluation import metrics
    from clipctl.output import say, say_json, table

    if json:
        say_json(record)
        return
    say(f"{record['model']} on {record['processes']} x {record['device']}, {record['precision']}")
    rows = [(data, metric, _number(value)) for data, metric, value in metrics(record["results"])]
    say(table(("DATA", "METRIC", "VALUE"), rows))


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"
