"""Why a row of a table gave no image.

The *reason* is a short stable word that results are counted by. It says what happened last; a row that failed for a
transient reason was tried again before that became its result.

- of the row: `bad-url`, `no-caption`
- of the network: `dns`, `private-address`, `connection`, `tls`, `timeout`, `protocol`
- of the answer: `http-404` and the like, `redirect`, `truncated`, `too-large`
- of the owner: `robots` (robots.txt), `opt-out` (X-Robots-Tag)
- of the image: `not-an-image`, `unsupported-format`, `broken-image`, `too-many-pixels`
"""

from __future__ import annotations

OK = "ok"
"""The status of a row whose image is in a shard."""

_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})


class GatherError(Exception):
    """A row's image cannot be had (now).

    Args:
        reason: what results are counted by.
        detail: what a person wants to know besides.
        code: status of the HTTP answer, if there was one.
        transient: another attempt may do better.
        retry_after: seconds that the host asked to be left alone for; 0 if it did not.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        code: int | None = None,
        transient: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.code = reason, detail, code
        self.transient, self.retry_after = transient, retry_after


def of_status(status: int, retry_after: float = 0.0) -> GatherError:
    """The error for an answer that is neither a success nor a redirect."""
    transient = status in _TRANSIENT_STATUSES
    return GatherError(
        f"http-{status}", code=status, transient=transient, retry_after=retry_after if transient else 0.0
    )
