import gzip
import tempfile
from pathlib import Path

import duckdb
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.sources import history
from worker.sources.history import HistoryRecord

LINE = '{"topic":"orders","key":"u1","recorded_at":"2011-01-01T10:00:00Z","value":{"a": 1}}'
AT = 1_293_876_000_000

text = st.text(st.characters(exclude_categories=["Cs"]))
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
records = st.builds(
    HistoryRecord,
    topic=st.sampled_from(history.TOPICS),
    key=text.map(str.encode),
    recorded_at=st.integers(0, 4_102_444_800_000),
    value=json.map(orjson.dumps) | st.dictionaries(text, json, max_size=3).map(orjson.dumps) | text.map(str.encode),
)


def everything(*paths):
    return [record for chunk in history.read(paths) for record in chunk]


def lines(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


@settings(max_examples=30, deadline=None)
@given(st.lists(records, max_size=5), st.sampled_from([".parquet", ".jsonl", ".ndjson.gz"]))
def test_what_is_written_is_read(written, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"history{suffix}")
        assert history.write(path, written) == len(written)
        read = everything(path)
        assert sum(history.topics([path]).values()) == len(written)
    assert [record[:3] for record in read] == [record[:3] for record in written]
    if suffix == ".parquet":
        assert read == written
    else:
        assert [meaning(record.value) for record in read] == [meaning(record.value) for record in written]


def meaning(value):
    """JSON objects may be written anew (1e5 as 100000.0); all else keeps its bytes."""
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return parsed if isinstance(parsed, dict) else value


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_one_topic_is_read_in_the_order_of_the_files(tmp_path, suffix):
    paths = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    topics = ["orders", "cart"] * 10_000
    for start, path in zip((0, 20_000), paths, strict=True):
        history.write(path, (HistoryRecord(t, b"u", AT, b'{"n":%d}' % (start + n)) for n, t in enumerate(topics)))
    values = [r.value for chunk in history.read(paths, "cart") for r in chunk]
    assert values == [b'{"n":%d}' % n for n in range(1, 40_000, 2)]
    assert history.topics(paths) == {"orders": 20_000, "cart": 20_000}


def test_values_arrive_as_compact_json_or_as_they_are(tmp_path):
    raw = LINE.replace('{"a": 1}', r'"{\"a\": caf\u00e9"')
    path = lines(tmp_path / "a.jsonl", LINE, raw, LINE.replace(',"value":{"a": 1}', ""))
    assert [record.value for record in everything(path)] == [b'{"a":1}', '{"a": café'.encode(), b""]


def test_times_with_an_offset_are_brought_to_utc(tmp_path):
    path = lines(tmp_path / "a.jsonl", LINE.replace("10:00:00Z", "12:00:00.25+02:00"))
    assert everything(path) == [HistoryRecord("orders", b"u1", AT + 250, b'{"a":1}')]


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ"])
@pytest.mark.parametrize("value", ["VARCHAR", "JSON"])
def test_parquet_of_other_hands(tmp_path, kind, value):
    path = tmp_path / "a.parquet"
    columns = f"'orders' as topic, 'u1' as key, '2011-01-01 10:00:00'::{kind} as recorded_at, '{{}}'::{value} as value"
    with duckdb.connect() as db:
        db.execute("set timezone = 'UTC'")
        db.execute(f"copy (select 1 as more, {columns}) to '{path}'")
    assert everything(path) == [HistoryRecord("orders", b"u1", AT, b"{}")]


def test_an_empty_history_has_no_records(tmp_path):
    path = tmp_path / "a.jsonl"
    path.touch()
    assert everything(path) == []
    assert history.topics([path]) == {}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"topic":"orders",', "line 3: Input data was truncated"),
        ("[1, 2]", r"line 3: Expected `object`"),
        (LINE.replace("2011-01-01T10:00:00Z", "yesterday"), r"line 3: Invalid RFC3339.*recorded_at"),
        (LINE.replace('"orders"', '"order"'), r"topic 'order' is not one of profiles, orders, "),
        (LINE.replace('"topic":"orders",', ""), r"topic None is not one of"),
        (LINE.replace("recorded_at", "at"), r"1 records of orders have no recorded_at"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_bad_line_is_named(tmp_path, bad, message, suffix):
    path = tmp_path / f"bad.{suffix}"
    content = f"{LINE}\n{LINE}\n{bad}\n{LINE}\n".encode()
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    with pytest.raises(ValueError, match=rf"bad\.{suffix}.*{message}"):
        history.topics([path])


def test_reading_fails_on_a_bad_line(tmp_path):
    path = lines(tmp_path / "bad.jsonl", LINE, '{"topic"')
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2"):
        everything(path)


@pytest.mark.parametrize("column", history.COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    path = lines(tmp_path / "a.jsonl", LINE.replace(column, "other"))
    with pytest.raises(ValueError, match=f"column '{column}' is missing among"):
        history.topics([path])
    with duckdb.connect() as db:
        db.execute(f"copy (from '{path}') to '{tmp_path}/a.parquet'")
    with pytest.raises(ValueError, match=f"column '{column}' is missing among"):
        everything(tmp_path / "a.parquet")


def test_what_cannot_be_a_history_is_refused(tmp_path):
    record = HistoryRecord("orders", b"u", AT, b"\xff")
    with pytest.raises(ValueError, match="holds UTF-8"):
        history.write(tmp_path / "a.jsonl", [record])
    with pytest.raises(ValueError, match="topic 'clicks' is not one of"):
        history.write(tmp_path / "a.parquet", [record._replace(topic="clicks")])
    for action in (lambda path: history.write(path, []), everything):
        with pytest.raises(ValueError, match=r"a history ends in \.parquet or \.jsonl"):
            action(tmp_path / "a.csv")
