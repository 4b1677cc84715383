"""What S3 answers to a listing (ListObjectsV2)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus

from clip_trainer.data.storage.source import ObjectInfo
from clipctl.contract.errors import UnavailableError


class ListingPage(NamedTuple):
    """Objects of a page of a listing, and where the next page begins."""

    objects: tuple[ObjectInfo, ...]
    next_token: str | None


def listing_query(prefix: str, token: str | None) -> dict[str, str]:
    """The query for the objects directly below a prefix."""
    query = {"list-type": "2", "delimiter": "/", "encoding-type": "url", "prefix": prefix}
    return {**query, "continuation-token": token} if token else query


def parse_listing(document: bytes, prefix: str, what: str) -> ListingPage:
    """Read a page; names are relative to the prefix.

    Raises:
        UnavailableError: it is not a listing.
    """
    try:
        if b"<!DOCTYPE" in document:
            raise ElementTree.ParseError("a document type, which no listing has")
        root = ElementTree.fromstring(document)  # noqa: S314 - without a document type there are no entities to expand
        if _local(root) != "ListBucketResult":
            raise ElementTree.ParseError(f"<{_local(root)}>")
        objects = tuple(info for entry in root if _local(entry) == "Contents" for info in _object(entry, prefix))
    except (ElementTree.ParseError, ValueError) as error:
        raise UnavailableError(f"{what}: the server sent something else than a listing ({error}).") from error
    fields = _fields(root)
    return ListingPage(objects, fields.get("NextContinuationToken") if fields.get("IsTruncated") == "true" else None)


def _object(entry: ElementTree.Element, prefix: str) -> Iterator[ObjectInfo]:
    fields = _fields(entry)
    name = unquote_plus(fields.get("Key", "")).removeprefix(prefix)
    if name:  # the prefix itself may be an object: some tools make directories of that kind
        yield ObjectInfo(name, int(fields["Size"]), fields.get("ETag", "").strip('"') or None)


def _fields(element: ElementTree.Element) -> dict[str, str]:
    return {_local(child): child.text or "" for child in element}


def _local(element: ElementTree.Element) -> str:
    """The name of an element without the namespace, which not all stores write."""
    return element.tag.rpartition("}")[2]
