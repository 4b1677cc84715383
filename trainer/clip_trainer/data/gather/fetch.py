"""From the address of an image to its checked bytes, one request at a time, as its host permits."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from clip_trainer.data.gather.errors import GatherError
from clip_trainer.data.gather.exchange import WebClient
from clip_trainer.data.gather.image import checked_image
from clip_trainer.data.gather.optout import DIRECTIVES, HEADER, opt_out
from clip_trainer.data.gather.robots import Robots
from clip_trainer.data.writing.image import StoredImage
from clip_trainer.data.writing.image_resize import MAX_PIXELS, Resize

MAX_REDIRECTS = 5
_ROBOTS_BYTES = 500 * 1024  # that much of a robots.txt must be read, says RFC 9309


class Fetched(NamedTuple):
    """An image."""

    image: StoredImage
    sha256: str  # of the file as it came


class Moved(NamedTuple):
    """The image is said to be elsewhere."""

    url: str


@dataclass(frozen=True)
class Acceptance:
    """Which images are taken, and how."""

    max_bytes: int = 32 << 20
    max_pixels: int = MAX_PIXELS
    resize: Resize | None = None  # how larger ones are made smaller
    opt_out: Collection[str] = DIRECTIVES  # directives of `X-Robots-Tag` that keep an image out


class ImageFetcher:
    """Fetches images; safe to share between threads.

    Args:
        client: sends the requests.
        token: the product token that robots.txt and opt-outs call us by.
        acceptance: which images are taken.
    """

    def __init__(self, client: WebClient, token: str, acceptance: Acceptance) -> None:
        self._client, self._token, self._acceptance = client, token, acceptance
        self._robots = Robots(self._robots_text, token)

    def delay(self, url: str) -> float:
        """Seconds that the host of an address wants between two requests.

        Raises:
            GatherError: the host does not want the address to be fetched, or cannot be asked.
        """
        return self._robots.check(url)

    def fetch(self, url: str) -> Fetched | Moved:
        """Fetch an image.

        Raises:
            GatherError: there is none, or none that is taken.
        """
        with self._client.get(url) as answer:
            if answer.location is not None:
                return Moved(answer.location)
            if directive := opt_out(answer.header(HEADER), self._token, self._acceptance.opt_out):
                raise GatherError("opt-out", f"{HEADER}: {directive}", code=answer.status)
            data = answer.body(self._acceptance.max_bytes)
        image = checked_image(data, self._acceptance.max_pixels, self._acceptance.resize)
        return Fetched(image, hashlib.sha256(data).hexdigest())

    def _robots_text(self, url: str) -> bytes:
        """The content of a robots.txt, wherever redirects lead."""
        for _ in range(MAX_REDIRECTS + 1):
            with self._client.get(url) as answer:
                if answer.location is None:
                    return answer.start_of_body(_ROBOTS_BYTES)
                url = answer.location
        # Too many redirects count as "there is none" (RFC 9309, 2.3.1.2).
        raise GatherError("redirect", urlsplit(url).path, code=404)
