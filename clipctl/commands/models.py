"""`clipctl models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipctl.commands.options import Json, command_app

if TYPE_CHECKING:
    from clip_trainer.pretrained.fetching import Fetcher
    from clipctl.downloadbar import DownloadBar
    from clipctl.modelbundle import Ingredients

app = command_app("List, describe, fetch and bundle models and their published weights.")
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model, as ViT-B-32.")]
CacheDir = Annotated[
    str | None, typer.Option("--cache-dir", help="Where fetched files are kept. Default: the cache of the hub's tools.")
]
FromUrl = Annotated[
    bool, typer.Option("--from-url", help="Prefer the publisher's own address to the hub, where there is one.")
]
Refresh = Annotated[bool, typer.Option("--refresh", help="Ask again for what is in the cache already.")]


@app.command("list")
def list_models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Only models that match, as 'ViT-B-*'.")] = "*",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="List the published weights: one line per model and tag.")
    ] = False,
    json: Json = False,
) -> None:
    """List the models, or their published weights."""
    from clipctl import modelview
    from clipctl.output import say, say_json, table

    rows = modelview.weight_rows(pattern) if pretrained else modelview.model_rows(pattern)
    if json:
        say_json(rows)
    elif not rows:
        say("no models")
    elif pretrained:
        lines = [(r["model"], r["tag"], r["licence"] or "unknown", r["hf_hub"].rstrip("/") or r["url"]) for r in rows]
        say(table(("MODEL", "TAG", "LICENCE", "HUB"), lines))
    else:
        found = [(r["name"], _count(r["parameters"]), _pixels(r["image_size"]), str(len(r["tags"]))) for r in rows]
        say(table(("MODEL", "PARAMETERS", "IMAGE", "TAGS"), found))


@app.command("show")
def show(
    model: Model,
    tag: Annotated[str | None, typer.Argument(metavar="TAG", help="Tag of published weights.")] = None,
    json: Json = False,
) -> None:
    """Describe a model, or published weights of it."""
    from clipctl import modelview
    from clipctl.output import say, say_json

    details = modelview.model_details(model) if tag is None else modelview.weight_details(model, tag)
    if json:
        say_json(details)
    else:
        say("\n".join(_lines(details)))


@app.command("pull")
def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL | LOCATION", help="Name of a model, or where weights are.")],
    source: Annotated[
        str | None, typer.Argument(metavar="TAG", help="Tag, hf-hub:org/repo[@revision][/file], address or path.")
    ] = None,
    cache_dir: CacheDir = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Digest that a location's file must have.")] = None,
    from_url: FromUrl = False,
    refresh: Refresh = False,
    json: Json = False,
) -> None:
    """Fetch weights and print where they are. Exit code 65 if they are damaged."""
    from clip_trainer.pretrained.digests import sha256_of
    from clipctl.downloadbar import DownloadBar
    from clipctl.output import say, say_json, size

    name, wanted = (None, model) if source is None else (model, source)
    with DownloadBar() as bar:
        fetcher = _fetcher(cache_dir, bar, refresh=refresh, prefer_hf_hub=not from_url)
        fetched = fetcher.weights(name, wanted, sha256=sha256)
    digest, count = sha256_of(fetched.path), fetched.path.stat().st_size
    licence = fetched.entry.licence if fetched.entry is not None else None
    if json:
        told = {"path": str(fetched.path), "source": fetched.source, "bytes": count, "sha256": digest}
        say_json({**told, "licence": licence})
    else:
        say(f"{fetched.path}\n{size(count)} from {fetched.source}\nsha256 {digest}\nlicence {licence or 'unknown'}")


@app.command("bundle")
def bundle(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL WEIGHTS OUT | SOURCE OUT",
            help="A model with a tag or location of weights; or a hub repository, a directory or a run.",
        ),
    ],
    cache_dir: CacheDir = None,
    from_url: FromUrl = False,
    no_tokenizer: Annotated[bool, typer.Option("--no-tokenizer", help="Leave the tokenizer's files out.")] = False,
    json: Json = False,
) -> None:
    """Write weights, configuration, tokenizer, licence and digests as one directory that `local-dir:OUT` loads."""
    import tempfile
    from pathlib import Path

    from clipctl.contract.errors import SpecError
    from clipctl.downloadbar import DownloadBar
    from clipctl.modelbundle import write_bundle
    from clipctl.output import say, say_json, size

    if len(arguments) not in (2, 3):
        raise SpecError(
            f"bundle takes two or three arguments, and {len(arguments)} were given.",
            hint="As `clipctl models bundle ViT-B-32 laion2b_s34b_b79k OUT` or `clipctl models bundle RUN OUT`.",
        )
    *what, out = arguments
    with DownloadBar() as bar, tempfile.TemporaryDirectory() as scratch:
        fetcher = _fetcher(cache_dir, bar, prefer_hf_hub=not from_url)
        manifest = write_bundle(_ingredients(what, Path(scratch), fetcher, not no_tokenizer), out)
    if json:
        say_json({"out": out, **manifest})
    else:
        total = sum(file["bytes"] for file in manifest["files"].values())
        say(f"{out}: {len(manifest['files'])} files, {size(total)}, licence {manifest['licence'] or 'unknown'}")
        say(f"load it as local-dir:{out}; check it with `sha256sum -c SHA256SUMS` in it")


@app.command("golden")
def golden(
    model: Model,
    out: Annotated[str, typer.Argument(metavar="OUT.json", help="File of the expected outputs.")],
    check: Annotated[bool, typer.Option("--check", help="Compare with the file; exit code 65 if they differ.")] = False,
    config: Annotated[
        str | None, typer.Option("--config", help="Configuration of a model that is not built in (JSON).")
    ] = None,
    json: Json = False,
) -> None:
    """Write what a model's configuration gives for fixed weights and inputs, or compare with it."""
    from clip_trainer.model.config import get_config, read_config
    from clipctl.output import say, say_json
    from clipctl.trainerprocess import run_trainer

    _ = read_config(config) if config else get_config(model)  # a wrong name is known without waiting for torch
    options = [*(["--check"] if check else []), *(["--config", config] if config else [])]
    result = run_trainer("clip_trainer.golden", [*options, "--", model, out])
    if json:
        say_json(result)
    elif check:
        say(f"OK: {model} is as {out} says, within {result['tolerance']:g}")
    else:
        say(f"{out} written: {_count(result['parameters'])} parameters")


