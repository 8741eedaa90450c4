from hypothesis import given, settings
from hypothesis import strategies as st

from worker.recall import intake
from worker.recall.bodies import Cancel, Order
from worker.recall.days import DAY_MS, Days
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.profile import PastOrder, Profile
from worker.recall.risk import labels
from worker.recall.risk.features import NAMES
from worker.recall.risk.scorer import Predictions
from worker.recall.tiers import Tier
from worker.stream.processor import NEVER

DAYS = Days("Europe/Berlin")
T = 20_000  # 2024-10-04; the clocks go back on the 27th
H = 30


def row(*times, cancelled=()):
    orders = [PastOrder(b"%06d" % i, at, 100, i in cancelled) for i, at in enumerate(times)]
    profile = Profile(key=b"u", due=NEVER, silence_due=NEVER, other_due=NEVER)
    profile.account.latest_orders = orders
    return profile


def test_label_looks_from_after_the_start_to_the_end_of_the_horizon():
    start, end = DAYS.start(T), DAYS.start(T + H)
    for at, y in ((start, 1), (start + 1, 0), (end, 0), (end + 1, 1), (start - 1, 1)):
        assert labels.no_order(row(at), T, H, DAYS) == y, at
    assert labels.no_order(row(), T, H, DAYS) == 1


def test_cancelled_order_is_no_order():
    start = DAYS.start(T)
    assert labels.no_order(row(start + 1, cancelled={0}), T, H, DAYS) == 1
    assert labels.no_order(row(start + 1, start + 2, cancelled={0}), T, H, DAYS) == 0


def test_label_is_due_a_lateness_after_the_horizon():
    assert labels.due(T, H, DAYS) == DAYS.start(T + H) + DAY_MS
    assert labels.label_day(T, H, DAYS) == T + H + 1


def test_a_day_of_25_hours_makes_the_label_due_on_itself():
    long_day = DAYS.of(1_729_987_200_000)  # 2024-10-27
    assert DAYS.start(long_day + 1) - DAYS.start(long_day) == 25 * DAY_MS // 24
    assert labels.label_day(long_day - H, H, DAYS) == long_day


def test_ids_tell_users_days_and_shops_apart():
    ids = {labels.example_id(salt, key, t) for salt in ("a", "b") for key in (b"u", b"v") for t in (T, T + 7)}
    assert len(ids) == 8
    assert {len(name) for name in ids} == {32}


millionths = st.integers(0, 1_000_000).map(lambda n: round(n / 1_000_000, 6))
days = st.integers(0, 30_000)
sightings = st.builds(
    labels.Sighting,
    tier=st.sampled_from(list(map(int, Tier))),
    holdout=st.booleans(),
    rhythms=st.builds(Rhythms, *[st.builds(History, days, days, days)] * 2),
    lead_days=st.none() | days,
    features=st.lists(st.integers(-32_767, 32_767), min_size=len(NAMES), max_size=len(NAMES)),
    forecasts=st.dictionaries(
        st.integers(1, 365),
        st.builds(
            labels.Forecast,
            st.integers(1, 2**32 - 1),
            st.builds(Predictions, millionths, st.none() | millionths, st.none() | millionths, millionths, millionths),
        ),
        max_size=3,
    ),
)


@given(sightings)
def test_what_was_packed_comes_back_exactly(sighting):
    packed = labels.pack(sighting)
    assert labels.unpack(packed) == sighting
    assert len(packed) == 34 + 2 * len(NAMES) + 26 * len(sighting.forecasts)


def test_what_another_schema_packed_is_not_read():
    packed = labels.pack(
        labels.Sighting(1, False, Rhythms(History(0, 0, 1), History(0, 0, 1)), None, [500] * len(NAMES), {})
    )
    assert labels.unpack(packed[:-2]) is None
    assert labels.unpack(b"\x00" + packed[1:]) is None
    assert labels.unpack(packed + b"\x00") is None


def test_a_lateness_of_none_makes_the_label_due_at_the_end_of_the_horizon():
    assert labels.due(T, H, DAYS, lateness_ms=0) == DAYS.start(T + H)
    assert labels.label_day(T, H, DAYS, lateness_ms=0) == T + H


# -- who orders more than is kept --------------------------------------------------------------------------------------


@given(
    # By day, how many orders come in; some at the midnight that begins it, some are cancelled at once.
    st.lists(st.tuples(st.integers(0, 45), st.booleans(), st.booleans()), min_size=4, max_size=40),
    st.data(),
)
@settings(max_examples=60)
def test_label_is_right_however_many_orders_came_since(life, data):
    customer = Profile(key=b"u", due=NEVER, silence_due=NEVER, other_due=NEVER)
    standing = []
    for day, (times, at_midnight, cancelled) in enumerate(life):
        begin = DAYS.start(T + day)
        for n in range(times):
            at = begin + (n if at_midnight else 1 + n)
            order_id = f"{day}-{n}"
            intake.order(customer, Order(order_id, order_id, 100, (), None, 0), at, at, DAYS)
            if cancelled:
                intake.cancel(customer, Cancel(f"c{order_id}", order_id), DAYS)
            else:
                standing.append(at)
    t = data.draw(st.integers(0, len(life) - 2))
    horizon = data.draw(st.integers(1, len(life) - 1 - t))
    start, end = DAYS.start(T + t), DAYS.start(T + t + horizon)
    assert labels.no_order(customer, T + t, horizon, DAYS) == int(not any(start < at <= end for at in standing))


def test_days_of_displaced_orders_are_known_for_more_than_a_year_and_take_fifty_bytes():
    customer = Profile(key=b"u", due=NEVER, silence_due=NEVER, other_due=NEVER)
    for n in range(600):
        at = DAYS.start(T + n) + 1000
        intake.order(customer, Order(f"o{n}", f"o{n}", 100, (), None, 0), at, at, DAYS)
    account = customer.account
    known = [day for day in range(T - 10, T + 700) if account.has_displaced(day, day + 1)]
    assert known == list(range(T + 600 - 32 - 400, T + 600 - 32))
    assert len(account.displaced) == 50
