import datetime as dt
from collections import Counter, defaultdict

import msgspec
import orjson
import pytest
from pydantic import TypeAdapter

from schemas.events import CartEvent, ClickstreamEvent, OrderEvent
from schemas.profiles import ProfileRecord
from worker.simulate import TYPES, START, Oddities, kind_of, life_of, simulate
from worker.sources import history

SEED, USERS, DAYS = 7, 400, 120
START_MS = int(dt.datetime.combine(START, dt.time(), dt.UTC).timestamp() * 1000)
DAY_MS = 86_400_000


class Call(msgspec.Struct):
    """What the tests look at."""

    type: str
    messageId: str  # noqa: N815
    timestamp: dt.datetime
    userId: str | None = None  # noqa: N815
    event: str | None = None
    properties: dict[str, object] | None = None


def call(record):
    try:
        return msgspec.json.decode(record.value, type=Call)
    except msgspec.DecodeError:
        return None


@pytest.fixture(scope="module")
def shop():
    oddities = Oddities()
    records = list(simulate(users=USERS, days=DAYS, seed=SEED, oddities=oddities))
    return [(record, call(record)) for record in records], oddities


def by_day(shop, user_ids, wanted):
    """Count the wanted calls of users by (user, day)."""
    counts = Counter()
    for record, call in shop[0]:
        if call and call.type == "track" and call.userId in user_ids and wanted(call):
            counts[call.userId, (record.recorded_at - START_MS) // DAY_MS] += 1
    return counts


def of_kind(kind):
    return {user: life_of(user, seed=SEED, days=DAYS) for user in everyone() if kind_of(user, SEED) == kind}


def everyone():
    return [f"user-{number}" for number in range(1, USERS + 1)]


def rate(counts, lives, first, last):
    """Return the mean by user and day over the days from `first` to before `last` of the user's turn."""
    lives = {
        user: life for user, life in lives.items() if life.turn + first >= life.joined and life.turn + last <= DAYS
    }
    assert len(lives) >= 10
    return sum(counts[user, life.turn + day] for user, life in lives.items() for day in range(first, last)) / (
        len(lives) * (last - first)
    )


def is_new_arrival(call):
    properties = call.properties or {}
    return properties.get("new_arrival") is True or properties.get("list_id") == "new-arrivals"


def test_the_same_seed_gives_the_same_bytes():
    first, again = (list(simulate(users=50, days=15, seed=3)) for _ in range(2))
    assert first == again
    assert first != list(simulate(users=50, days=15, seed=4))


def test_records_come_in_the_order_of_time(shop):
    times = [record.recorded_at for record, _ in shop[0]]
    assert times == sorted(times)
    assert START_MS <= times[0] <= times[-1] < START_MS + DAYS * DAY_MS


def test_every_record_is_accounted_for(shop):
    found, seen = Oddities(), set()
    for record, call in shop[0]:
        found.records += 1
        if call is None:
            found.malformed += 1
        elif call.messageId in seen:
            found.duplicates += 1
        elif record.topic == "profiles":
            found.profiles += 1
        elif call.userId is None:
            found.anonymous += 1
        elif call.type == "page":
            found.pages += 1
        elif call.event == "Banner Hovered":
            found.unknown += 1
        else:
            found.events += 1
            lateness = record.recorded_at - round(call.timestamp.timestamp() * 1000)
            assert 0 <= lateness <= DAY_MS / 2
            found.late += lateness > 0
        if call is not None:
            seen.add(call.messageId)
    assert found == shop[1]
    assert all(
        getattr(found, name) > 0 for name in ("late", "duplicates", "anonymous", "pages", "unknown", "malformed")
    )


def test_events_keep_the_contracts(shop):
    adapters = {
        "clickstream": TypeAdapter(ClickstreamEvent),
        "cart": TypeAdapter(CartEvent),
        "orders": TypeAdapter(OrderEvent),
        "profiles": TypeAdapter(ProfileRecord),
    }
    for record, call in shop[0][:10_000]:
        if call and call.userId and call.type != "page" and call.event != "Banner Hovered":
            adapters[record.topic].validate_python(orjson.loads(record.value))
            assert record.key.decode() == call.userId


def test_a_user_begins_with_a_profile(shop):
    first = {}
    for record, call in shop[0]:
        if call and call.userId:
            first.setdefault(call.userId, (record.topic, orjson.loads(record.value)))
    assert set(first) == set(everyone())
    assert {topic for topic, _ in first.values()} == {"profiles"}
    consent = Counter(
        channel
        for _, profile in first.values()
        for channel, purposes in profile["consent"].items()
        if purposes["marketing"]
    )
    for channel, share in {"email": 0.85, "push": 0.6, "sms": 0.3}.items():
        assert consent[channel] / USERS == pytest.approx(share, abs=0.08)


def test_the_active_make_some_sixteen_events_a_week(shop):
    loyal = of_kind("loyal")
    weeks = sum(DAYS - life.joined for life in loyal.values()) / 7
    assert sum(by_day(shop, loyal, lambda _: True).values()) / weeks == pytest.approx(16, abs=2)


def test_the_fading_give_the_signals_before_their_orders_stop(shop):
    fading = of_kind("fading")
    sign_ins = by_day(shop, fading, lambda call: call.event == "Signed In")
    assert rate(sign_ins, fading, -14, 0) > 0.75
    assert rate(sign_ins, fading, 14, 28) == pytest.approx(1 / 7, abs=0.04)
    added = by_day(shop, fading, lambda call: call.event == "Product Added")
    assert rate(added, fading, 0, 28) / rate(added, fading, -21, 0) == pytest.approx(0.3, abs=0.1)
    arrivals = by_day(shop, fading, is_new_arrival)
    assert rate(arrivals, fading, -14, 0) > 0.1
    assert rate(arrivals, fading, 0, 28) == 0
    orders = by_day(shop, fading, lambda call: call.event == "Order Completed")
    assert rate(orders, fading, 0, 28) > 0
    assert rate(orders, fading, 28, 40) == 0


def test_the_gone_fall_silent_at_once(shop):
    gone = of_kind("gone at once")
    visits = by_day(shop, gone, lambda call: call.event != "Order Refunded")
    assert rate(visits, gone, -14, 0) > 1.5
    assert not [user for user, day in visits if day >= gone[user].turn]


def test_the_returning_come_back_after_months():
    days, user_days = 300, defaultdict(list)
    for record in simulate(users=60, days=days, seed=SEED):
        if record.topic == "clickstream" and b'"Signed In"' in record.value:
            user_days[record.key.decode()].append((record.recorded_at - START_MS) // DAY_MS)
    returning = [life_of(user, seed=SEED, days=days) for user in user_days if kind_of(user, SEED) == "returning"]
    back = 0
    for user, seen in user_days.items():
        life = life_of(user, seed=SEED, days=days)
        if life.kind == "returning" and life.back < days - 14:
            assert life.back - life.turn >= 60
            assert not [day for day in seen if life.turn <= day < life.back]
            assert min(seen) < life.turn
            assert max(seen) >= life.back
            back += 1
    assert back >= 3, returning


def test_bargain_hunters_come_for_the_sales(shop):
    orders = by_day(shop, of_kind("bargain hunter"), lambda call: call.event == "Order Completed")
    in_sale = sum(count for (_, day), count in orders.items() if day % 28 < 4)
    assert in_sale / orders.total() > 0.6


def test_kinds_have_their_shares():
    kinds = Counter(kind_of(f"user-{number}", 1) for number in range(1, 2001))
    assert set(kinds) == set(TYPES)
    assert kinds["loyal"] / 2000 == pytest.approx(0.35, abs=0.04)


def test_a_history_holds_the_shop(tmp_path):
    records = list(simulate(users=60, days=10, seed=5))
    for name in ("shop.jsonl", "shop.parquet"):
        assert history.write(tmp_path / name, records) == len(records)
        assert [record for chunk in history.read([tmp_path / name]) for record in chunk] == records


@pytest.mark.parametrize(("users", "days"), [(0, 1), (1, 0)])
def test_a_shop_has_users_and_days(users, days):
    with pytest.raises(ValueError, match=f"users is {users} and days is {days}"):
        list(simulate(users=users, days=days, seed=1))
