"""What `clipctl data stats`, `check` and `bench` show, from reports as the trainer answers them."""

from collections import Counter
from dataclasses import asdict

import pytest
from rich.cells import cell_len

from clip_trainer.data.check.histogram import histogram
from clipctl.benchview import bench_lines
from clipctl.dataview import check_lines, stats_lines


def numbers(values, starts=(0, 10, 100, 1000, 10_000)):
    return asdict(histogram(Counter(values), starts))


def none_repeated():
    return {"repeats": 0, "watched_share": 1.0, "examples": []}


def stats(**given):
    return {
        "data": "s3://bucket/shards",
        "shards": 2000,
        "samples": 2_000_000,
        "bytes": 100 << 30,
        "samples_per_shard": numbers([1000, 1000, 500]),
        "bytes_per_shard": numbers([50 << 20, 51 << 20]),
        "bytes_per_sample": numbers([2048, 4096, 100_000]),
        "suffixes": {"jpg": 2_000_000, "txt": 1_900_000, "seg.png": 10},
        "with_image": 2_000_000,
        "with_caption": 1_900_000,
        "with_class": 0,
        "shards_with_etag": 2000,
        "shards_with_xxh3": 2000,
        "rules": {},
        "left_out": {},
        "damaged": {},
        "digest": "d" * 32,
        "identity": "e" * 32,
        **given,
    }


def report(**given):
    preview = {"key": "000123", "width": 640, "height": 480, "format": "JPEG", "caption": "a cat " * 60}
    return {
        "data": "shards",
        "samples": 1000,
        "seed": 7,
        "read": 40,
        "bytes": 4000,
        "unusable": 3,
        "damaged": 0,
        "with_class": 0,
        "problems": {"not an image": 2, "no caption": 1},
        "examples": {
            "not an image": [{"key": f"k{n}", "shard": "a.tar", "index": n} for n in range(5)],
            "no caption": [{"key": "", "shard": "b.tar", "index": 9}],
        },
        "images": {
            "count": 38,
            "shorter_side": numbers([480] * 38),
            "aspect": numbers([1.33] * 38, (0, 1, 1.25, 1.5)),
            "formats": {"JPEG": 37, "PNG": 1},
            "modes": {"RGB": 38},
            "rotated_by_exif": 4,
            "duplicates": {"repeats": 2, "watched_share": 1.0, "examples": ["000007", "000008"]},
        },
        "captions": {
            "count": 39,
            "samples": 39,
            "missing": {"no caption": 1},
            "characters": numbers([60] * 39),
            "tokens": numbers([14] * 38 + [90]),
            "cut": 1,
            "scripts": {"Latin": 39},
            "duplicates": none_repeated(),
        },
        "json_keys": {},
        "languages": {},
        "duplicate_keys": none_repeated(),
        "previews": [preview, {**preview, "caption": "赤い電車が駅に止まっている" * 9}],
        "sheet": None,
        "ok": False,
        "verdict": "BAD: 3 of 40 samples cannot be used",
        **given,
    }


def section(lines, title):
    """The lines below a title."""
    start = next(place for place, line in enumerate(lines) if line.startswith(title))
    rest = lines[start + 1 :]
    return rest[: rest.index("")] if "" in rest else rest


class TestStats:
    def lines(self, width=100, **given):
        return "\n".join(stats_lines(stats(**given), width)).splitlines()

    def test_totals_come_first(self):
        assert self.lines()[0] == "s3://bucket/shards: 2,000,000 samples in 2,000 shards, 100.0 GiB"

    def test_figures_of_shards_and_samples(self):
        lines = self.lines()
        assert lines[2].split() == ["MIN", "MEDIAN", "MEAN", "P95", "MAX"]
        assert lines[3].split() == ["samples", "per", "shard", "500", "1,000", "833", "1,000", "1,000"]
        assert lines[5].split()[-2:] == ["97.7", "KiB"]

    def test_a_part_of_the_sizes_is_called_a_part(self):
        assert any(line == "bytes per sample, of 3 samples" for line in self.lines())
        assert any(line == "bytes per sample" for line in self.lines(samples=3))

    def test_members_are_shares_of_the_samples(self):
        members = section(self.lines(), "members")
        assert [line.split()[0] for line in members] == ["jpg", "txt", "seg.png"]
        assert members[1].endswith("1,900,000  95.0 %")

    def test_rules_and_what_they_left_out(self):
        rules = {"needs": ["image", "caption"], "min_side": 200, "where": [["LANGUAGE", "en"]]}
        lines = self.lines(rules=rules, left_out={"image too small": 30, "no caption": 10})
        assert section(lines, "left out")[0].split()[:3] == ["image", "too", "small"]
        assert [line for line in lines if line.startswith("rule")] == [
            "rule     needs: image, caption",
            "rule     min side: 200",
            "rule     where: LANGUAGE=en",
        ]

    def test_damaged_shards_are_named_but_not_all(self):
        lines = self.lines(damaged={f"{n}.tar": "it is truncated" for n in range(14)})
        named = [line for line in lines if line.startswith("damaged")]
        assert named[0] == "damaged  0.tar: it is truncated"
        assert named[-1] == "damaged  4 more"
        assert len(named) == 11

    def test_without_rules_nothing_is_said_about_them(self):
        assert not any(line.startswith(("rule", "damaged", "left out")) for line in self.lines())


