"""`python -m clip_trainer.data.check.command REQUEST`: what `clipctl data check` runs.

The request is a JSON object; the answer is the report. See `clip_trainer.jsonanswer`.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from clip_trainer.data.check.check import check
from clip_trainer.data.check.contact_sheet import Cell, contact_sheet
from clip_trainer.data.check.sample import Examiner, Finding
from clip_trainer.data.check.tally import Tally, shown
from clip_trainer.data.check.verdict import judge
from clip_trainer.data.sample_set import ReadHints, SampleSet
from clip_trainer.data.samples.captions import weighted_texts
from clip_trainer.data.samples.opening import open_training_data
from clip_trainer.data.shards.sample import RawSample
from clip_trainer.elastic.cpus import usable_cpus
from clip_trainer.jsonanswer import answer, tell
from clip_trainer.text.bpe import BpeTokenizer
from clip_trainer.vision.decode import decode_image
from clipctl.contract.errors import CannotCreateError
from clipctl.contract.sections import DataSection

_SHEET_PICTURES = 30
_WAITING_FOR_STORAGE = 8  # threads beside those that decode, where reading takes a round trip


def main(arguments: list[str]) -> dict[str, Any]:
    """Check a data set.

    The request has `data` (a `data` section of run.yaml), `samples` (a number, or null for all), `seed`, `max_bad` (a
    share), `previews` (how many to return) and `sheet` (path of a PNG file to write, or null).

    Raises:
        ClipError: the data cannot be read, or the sheet cannot be written.
    """
    request = json.loads(arguments[0])
    # Pillow warns about odd metadata of web images; what matters is counted.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    data = DataSection.model_validate_json(json.dumps(request["data"]))
    samples = open_training_data(data)
    tally = check(
        samples,
        request["samples"],
        _examiner(data),
        seed=request["seed"],
        previews=max(request["previews"], _SHEET_PICTURES if request["sheet"] else 0),
        threads=usable_cpus() + (_WAITING_FOR_STORAGE if samples.remote else 0),
        progress=tell,
    )
    if request["sheet"] is not None and tally.previews:
        _write_sheet(request["sheet"], samples, tally.previews, data.max_pixels)
    return _report(request, samples, tally)


def _examiner(data: DataSection) -> Examiner:
    tokenizer = BpeTokenizer()
    captions = RawSample.captions if data.captions is None else weighted_texts(data.captions)
    return Examiner(lambda text: len(tokenizer.encode(text)) + 2, data.max_pixels, captions)


def _report(request: dict[str, Any], samples: SampleSet, tally: Tally) -> dict[str, Any]:
    total = sum(samples.counts)
    verdict = judge(
        read=tally.read,
        unusable=tally.unusable,
        damaged=tally.damaged,
        samples=total,
        max_bad=request["max_bad"],
    )
    return {
        "data": samples.url,
        "samples": total,
        "seed": request["seed"],
        **tally.report(samples.shard_name),
        "previews": [_preview(found) for found in tally.previews[: request["previews"]]],
        "sheet": request["sheet"] if tally.previews else None,
        "ok": verdict.ok,
        "verdict": verdict.text,
    }


def _preview(found: Finding) -> dict[str, Any]:
    assert found.picture is not None, "what can be used has a picture"
    picture = found.picture
    return {
        "key": shown(found.key),
        "width": picture.width,
        "height": picture.height,
        "format": picture.format,
        "caption": shown(found.text),
    }


def _write_sheet(path: str, samples: SampleSet, previews: list[Finding], max_pixels: int) -> None:
    """Read the pictures once more (keeping them all while checking would need memory) and draw them."""
    reader = samples.open_reader(ReadHints(cache_bytes=0))
    cells = []
    for found in previews:
        pixels = decode_image(reader.read(found.shard, found.index).image(), max_pixels=max_pixels)
        note = f"{pixels.shape[1]}x{pixels.shape[0]} {shown(found.key)}"
        cells.append(Cell(pixels, shown(found.text), note))
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(cells).save(path, "PNG")
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror or error}."
        raise CannotCreateError(problem, hint="Give another --sheet.") from error


if __name__ == "__main__":
    sys.exit(answer(main, sys.argv[1:]))
