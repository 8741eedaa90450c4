"""The stores' contract, on each of them; and what only one on disk can get wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from worker import settings as worker_settings
from worker.stream.partition import Partition
from worker.stream.processor import NEVER
from worker.stream.record import PARTITION_KEY, attachment_key, pack_row
from worker.stream.stores import Changelog, StoreError
from worker.stream.stores.memory import MemoryStore
from worker.stream.stores.rocks import RocksStore
from worker.stream.timers import Timers

DAY_MS = 24 * 60 * 60 * 1000
CHANGELOG = Changelog(topic_id="topic", first=0, end=1_000_000, tombstones_ms=2 * DAY_MS)
KINDS = ("memory", "rocksdb")
NOTEBOOK = attachment_key(b"anna", b"notebook")


class Record(NamedTuple):
    offset: int
    key: bytes
    value: bytes | None


class Clock:
    now = 1_700_000_000_000

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_store(tmp_path, clock):
    """Make stores over one directory; they are closed at the end."""
    made = []

    def make(kind):
        store = MemoryStore() if kind == "memory" else RocksStore(tmp_path / "rows", clock)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture(params=KINDS)
def store(request, make_store):
    return make_store(request.param)


@pytest.fixture
def disk(make_store):
    return make_store("rocksdb")


# -- the contract ------------------------------------------------------------------------------------------------------


def test_a_change_is_seen_at_once(store):
    rows = store.open(0, CHANGELOG).rows
    rows[b"anna"] = b"1"
    assert rows[b"anna"] == rows.get(b"anna") == b"1"
    assert b"anna" in rows
    assert rows.pop(b"anna") == b"1"
    assert rows.pop(b"anna", None) is None
    assert rows.get(b"anna") is None
    assert rows.get(b"anna", b"none") == b"none"
    assert b"anna" not in rows
    with pytest.raises(KeyError):
        rows[b"anna"]
    with pytest.raises(KeyError):
        del rows[b"anna"]
    assert len(rows) == 0


def test_recovery_takes_the_last_of_each_key_and_drops_what_was_dropped(store):
    partition = store.open(0, CHANGELOG)
    partition.recover([Record(0, b"anna", b"1"), Record(2, b"bert", b"1"), Record(3, b"anna", b"2")])
    partition.recover([Record(7, b"bert", None), Record(9, b"carl", b"1"), Record(10, b"never", None)])
    partition.recovered()
    assert dict(partition.rows.items()) == {b"anna": b"2", b"carl": b"1"}


def test_rows_are_counted_without_reading_them(store):
    one, two = store.open(1, CHANGELOG), store.open(2, CHANGELOG)
    one.recover([Record(n, b"%d" % n, b"row") for n in range(100)])
    one.rows[b"fresh"] = b"row"
    assert one.row_count() == pytest.approx(101, abs=1)  # on disk the mark of the partition may count, too
    assert two.row_count() == 0


def test_partitions_have_rows_of_their_own(store):
    one, two = store.open(1, CHANGELOG), store.open(2, CHANGELOG)
    one.recover([Record(0, b"anna", b"1")])
    one.rows[b"bert"] = b"1"
    assert dict(two.rows) == {}
    assert dict(one.rows) == {b"anna": b"1", b"bert": b"1"}


def test_iteration_sees_what_is_committed_and_what_is_not_each_once(store):
    partition = store.open(0, CHANGELOG)
    partition.recover([Record(n, key, b"old") for n, key in enumerate((b"anna", b"bert", b"carl"))])
    rows = partition.rows
    rows[b"bert"] = b"new"
    rows[b"dora"] = b"new"
    del rows[b"carl"]
    seen = list(rows.items())
    assert sorted(seen) == [(b"anna", b"old"), (b"bert", b"new"), (b"dora", b"new")]
    assert sorted(rows) == sorted(key for key, _ in seen)
    assert len(rows) == len(seen)


def test_timers_attachments_and_the_partition_record_are_found_in_it(store):
    row = pack_row(1, 0, 50, b"")
    partition = store.open(0, CHANGELOG)
    partition.recover([Record(0, b"anna", row), Record(1, NOTEBOOK, b"note"), Record(2, PARTITION_KEY, b"record")])
    partition.rows[b"bert"] = pack_row(1, 0, 40, b"")
    partition.rows[b"carl"] = pack_row(1, 0, NEVER, b"")
    timers, due = Timers(partition.rows), {}
    assert len(timers) == 2
    assert timers.pop_due(51, due, keys_max=9, looks_max=9) is None
    assert list(due) == [b"bert", b"anna"]
    assert partition.rows[NOTEBOOK] == b"note"
    assert partition.rows[PARTITION_KEY] == b"record"


def test_a_row_that_changed_again_after_the_commit_was_made_keeps_its_later_value(store):
    partition = store.open(0, CHANGELOG)
    rows = partition.rows
    committed = {b"anna": b"first", b"bert": b"first", b"carl": None}
    rows[b"carl"] = b"older"
    for key, row in committed.items():
        if row is None:
            del rows[key]
        else:
            rows[key] = row
    rows[b"anna"] = b"later"
    rows[b"carl"] = b"later"
    partition.committed(committed, 5)
    assert dict(rows) == {b"anna": b"later", b"bert": b"first", b"carl": b"later"}
    del rows[b"bert"]
    partition.committed({b"anna": rows[b"anna"]}, 6)
    assert dict(rows) == {b"anna": b"later", b"carl": b"later"}


KEYS = st.sampled_from([b"anna", b"bert", b"carl", NOTEBOOK])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS),
        st.tuples(st.just("drop"), KEYS),
        st.just(("snapshot", b"")),
        st.just(("commit", b"")),
        st.just(("crash", b"")),
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_it_holds_what_the_changelog_and_the_uncommitted_changes_say(kind, steps, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows")
    store = MemoryStore() if kind == "memory" else RocksStore(path)
    partition = store.open(0, CHANGELOG)
    log, model, fresh, pending = [], {}, {}, None
    for number, (step, key) in enumerate(steps):
        if step == "set":
            row = fresh[key] = model[key] = b"%d" % number
            partition.rows[key] = row
        elif step == "drop":
            if model.pop(key, None) is not None:
                fresh[key] = None
            partition.rows.pop(key, None)
        elif step == "snapshot" and pending is None:
            pending, fresh = fresh, {}
        elif step == "commit" and pending:
            log += [Record(len(log) + n, key, row) for n, (key, row) in enumerate(pending.items())]
            partition.committed(pending, log[-1].offset)
            pending = None
        elif step == "crash":
            store.release(0)
            store.close()
            store = MemoryStore() if kind == "memory" else RocksStore(path)
            partition = store.open(0, CHANGELOG._replace(end=max(len(log), 1)))
            held = -1 if partition.held is None else partition.held
            assert held == (len(log) - 1 if kind == "rocksdb" else -1)
            partition.recover(record for record in log if record.offset > held)
            partition.recovered()
            model, fresh, pending = {}, {}, None
            for record in log:
                if record.value is None:
                    model.pop(record.key, None)
                else:
                    model[record.key] = record.value
        assert dict(partition.rows.items()) == model
    store.close()


# -- what is kept on disk ----------------------------------------------------------------------------------------------


def filled(store, rows=3):
    partition = store.open(0, CHANGELOG)
    partition.recover([Record(n, b"user-%d" % n, b"row") for n in range(rows)])
    partition.recovered()
    return partition


def test_what_was_not_committed_does_not_outlive_the_process(disk, make_store):
    partition = filled(disk)
    partition.rows[b"user-0"] = b"committed"
    partition.committed({b"user-0": partition.rows[b"user-0"], PARTITION_KEY: b"record"}, 7)
    partition.rows[b"user-1"] = b"not committed"
    disk.close()
    partition = make_store("rocksdb").open(0, CHANGELOG)
    assert partition.held == 7
    assert dict(partition.rows) == {
        b"user-0": b"committed", b"user-1": b"row", b"user-2": b"row", PARTITION_KEY: b"record"
    }  # fmt: skip


def test_a_partition_that_comes_back_has_its_committed_rows(disk):
    partition = filled(disk)
    partition.rows[b"user-0"] = b"not committed"
    disk.release(0)
    partition = disk.open(0, CHANGELOG)
    assert partition.held == 2
    assert partition.rows[b"user-0"] == b"row"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"topic_id": "another"}, "another changelog"),
        ({"end": 2}, "go up to offset 2, and the changelog holds 0 to 2"),
        ({"first": 4}, "go up to offset 2, and the changelog holds 4 to"),
    ],
    ids=["made anew", "beyond its end", "records between were deleted"],
)
def test_rows_that_do_not_belong_to_the_changelog_begin_anew(disk, capsys, changed, reason):
    filled(disk)
    disk.release(0)
    partition = disk.open(0, CHANGELOG._replace(**changed))
    assert partition.held is None
    assert dict(partition.rows) == {}
    assert reason in capsys.readouterr().out


def test_rows_of_a_changelog_whose_id_is_not_known_begin_anew(disk):
    """Nothing would tell them from those of another cluster."""
    unknown = CHANGELOG._replace(topic_id="")
    disk.open(0, unknown).committed({b"user-0": b"row"}, 2)
    disk.release(0)
    assert disk.open(0, unknown).held is None


@pytest.mark.parametrize(("age_ms", "kept"), [(DAY_MS, True), (DAY_MS + 1, False), (-DAY_MS - 1, False)])
def test_rows_older_than_half_the_life_of_a_tombstone_begin_anew(disk, clock, age_ms, kept):
    filled(disk)
    disk.release(0)
    clock.now += age_ms
    assert (disk.open(0, CHANGELOG).held is not None) is kept


def test_the_age_of_a_recovery_that_was_cut_short_counts_from_its_beginning(disk, clock):
    partition = disk.open(0, CHANGELOG)
    clock.now += DAY_MS
    partition.recover([Record(0, b"anna", b"row")])
    disk.release(0)
    clock.now += 1
    assert disk.open(0, CHANGELOG).held is None


def test_a_recovery_that_goes_on_is_no_younger_before_it_has_ended(disk, clock):
    filled(disk)
    disk.release(0)
    clock.now += DAY_MS
    partition = disk.open(0, CHANGELOG)
    partition.recover([Record(3, b"anna", b"row")])
    disk.release(0)
    clock.now += 1
    assert disk.open(0, CHANGELOG).held is None


def test_a_recovery_that_went_on_to_the_end_makes_them_young_again(disk, clock):
    filled(disk)
    disk.release(0)
    clock.now += DAY_MS
    disk.open(0, CHANGELOG).recovered()
    disk.release(0)
    clock.now += DAY_MS
    assert disk.open(0, CHANGELOG).held == 2


def test_a_second_process_on_the_same_directory_is_told_what_to_do(disk, make_store):
    filled(disk)
    with pytest.raises(StoreError, match=r"in use by another process.*datadir.*Stop the other one"):
        make_store("rocksdb").open(0, CHANGELOG)


KILLED = """
import os, signal, sys
from pathlib import Path
from test_stores import CHANGELOG, Record
from worker.stream.stores.rocks import RocksStore
partition = RocksStore(Path(sys.argv[1])).open(0, CHANGELOG)
row = os.urandom(1000)
for first in range(0, 120_000, 1000):
    partition.recover([Record(n, b"user-%d" % (n % 90_000), b"%d " % n + row) for n in range(first, first + 1000)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(script, *arguments):
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_a_kill_in_mid_recovery_leaves_a_prefix_of_the_changelog(tmp_path):
    assert run(KILLED, tmp_path / "rows").returncode == -signal.SIGKILL
    store = RocksStore(tmp_path / "rows")
    partition = store.open(0, CHANGELOG)
    held = partition.held
    assert 0 < held < 119_999
    newest = {b"user-%d" % (n % 90_000): n for n in range(held + 1)}
    assert {key: int(row.split(b" ")[0]) for key, row in partition.rows.items()} == newest
    store.close()


NO_ROOM = """
import resource, sys, os
from pathlib import Path
from test_stores import CHANGELOG, Record
from worker.stream.stores import StoreError
from worker.stream.stores.rocks import RocksStore
partition = RocksStore(Path(sys.argv[1])).open(0, CHANGELOG)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
row = os.urandom(1000)
try:
    for first in range(0, 1_000_000, 1000):
        partition.committed({b"user-%d" % n: row for n in range(first, first + 1000)}, first)
except StoreError as error:
    print(error)
    os._exit(0)
"""


def test_a_full_disk_is_an_error_that_says_so(tmp_path):
    done = run(NO_ROOM, tmp_path / "rows")
    assert done.returncode == 0, done.stderr
    assert "Look whether its disk is full" in done.stdout


def test_a_damaged_file_is_an_error_and_no_missing_row(disk, make_store, tmp_path):
    filled(disk, 50_000)
    disk.close()
    file = max((tmp_path / "rows").glob("*.sst"), key=lambda path: path.stat().st_size)
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2)
        damaged.write(b"\xff" * 20_000)
    rows = make_store("rocksdb").open(0, CHANGELOG).rows
    with pytest.raises(StoreError, match="delete the directory"):
        dict(rows.items())
    with pytest.raises(StoreError, match="delete the directory"):
        [rows[b"user-%d" % n] for n in range(50_000)]


class Damaged(dict):
    def get(self, key, default=None):
        if key == NOTEBOOK:
            raise StoreError("store failed")
        return super().get(key, default)


def test_damage_is_not_taken_for_a_bad_record():
    partition = Partition(toy.LAYOUT, toy.Toy(), Damaged())
    partition.feed("left", [toy.Record(0, 0, b"anna", b'{"at": 1, "timers": [[1, "chain", 0]]}')])
    partition.feed("control", [toy.Record(0, 0, None, b'{"at": 9, "kind": "tick"}')])
    with pytest.raises(StoreError):
        list(iter(partition.advance, None))


def test_rows_on_disk_are_refused_in_plain_mode():
    with pytest.raises(worker_settings.SettingsError, match=r"store = 'rocksdb': allowed in mode plain is memory"):
        worker_settings.load(mode="plain", store="rocksdb")