def _ingredients(what: list[str], scratch: Any, fetcher: Fetcher, tokenizer: bool) -> Ingredients:
    from clipctl import bundlesources

    if len(what) == 2:
        return bundlesources.from_weights(what[0], what[1], fetcher, tokenizer=tokenizer)
    found = bundlesources.from_location(what[0], fetcher, tokenizer=tokenizer)
    return found or bundlesources.from_run(what[0], scratch, fetcher, tokenizer=tokenizer)


def _fetcher(cache_dir: str | None, bar: DownloadBar, *, refresh: bool = False, prefer_hf_hub: bool = True) -> Fetcher:
    from clip_trainer.pretrained.fetching import Fetcher
    from clip_trainer.pretrained.settings import from_environment

    return Fetcher(from_environment(cache_dir), bar, refresh=refresh, prefer_hf_hub=prefer_hf_hub)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e6:.2f} M"


def _pixels(size: int | tuple[int, int]) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def _lines(value: Any, indent: str = "") -> list[str]:
    """A JSON value for people: one line a field, nested ones indented."""
    lines = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            lines += [f"{indent}{key}:", *_lines(inner, indent + "  ")]
        elif isinstance(inner, (list, tuple)):
            lines.append(f"{indent}{key}: {', '.join(map(str, inner)) or '-'}")
        else:
            lines.append(f"{indent}{key}: {'-' if inner is None else inner}")
    return lines
