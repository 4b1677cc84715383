"""Sources, weights, drawing and damaged samples against OpenCLIP's own data pipeline."""

import io
from collections import Counter

import numpy as np
import pytest

from clip_testkit.runyaml import spec_with
from clip_testkit.shards import png, tar_bytes
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.order.pools import WeightedSource, pools_of
from clip_trainer.data.order.resampling import ResampledOrder
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.shards.sample import UnusableSample
from clip_trainer.data.storage.location import parse_location
from clip_trainer.vision import UndecodableImage, decode_image

pytestmark = pytest.mark.parity

URLS = [
    "/d/{000..003}.tar",
    "/d/000.tar",
    "/d/000.tar::/e/{08..11}.tar",
    "/d/{a,b}-{0..2}.tar::/e/x.tar::s3://b/{9..11}.tar",
]


@pytest.mark.parametrize("urls", URLS)
def test_locations_stand_for_the_same_shards(urls):
    from open_clip_train.data import expand_urls

    assert [shard for source in spec_with(f"data.train='{urls}'").data.sources for shard in shards(source)] == list(
        expand_urls(urls)[0]
    )


@pytest.mark.parametrize("urls", URLS)
def test_every_shard_has_the_weight_of_its_source(urls):
    from open_clip_train.data import expand_urls

    factors = [f"{number + 1}.5" for number in range(len(urls.split("::")))]
    theirs = dict(zip(*expand_urls(urls, "::".join(factors)), strict=True))
    sources = [f"{{url: '{url}', weight: {factor}}}" for url, factor in zip(urls.split("::"), factors, strict=True)]
    data = spec_with(f"data.train=[{', '.join(sources)}]", "data.resample={weight_by: shard}").data
    assert {shard: source.weight for source in data.sources for shard in shards(source)} == theirs


def shards(source):
    location = parse_location(source.url)
    return [f"{location.base}/{name}" for name in location.names]


COUNTS = [30, 10, 20, 40, 15, 5, 30, 10]
SOURCES = [WeightedSource(3, 1.0), WeightedSource(5, 2.5)]
WEIGHTS = [source.weight for source in SOURCES for _ in range(source.shards)]


def their_shards(draws):
    from open_clip_train.data import ResampledShards2

    names = [str(shard) for shard in range(len(COUNTS))]
    source = ResampledShards2(names, WEIGHTS, draws, worker_seed=lambda: 1, deterministic=True, epoch=0)
    return np.bincount([int(draw["url"]) for draw in source], minlength=len(COUNTS))


def test_shards_are_drawn_as_openclip_draws_them():
    draws = 20_000
    theirs = their_shards(draws)
    order = ResampledOrder(COUNTS, pools_of(COUNTS, SOURCES, "shard"), seed=1, lanes=1, shuffle_block=8)
    assert order.window == 8
    windows = order._lookup(np.arange(draws, dtype=np.int64) * order.window).shard  # what each window draws
    ours = np.bincount(windows, minlength=len(COUNTS))
    # Two samples of one distribution; 24.3 is exceeded once in a thousand times with 7 degrees of freedom.
    assert ((ours - theirs) ** 2 / (ours + theirs)).sum() < 24.3


def test_samples_come_as_often_as_with_openclips_upsampling_factors():
    """OpenCLIP shows all samples of each shard that it draws."""
    theirs = np.repeat(their_shards(20_000), COUNTS).astype(float)
    order = ResampledOrder(COUNTS, pools_of(COUNTS, SOURCES, "sample"), seed=1, lanes=8)
    ours = np.bincount(order.sample_ids(0, 1_600_000), minlength=sum(COUNTS)).astype(float)
    np.testing.assert_allclose(ours / ours.sum(), theirs / theirs.sum(), rtol=0.1)


def jpeg(number):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


MEMBERS = [
    *[("good.png", png(1)), ("good.txt", b"fine")],
    *[("photo.JPG", jpeg(2)), ("photo.TXT", b"upper case")],
    *[("web.webp", b"RIFF\x1a\0\0\0WEBP"), ("web.txt", b"a header alone")],
    *[("no-text.png", png(3))],
    *[("no-image.txt", b"nothing to see")],
    *[("broken.jpg", b"\xff\xd8broken"), ("broken.txt", b"not an image")],
    *[("cut.png", png(4)[:40]), ("cut.txt", b"half an image")],
    *[("other.json", b"{}"), ("other.png", png(5)), ("other.txt", b"more members")],
    *[("dir/good.png", png(6)), ("dir/good.txt", b"in a folder")],
    *[("dots.in.name.png", png(7)), ("dots.txt", b"the suffix is in.name.png")],
    *[("last.jpeg", jpeg(8)), ("last.txt", b"fine")],
]


def test_the_same_samples_survive(tmp_path):
    import webdataset as wds
    from open_clip_train import data as oracle

    (tmp_path / "000.tar").write_bytes(tar_bytes(MEMBERS))
    # `tarfile_to_samples_nothrow` without its opener, which leaves files to the garbage collector, and without the
    # marks of ends of shards, which it does not expect.
    files = oracle.tar_file_expander([{"url": "000", "stream": io.BytesIO(tar_bytes(MEMBERS))}], eof_value=None)
    whole = wds.select(oracle.filter_no_caption_or_no_image)(oracle.group_by_keys_nothrow(files))
    theirs = {sample["__key__"] for sample in wds.decode("pilrgb", handler=oracle.log_and_continue)(whole)}
    dataset = open_dataset(str(tmp_path))
    reader = dataset.open_reader(ReadHints())
    ours = Counter(key for index in range(dataset.counts[0]) if (key := usable(reader.read(0, index))))
    assert ours == Counter(theirs)
    assert {"good", "photo", "dir/good", "other", "last"} == theirs


def usable(sample):
    try:
        sample.captions()
        decode_image(sample.image())
    except (UnusableSample, UndecodableImage):
        return None
    return sample.key
