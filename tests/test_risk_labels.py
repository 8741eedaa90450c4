from hypothesis import given
from hypothesis import strategies as st

from worker.recall.days import DAY_MS, Days
from worker.recall.profile import PastOrder, Profile
from worker.recall.risk import labels
from worker.recall.risk.features import NAMES
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


@given(st.lists(st.integers(-32_767, 32_767), min_size=len(NAMES), max_size=len(NAMES)))
def test_packed_features_come_back_exactly(features):
    packed = labels.pack(features)
    assert labels.unpack(packed) == features
    assert len(packed) == 4 + 2 * len(NAMES)


def test_what_another_schema_packed_is_not_read():
    packed = labels.pack([500] * len(NAMES))
    assert labels.unpack(packed[:-2]) is None
    assert labels.unpack(b"\x00" + packed[1:]) is None
