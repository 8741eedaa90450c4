"""Rows on disk, by RocksDB: a restart reads only the changelog's tail.

One database for a process, with a column family for each partition, so that its limits hold however many there are.
RocksDB's own write-ahead log is off: the changelog is one. A crash loses what was not flushed yet, and never a part of
it: rows and the offset that they go up to (the mark) lie in one batch of one column family, and batches are flushed in
their order. What was lost is then read again, at most `WRITE_BUFFERS_BYTES` of it.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar, overload

import msgspec
import structlog
from rocksdict import (
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from worker.stream.record import RESERVED
from worker.stream.stores import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from worker.stream.stores import Changelog, ChangelogRecord

log = structlog.get_logger("recall.store")

T = TypeVar("T")

BLOCK_CACHE_BYTES: Final = 128 * 1024 * 1024
"""Of what was read, indexes and filters included."""
WRITE_BUFFERS_BYTES: Final = 192 * 1024 * 1024
"""Of what is not on disk yet: beyond it a partition is written out early. Nobody waits, which a full disk would make
for ever."""
WRITE_BUFFER_BYTES: Final = 32 * 1024 * 1024
"""Of one partition, until it is written to disk."""
OPEN_FILES_MAX: Final = 512
BACKGROUND_JOBS: Final = 2
_BLOOM_BITS: Final = 10
_BLOCK_BYTES: Final = 16 * 1024
_LOG_BYTES: Final = 4 * 1024 * 1024
_UNCOMPRESSED_LEVELS: Final = 2
_LEVELS: Final = 7

_MISSING: Final = object()

MARK_KEY: Final = RESERVED + b"mark"
"""Beside the rows, and none of them."""


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """How far a partition's rows go in the changelog."""

    topic_id: str
    offset: int
    complete_at_ms: int
    """When this was all that the changelog held; dropped rows after it are known as long as their tombstones stay."""
    format: int = 1


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Mark).decode


