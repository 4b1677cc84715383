"""Folders of classes: which image belongs to which class, and who reads it."""

import numpy as np
import pytest
import torch

from clip_testkit.evalwork import write_class_folders
from clip_testkit.shards import number_of, png
from clip_trainer.eval.folder import FolderStream, scan
from clipctl.contract.errors import CorruptError, MissingError, SpecError


def planes(pixels):
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def stream(folder, rank=0, world=1, chunk=4):
    return FolderStream(str(folder), scan(str(folder)), transform=planes, rank=rank, world=world, chunk=chunk)


def shown(folder, **options):
    chunks = list(stream(folder, **options))
    images = [number_of(image.permute(1, 2, 0).numpy()) for chunk in chunks for image in chunk.images]
    return list(zip(images, [label for chunk in chunks for label in chunk.cls], strict=True))


class TestScan:
    def test_sorted_names_are_the_classes(self, tmp_path):
        write_class_folders(tmp_path, {"n02": 10, "n01": 0, "n10": 20}, per_class=2)
        assert scan(str(tmp_path)) == [
            ("n01/0000.png", 0),
            ("n01/0001.png", 0),
            ("n02/0010.png", 1),
            ("n02/0011.png", 1),
            ("n10/0020.png", 2),
            ("n10/0021.png", 2),
        ]

    def test_numbers_are_class_numbers(self, tmp_path):
        """ImageNet-V2: as text, 10 sorts before 2."""
        write_class_folders(tmp_path, {"2": 0, "10": 5, "999": 9}, per_class=1)
        assert sorted(number for _, number in scan(str(tmp_path))) == [2, 10, 999]

    def test_one_name_that_is_no_number_makes_all_names(self, tmp_path):
        write_class_folders(tmp_path, {"2": 0, "10": 5, "cat": 9}, per_class=1)
        assert [(path.split("/")[0], number) for path, number in scan(str(tmp_path))] == [
            ("10", 0),
            ("2", 1),
            ("cat", 2),
        ]

    def test_the_same_number_twice_is_refused(self, tmp_path):
        write_class_folders(tmp_path, {"7": 0, "007": 1}, per_class=1)
        with pytest.raises(CorruptError, match="same number"):
            scan(str(tmp_path))

    def test_deep_images_count_and_other_files_do_not(self, tmp_path):
        (tmp_path / "a" / "deep").mkdir(parents=True)
        (tmp_path / "b").mkdir()
        (tmp_path / ".git").mkdir()
        (tmp_path / "a" / "deep" / "x.JPEG").write_bytes(b"")
        (tmp_path / "a" / "notes.txt").write_bytes(b"")
        (tmp_path / "b" / "y.webp").write_bytes(b"")
        (tmp_path / "z.png").write_bytes(b"")
        assert scan(str(tmp_path)) == [("a/deep/x.JPEG", 0), ("b/y.webp", 1)]

    def test_a_file_url(self, tmp_path):
        write_class_folders(tmp_path, {"a": 0}, per_class=1)
        assert scan(f"file://{tmp_path}") == [("a/0000.png", 0)]

    def test_nothing_there(self, tmp_path):
        with pytest.raises(MissingError, match="cannot be read"):
            scan(str(tmp_path / "missing"))
        with pytest.raises(MissingError, match="no images"):
            scan(str(tmp_path))

    def test_remote_folders_are_refused_with_a_way_out(self):
        with pytest.raises(SpecError, match="remote") as caught:
            scan("s3://bucket/folder")
        assert "data pack" in caught.value.hint


class TestStream:
    def test_all_images_in_order(self, tmp_path):
        write_class_folders(tmp_path, {"a": 0, "b": 100})
        assert shown(tmp_path) == [(0, 0), (1, 0), (2, 0), (100, 1), (101, 1), (102, 1)]

    @pytest.mark.parametrize("world", [2, 3, 7])
    def test_ranks_share_them(self, tmp_path, world):
        write_class_folders(tmp_path, {"a": 0, "b": 100})
        parts = [shown(tmp_path, rank=rank, world=world, chunk=1) for rank in range(world)]
        assert sorted(item for part in parts for item in part) == shown(tmp_path)

    def test_undecodable_images_are_listed(self, tmp_path):
        write_class_folders(tmp_path, {"a": 0})
        (tmp_path / "a" / "0001.png").write_bytes(png(1)[:20])
        images = stream(tmp_path)
        assert [chunk.sample_ids for chunk in images] == [[0, 2]]
        assert [skipped.key for skipped in images.skipped] == ["a/0001.png"]

    def test_a_file_that_went_away(self, tmp_path):
        write_class_folders(tmp_path, {"a": 0})
        images = stream(tmp_path)
        (tmp_path / "a" / "0002.png").unlink()
        with pytest.raises(MissingError, match=r"0002.png cannot be read"):
            list(images)