class TestCheck:
    def lines(self, width=100, **given):
        return "\n".join(check_lines(report(**given), width)).splitlines()

    def test_how_much_was_read(self):
        assert self.lines()[0] == "shards: 40 of 1,000 samples read (a random draw, seed 7), 3.9 KiB"
        assert "(all)" in self.lines(samples=40)[0]

    def test_the_verdict_is_the_last_line(self):
        assert self.lines()[-1] == "BAD: 3 of 40 samples cannot be used"

    def test_previews_are_one_line_each_whatever_the_caption(self):
        for width in (60, 100, 160):
            first, second = self.lines(width)[2:4]
            assert first.startswith("  000123  640x480  JPEG  a cat a cat")
            assert "赤い電車" in second
            assert cell_len(first) <= width
            assert cell_len(second) <= width

    def test_problems_are_counted_and_located(self):
        found = section(self.lines(), "cannot be used")
        assert found[0].split()[-3:] == ["2", "5.0", "%"]
        assert "  not an image: k0, k1, k2, ..." in found
        assert "  no caption: sample 9 of b.tar" in found

    def test_captions_that_are_cut_are_a_share(self):
        (line,) = [line for line in self.lines() if line.startswith("captions  ")]
        assert line.endswith("39 in 39 samples; 2.6 % are cut at 77 tokens")

    def test_repeats_say_what_was_covered(self):
        lines = [line for line in self.lines() if line.startswith("repeated")]
        assert lines[0] == "repeated      0 keys among those read; --all looks at every sample"
        assert lines[1] == "repeated      2 images: 000007, 000008"
        assert "--all" not in "".join(self.lines(samples=40))

    def test_an_estimate_is_called_one(self):
        lines = self.lines(duplicate_keys={"repeats": 12, "watched_share": 0.25, "examples": ["x"]})
        assert any("12 keys (estimated from 25 %): x" in line for line in lines)

    def test_rotations_and_classes_are_mentioned_if_there_are_any(self):
        text = "\n".join(self.lines(with_class=5))
        assert "4 images ask for one in their EXIF data; training ignores it" in text
        assert "5 samples have a class number" in text
        assert "class" not in "\n".join(self.lines())

    def test_nothing_could_be_decoded(self):
        bare = report()
        bare["images"] |= {"count": 0, "shorter_side": numbers([]), "aspect": numbers([]), "formats": {}, "modes": {}}
        bare["captions"] |= {"count": 0, "samples": 0, "characters": numbers([]), "tokens": numbers([]), "scripts": {}}
        lines = "\n".join(check_lines({**bare, "previews": []}, 100)).splitlines()
        assert not any(line.startswith(("shorter side", "format", "caption")) for line in lines)
        assert lines[-1].startswith("BAD")

    @pytest.mark.parametrize("width", [50, 80, 120])
    def test_bars_fill_the_width_but_no_more(self, width):
        bars = [line for line in self.lines(width) if "█" in line]
        assert bars
        assert max(map(cell_len, bars)) <= width

    def test_without_block_characters(self):
        text = "\n".join(check_lines(report(), 100, blocks=False))
        assert "####" in text
        assert "█" not in text


def timing(rate, micros, speed=0):
    return {"samples_per_second": rate, "cpu_us_per_sample": micros, "bytes_per_second": speed, "bytes": speed}


def test_bench():
    lines = "\n".join(
        bench_lines(
            {
                "data": "s3://bucket/shards",
                "model": "ViT-B-32",
                "batch": 256,
                "threads": 4,
                "cpus": 8,
                "remote": True,
                "image_side": 553.6,
                "input_side": 224,
                "stages": {"read": timing(9444.2, 50.1, 600 << 20), "decode": timing(2880.0, 1050.0)},
                "parse": timing(30_000.0, 33.0),
                "end_to_end": timing(1500.5, 1948.0, 30 << 20),
                "first_batch_seconds": 0.834,
                "held": 512,
                "unusable": 3,
                "bottleneck": "decode",
                "advice": ["decode-bound: it takes long.", "Resize."],
            }
        )
    ).splitlines()
    assert lines[0] == "s3://bucket/shards (remote)"
    assert lines[1] == "ViT-B-32, batches of 256, 4 threads on 8 CPUs, images of 554 pixels to 224"
    assert lines[4].split() == ["read", "9,444", "50", "600.0", "MiB/s"]
    assert lines[5].split() == ["of", "it,", "parse", "30,000", "33"]
    assert lines[6].split() == ["decode", "2,880", "1,050"]
    assert lines[7].split() == ["all", "together", "1,500", "1,948", "30.0", "MiB/s"]
    assert "first batch after 0.83 s" in lines
    assert "3 of the first 512 samples cannot be used; see `clipctl data check`" in lines
    assert lines[-2:] == ["decode-bound: it takes long.", "Resize."]