class OverlaidRows(MutableMapping[bytes, bytes]):
    """The rows on disk, and over them what is not committed yet."""

    def __init__(self, disk: Rdict, place: str) -> None:
        self.fresh: dict[bytes, bytes | None] = {}
        """What is not on disk yet; None for dropped."""
        self._disk = disk
        self._place = place

    @overload
    def get(self, key: bytes, default: None = None, /) -> bytes | None: ...
    @overload
    def get(self, key: bytes, default: T, /) -> bytes | T: ...
    def get(self, key: bytes, default: T | None = None, /) -> bytes | T | None:
        fresh = self.fresh
        if key in fresh:
            row = fresh[key]
        else:
            try:
                row = self._disk.get(key)
            except Exception as error:
                raise StoreError(failed(self._place, error)) from error
        return default if row is None else row

    def close(self) -> None:
        """Write to disk what is committed, and let go of it; what is not is forgotten."""
        self.fresh.clear()
        self._disk.close()

    def __getitem__(self, key: bytes) -> bytes:
        row = self.get(key)
        if row is None:
            raise KeyError(key)
        return row

    def __setitem__(self, key: bytes, row: bytes) -> None:
        self.fresh[key] = row

    def __delitem__(self, key: bytes) -> None:
        if key not in self:
            raise KeyError(key)
        self.fresh[key] = None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self.get(key) is not None

    def __iter__(self) -> Iterator[bytes]:
        return (key for key, _ in self.pairs())

    def count(self) -> int:
        """Return about how many there are; a row on disk that is changed counts twice until it is committed."""
        return (self._disk.property_int_value("rocksdb.estimate-num-keys") or 0) + len(self.fresh)

    def __len__(self) -> int:
        return sum(1 for _ in self.pairs())

    def items(self) -> ItemsView[bytes, bytes]:
        return _Items(self)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Read all rows once, without keeping them."""
        fresh, disk = self.fresh, self._disk
        key = None
        with guarded(self._place):
            for key, row in disk.items():
                if key not in fresh and key != MARK_KEY:
                    yield key, row  # type: ignore[misc]  # bytes, in raw mode
            # The binding takes a block that cannot be read for the end: only the position tells.
            rest = disk.iter()
            if key is None:
                rest.seek_to_first()
            else:
                rest.seek(key)
                rest.next()
            rest.status()
        assert not rest.valid()  # else rows were left out
        yield from [(key, row) for key, row in fresh.items() if row is not None]


class _Items(ItemsView[bytes, bytes]):
    """Keys and rows in one pass: the usual view looks each key up."""

    def __init__(self, rows: OverlaidRows) -> None:
        super().__init__(rows)
        self._rows = rows

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.pairs()


class RocksPartition:
    """The rows of one partition; `mark` is what was found, None where they begin anew."""

    def __init__(self, database: Rdict, name: str, topic_id: str, mark: Mark | None, clock: Callable[[], int]) -> None:
        self.rows = OverlaidRows(database.get_column_family(name), database.path())
        self.held = None if mark is None else mark.offset
        self._database = database
        self._family: ColumnFamily | None = database.get_column_family_handle(name)
        self._topic_id = topic_id
        self._clock = clock
        self._opened_at = clock()
        self._mark = mark

    def recover(self, records: Iterable[ChangelogRecord]) -> None:
        batch = self._batch()
        put, delete = batch.put, batch.delete
        offset = None
        for record in records:
            row = record.value
            if row is None:
                delete(record.key)
            else:
                put(record.key, row)
            offset = record.offset
        if offset is not None:
            # Not complete, whatever the time is: what is read next may be older than what is kept of tombstones.
            self._write(batch, offset, self._opened_at if self._mark is None else self._mark.complete_at_ms)

    def row_count(self) -> int:
        return self.rows.count()

    def recovered(self) -> None:
        if self._mark is not None and self._mark.complete_at_ms < self._opened_at:
            self._write(self._batch(), self._mark.offset, self._opened_at)

    def committed(self, rows: Mapping[bytes, bytes | None], offset: int) -> None:
        batch = self._batch()
        put, delete = batch.put, batch.delete
        for key, row in rows.items():
            if row is None:
                delete(key)
            else:
                put(key, row)
        self._write(batch, offset, self._clock())
        fresh = self.rows.fresh
        for key, row in rows.items():
            if fresh.get(key, _MISSING) is row:
                del fresh[key]

    def close(self) -> None:
        """Let go of every handle: one that is left would keep the database open."""
        self._family = None
        with guarded(self._database.path()):
            self.rows.close()

    def _batch(self) -> WriteBatch:
        batch = WriteBatch(raw_mode=True)
        batch.set_default_column_family(self._family)
        return batch

    def _write(self, batch: WriteBatch, offset: int, complete_at_ms: int) -> None:
        self._mark = Mark(self._topic_id, offset, complete_at_ms)
        batch.put(MARK_KEY, _encode(self._mark))
        with guarded(self._database.path()):
            self._database.write(batch, _unlogged())


class RocksStore:
    """The database of a process, in a directory of its own."""

    def __init__(self, directory: Path, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        """Keep rows in `directory`, which is made; `clock` gives wall time, ms."""
        self._directory = directory
        self._clock = clock
        self._database: Rdict | None = None
        self._families: set[str] = set()
        self._partitions: dict[int, RocksPartition] = {}

    def open(self, partition: int, changelog: Changelog) -> RocksPartition:
        database = self._database or self._open()
        name = str(partition)
        with guarded(self._directory):
            mark = None
            if name in self._families:
                mark = self._read_mark(database.get_column_family(name))
                reason = self._unusable(mark, changelog)
                if reason is not None:
                    log.warning("rows on disk begin anew", partition=partition, reason=reason)
                    database.drop_column_family(name)
                    self._families.remove(name)
                    mark = None
            if name not in self._families:
                database.create_column_family(name, self._options())
                self._families.add(name)
            opened = RocksPartition(database, name, changelog.topic_id, mark, self._clock)
        self._partitions[partition] = opened
        return opened

    def release(self, partition: int) -> None:
        """Let go of a partition; its committed rows stay on disk for its return."""
        self._partitions.pop(partition).close()

    def close(self) -> None:
        """Write to disk what is committed, so that the next start has nothing to read again."""
        for partition in list(self._partitions):
            self.release(partition)
        if self._database is not None:
            with guarded(self._directory):
                self._database.close()
            self._database = None

    def _open(self) -> Rdict:
        path = str(self._directory)
        self._cache = Cache(BLOCK_CACHE_BYTES)
        self._buffers = WriteBufferManager(WRITE_BUFFERS_BYTES, allow_stall=False)
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            names = Rdict.list_cf(path) if (self._directory / "CURRENT").exists() else []
            families = {name: self._options() for name in names}
            database = self._database = Rdict(path, self._options(), families)
        except Exception as error:
            if "LOCK" in str(error):
                raise StoreError(
                    f"store {path} is in use by another process: each worker needs a directory of its own (datadir). "
                    f"Stop the other one, or give this one another directory ({error})"
                ) from error
            raise StoreError(failed(path, error)) from error
        self._families = set(names) - {"default"}
        return database

    def _read_mark(self, family: Rdict) -> Mark | None:
        raw = family.get(MARK_KEY)
        mark = None if raw is None else _decode(raw)
        return mark if mark is None or mark.format == 1 else None

    def _unusable(self, mark: Mark | None, changelog: Changelog) -> str | None:
        """Say why rows cannot be gone on from; None where they can."""
        if mark is None:
            return "they have no mark that this version knows"
        if not changelog.topic_id:
            return "the changelog's id is not known, so it may be another one"
        if mark.topic_id != changelog.topic_id:
            return "they were kept for another changelog: it was made anew, or this is another cluster"
        if not changelog.first - 1 <= mark.offset < changelog.end:
            return f"they go up to offset {mark.offset}, and the changelog holds {changelog.first} to {changelog.end}"
        age_ms = abs(self._clock() - mark.complete_at_ms)
        if age_ms > changelog.tombstones_ms // 2:  # half of it is left for clocks that differ, and for the reading
            return f"they are {age_ms // 1000} s old, and tombstones are kept for {changelog.tombstones_ms // 1000} s"
        return None

    def _options(self) -> Options:
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        table.set_block_size(_BLOCK_BYTES)
        table.set_bloom_filter(_BLOOM_BITS, block_based=False)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(self._buffers)
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_max_open_files(OPEN_FILES_MAX)
        options.set_max_background_jobs(BACKGROUND_JOBS)
        compressed = [DBCompressionType.lz4()] * (_LEVELS - _UNCOMPRESSED_LEVELS)
        options.set_compression_per_level([DBCompressionType.none()] * _UNCOMPRESSED_LEVELS + compressed)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(_LOG_BYTES)
        return options


@contextmanager
def guarded(place: Path | str) -> Iterator[None]:
    """Turn whatever the binding raises, which has one type for all, into `StoreError`."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(failed(str(place), error)) from error


def failed(place: str, error: Exception) -> str:
    """Say what to do about an error of RocksDB."""
    return (
        f"store {place} failed: {error}. Look whether its disk is full; if it is damaged, delete the directory: the "
        f"changelog has all of it, and the next start reads it back"
    )


def _unlogged() -> WriteOptions:
    options = WriteOptions()
    options.disable_wal = True  # type: ignore[method-assign,assignment]  # a property, whatever the stub says
    return options
