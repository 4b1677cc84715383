"""Multipart uploads against a bucket in memory that refuses what it is told to refuse."""

import threading

import pytest

from clipctl.contract import store_s3_upload
from clipctl.contract.errors import InternalError, UnavailableError
from clipctl.contract.parts import exactly, regrouped
from clipctl.contract.retrying import Retrying
from clipctl.contract.store_s3_upload import part_length, upload

PATIENT = Retrying(attempts=4, sleep=lambda seconds: None)


class Refusal(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


class Bucket:
    """Just enough of S3; `faults` maps a method to the errors that its next calls meet (None: it works)."""

    def __init__(self, **faults):
        self.objects, self.uploads, self.faults = {}, {}, {name: list(list_) for name, list_ in faults.items()}
        self.calls, self.most, self._now, self._lock = [], 0, 0, threading.Lock()

    def __call__(self, method, **arguments):
        with self._lock:
            self.calls.append(method)
            self._now += 1
            self.most = max(self.most, self._now)
            fault = self.faults.get(method, [])
            error = fault.pop(0) if fault else None
        try:
            if error is not None and not error.startswith("after "):
                raise Refusal(error)
            answer = getattr(self, method)(**arguments)
            if error is not None:
                raise Refusal(error.removeprefix("after "))
            return answer
        finally:
            with self._lock:
                self._now -= 1

    def create_multipart_upload(self, Key):
        self.uploads[f"u{len(self.uploads)}"] = {}
        return {"UploadId": f"u{len(self.uploads) - 1}"}

    def upload_part(self, Key, UploadId, PartNumber, Body):
        with self._lock:
            self.uploads[UploadId][PartNumber] = Body
        return {"ETag": f"e{PartNumber}"}

    def complete_multipart_upload(self, Key, UploadId, MultipartUpload):
        if UploadId not in self.uploads:
            raise Refusal("NoSuchUpload")
        listed = MultipartUpload["Parts"]
        assert [part["PartNumber"] for part in listed] == list(range(1, len(listed) + 1))
        assert all(part["ETag"] == f"e{part['PartNumber']}" for part in listed)
        parts = self.uploads.pop(UploadId)
        self.objects[Key] = b"".join(parts[part["PartNumber"]] for part in listed)

    def abort_multipart_upload(self, Key, UploadId):
        self.uploads.pop(UploadId, None)

    def head_object(self, Key):
        if Key not in self.objects:
            raise Refusal("404")
        return {"ContentLength": len(self.objects[Key])}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(store_s3_upload, "PART_BYTES", 10)


DATA = bytes(range(95))


def store(bucket, parts=(DATA,)):
    upload(bucket, "k", parts, 95, PATIENT)


@pytest.mark.parametrize("parts", [[DATA], [DATA[:1], DATA[1:94], DATA[94:]], [bytes([b]) for b in DATA]])
def test_the_bytes_in_order_in_parts_of_one_size(parts):
    bucket = Bucket()
    store(bucket, parts)
    assert bucket.objects == {"k": DATA}
    assert bucket.uploads == {}
    assert bucket.calls.count("upload_part") == 10
    assert bucket.most <= store_s3_upload.PARALLEL


def test_each_part_is_tried_again_by_itself():
    bucket = Bucket(upload_part=["SlowDown", None, "500", "RequestTimeout"], create_multipart_upload=["503"])
    store(bucket)
    assert bucket.objects == {"k": DATA}
    assert bucket.calls.count("upload_part") == 13


@pytest.mark.parametrize(
    "faults",
    [
        {"upload_part": [None, "AccessDenied"]},
        {"upload_part": ["SlowDown"] * 40},
        {"complete_multipart_upload": ["InvalidPart"]},
        {"complete_multipart_upload": ["500"] * 4},
    ],
)
def test_what_cannot_be_stored_leaves_no_upload(faults):
    bucket = Bucket(**faults)
    with pytest.raises(Refusal):
        store(bucket)
    assert bucket.objects == {}
    assert bucket.uploads == {}


def test_the_first_error_is_told_even_if_the_upload_cannot_be_aborted():
    bucket = Bucket(upload_part=["AccessDenied"], abort_multipart_upload=["AccessDenied"] * 9)
    with pytest.raises(Refusal, match="AccessDenied"):
        store(bucket)


def test_a_completion_whose_answer_was_lost_is_one():
    bucket = Bucket(complete_multipart_upload=["after 500"])
    store(bucket)
    assert bucket.objects == {"k": DATA}


def test_an_upload_that_vanished_is_an_error():
    bucket = Bucket(complete_multipart_upload=["NoSuchUpload"])
    with pytest.raises(Refusal, match="NoSuchUpload"):
        store(bucket)


def test_the_size_is_checked_in_the_end(monkeypatch):
    bucket = Bucket()
    monkeypatch.setattr(bucket, "head_object", lambda Key: {"ContentLength": 94})
    with pytest.raises(UnavailableError, match="94 bytes of k after 95"):
        store(bucket)


@pytest.mark.parametrize("parts", [[DATA[:94]], [DATA, b"x"], []])
def test_another_number_of_bytes_than_announced(parts):
    bucket = Bucket()
    with pytest.raises(InternalError):
        store(bucket, parts)
    assert (bucket.objects, bucket.uploads) == ({}, {})


def test_huge_objects_get_larger_parts(monkeypatch):
    monkeypatch.undo()
    assert part_length(1) == part_length(80_000 << 20) == 8 << 20
    assert -(-(5 << 40) // part_length(5 << 40)) <= 10_000


class TestPieces:
    def test_exactly(self):
        assert list(exactly([b"ab", b"", memoryview(b"c")], 3)) == [b"ab", b"", b"c"]
        with pytest.raises(InternalError, match="3 bytes"):
            list(exactly([b"ab"], 3))
        with pytest.raises(InternalError):
            list(exactly([b"ab", b"cd"], 3))

    @pytest.mark.parametrize("length", [1, 2, 3, 7, 95, 96])
    def test_regrouped(self, length):
        for size in (1, 4, 95):
            pieces = [memoryview(DATA)[at : at + size] for at in range(0, 95, size)]
            found = list(regrouped(pieces, length))
            assert b"".join(found) == DATA
            assert {len(piece) for piece in found[:-1]} <= {length}
        assert list(regrouped([], length)) == []

    def test_regrouped_copies(self):
        """The caller's buffer may be used again as soon as the next piece is asked for."""
        buffer = bytearray(b"aaaa")

        def pieces():
            yield memoryview(buffer)
            buffer[:] = b"bbbb"
            yield memoryview(buffer)

        assert list(regrouped(pieces(), 3)) == [b"aaa", b"abb", b"bb"]


class TestRetrying:
    def test_waits_grow_up_to_a_limit_and_are_a_random_share(self):
        waits = []
        patient = Retrying(attempts=6, first=1.0, longest=5.0, sleep=waits.append, chance=lambda: 0.5)
        with pytest.raises(OSError, match="no"):
            patient.call(self.fail, lambda error: True)
        assert waits == [0.5, 1.0, 2.0, 2.5, 2.5]

    def test_it_stops_at_success_and_at_what_will_not_pass(self):
        seen = []

        def third_time(attempt):
            seen.append(attempt)
            if attempt < 2:
                raise OSError("no")
            return "done"

        assert PATIENT.call(third_time, lambda error: True) == "done"
        assert seen == [0, 1, 2]
        with pytest.raises(OSError, match="no"):
            Retrying(sleep=lambda s: pytest.fail("waited")).call(self.fail, lambda error: False)

    def fail(self, attempt):
        raise OSError("no")
