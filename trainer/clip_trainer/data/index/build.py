"""Reading many shards in parallel to make an index of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from clip_trainer.data.index.format import ShardIndex
from clip_trainer.data.index.join import make_index
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.scan import scan_shard
from clip_trainer.data.index.table import IndexedShard
from clip_trainer.data.progress import Progress, ProgressTracker
from clip_trainer.data.storage.source import ObjectInfo, Source
from clipctl.contract.errors import ClipError, CorruptError, MissingError

_MAX_PROBLEMS = 20
"""Damaged shards after which reading on tells nothing new."""
_SHOWN_PROBLEMS = 5
_ALL = SampleRules()

OnShard = Callable[[IndexedShard], None]


def build_index(
    source: Source,
    names: Iterable[str],
    *,
    rules: SampleRules = _ALL,
    progress: Progress | None = None,
    threads: int = 4,
) -> ShardIndex:
    """Read every shard once and describe it.

    When files were last changed is left out, so that the same shards give the same index.

    Raises:
        MissingError: there are no shards, or one does not exist.
        CorruptError: shards are damaged; names them.
    """
    found = [info._replace(modified=0) for info in shard_infos(source, tuple(names))]
    scan = ShardScan(source, rules, threads=threads)
    scanned = scan.run(found, progress)
    return make_index((scanned[info.name] for info in found), rules)


def shard_infos(source: Source, names: Sequence[str]) -> list[ObjectInfo]:
    """What the store says about each shard. Raises MissingError if there are none, or one does not exist."""
    if not names:
        hint = "Check the location, or make shards with `clipctl data pack`."
        raise MissingError(f"{source.base} holds no shards (*.tar).", hint=hint)
    infos = source.info_many(names)
    for name in names:
        if name not in infos:
            raise MissingError(f"{source.base}/{name} does not exist.", hint="Check the pattern and the location.")
    return [infos[name] for name in names]


class ShardScan:
    """Reads shards in parallel and gathers their problems.

    Args:
        source: where they are.
        rules: which samples to list.
        threads: shards read at the same time.
        skip_damaged: whether damaged shards are left out instead of ending the scan.
        on_shard: told about every shard that was read.

    Attributes:
        damaged: problems of damaged shards that were left out, by name.
    """

    def __init__(
        self,
        source: Source,
        rules: SampleRules,
        *,
        threads: int = 4,
        skip_damaged: bool = False,
        on_shard: OnShard = lambda shard: None,
    ) -> None:
        self._source, self._rules, self._threads = source, rules, threads
        self._skip_damaged, self._on_shard = skip_damaged, on_shard
        self._lock = Lock()
        self._stopped = False
        self._done: dict[str, IndexedShard] = {}
        self.damaged: dict[str, ClipError] = {}

    def run(self, shards: Sequence[ObjectInfo], progress: Progress | None = None) -> dict[str, IndexedShard]:
        """Read these shards; the result lacks those in `damaged`.

        Raises:
            CorruptError: shards are damaged (without `skip_damaged`).
            MissingError, PermissionDeniedError, UnavailableError: from the store.
        """
        if not shards:
            return {}
        tracker = ProgressTracker("index", len(shards), progress)
        waiting = iter(shards)
        with ThreadPoolExecutor(min(self._threads, len(shards))) as pool:
            try:
                for worker in [pool.submit(self._work, waiting, tracker) for _ in range(self._threads)]:
                    worker.result()
            finally:
                self._stopped = True
        if self.damaged and not self._skip_damaged:
            raise _joined_problem(self.damaged, len(shards))
        return self._done

    def _work(self, waiting: Iterable[ObjectInfo], tracker: ProgressTracker) -> None:
        """Read shards until there are no more, or nothing can come of it."""
        while True:
            with self._lock:
                info = None if self._stopped else next(iter(waiting), None)
            if info is None:
                return
            try:
                shard = scan_shard(self._source, info, self._rules, tracker.add_bytes)
            except CorruptError as error:
                self._note_damage(info.name, error)
            except BaseException:
                self._stopped = True
                raise
            else:
                self._on_shard(shard)
                with self._lock:
                    self._done[info.name] = shard
            tracker.finish(info.name)

    def _note_damage(self, name: str, error: CorruptError) -> None:
        with self._lock:
            self.damaged[name] = error
            if len(self.damaged) >= _MAX_PROBLEMS and not self._skip_damaged:
                self._stopped = True


def _joined_problem(damaged: dict[str, ClipError], shards: int) -> ClipError:
    """One error for all damaged shards."""
    errors = [damaged[name] for name in sorted(damaged)]
    if len(errors) == 1:
        return errors[0]
    listed = " ".join(error.problem for error in errors[:_SHOWN_PROBLEMS])
    more = f" And {len(errors) - _SHOWN_PROBLEMS} more." if len(errors) > _SHOWN_PROBLEMS else ""
    return CorruptError(
        f"{len(errors)} of {shards} shards cannot be indexed. {listed}{more}",
        hint="Restore or pack them again, or leave them out with `clipctl data index --skip-damaged`.",
    )
