"""What calls for a decision: falls and rises, levels of risk, named signals, broken rhythms, the next tier near."""

from itertools import pairwise
from random import Random
from statistics import mean, stdev

import pytest
from customers import Backlog, SmallShop, later, make_shop, ms, playbook, scorer
from hypothesis import given
from hypothesis import strategies as st

from schemas.values import rfc3339
from worker.recall.days import DAY_MS, HOUR_MS
from worker.recall.playbook import load
from worker.recall.policy import openings
from worker.recall.policy.openings import GRADE, by_risk, by_signals, risk_level
from worker.recall.policy.signals import COUNT_MAX, ConditionError, condition, count_of
from worker.recall.profile import Profile
from worker.recall.risk import features
from worker.recall.risk.features import NAMES, SCALE
from worker.recall.shop import InForce
from worker.recall.tiers import Tier
from worker.recall.windows import CHANNELS
from worker.settings import DEFAULT_PLAYBOOK
from worker.stream.processor import NEVER

FIRST = "2025-01-06T10"


def listening(name="test", opening=tuple(GRADE), **sections):
    """Return a playbook with a play for each of these openings: what no play opens on is no opening."""
    plays = [
        {
            "name": trigger.replace("_", "-"),
            "opening": [trigger],
            "kind": "memory",
            "template": "t",
            "rungs": ["in_app"],
        }
        for trigger in opening
    ]
    return playbook(name, plays=plays, **sections)


def by(trigger, shop, user=None):
    """Return the decisions about episodes that were opened so, ends left out: (when it came about, name)."""
    told = [value for value in shop.of("recall-decisions", user) if value["trigger"] == trigger]
    return [(value["opened_at"], value["name"]) for value in told if value["outcome"] not in {"ended", "void"}]


def triggers(shop, user=None):
    """Return what opened something, in order, whatever came of it."""
    told = shop.of("recall-decisions", user)
    return [value["trigger"] for value in told if value["outcome"] not in {"ended", "void"}]


# -- moves -------------------------------------------------------------------------------------------------------------


def test_the_grades_from_mild_to_grave():
    assert sorted(GRADE, key=GRADE.__getitem__) == [
        "near_tier",
        "tier_reached",
        "rhythm",
        "signal",
        "risk",
        "tier_drop",
        "silence",
    ]


def test_a_tier_is_reached_by_an_order_and_told_with_its_scores():
    shop = SmallShop(listening(opening=("tier_drop", "silence", "tier_reached")))
    shop.buys_weekly("ann", FIRST, times=2)
    shop.tick(later(FIRST, days=8))
    assert by("tier_reached", shop) == [(rfc3339(later(FIRST, days=7)), "potential")]
    assert shop.row("ann").episode.text == "rose from new to potential by order"
    shop.buys_weekly("ann", later(FIRST, days=14), times=3)
    shop.tick(later(FIRST, days=29))
    assert by("tier_reached", shop) == [
        (rfc3339(later(FIRST, days=7)), "potential"),
        (rfc3339(later(FIRST, days=28)), "high"),
    ]


def test_the_first_order_reaches_no_tier():
    shop = SmallShop()
    shop.orders("ann", FIRST, "o1")
    shop.tick("2025-01-20")
    assert not triggers(shop)


def test_a_silence_is_told_as_such_and_a_return_from_it_reaches_no_tier():
    shop = SmallShop(listening(opening=("tier_drop", "silence", "tier_reached")))
    shop.buys_weekly("bob", FIRST, times=2)
    shop.tick("2025-03-14T12")
    assert triggers(shop) == ["tier_reached", "silence"]
    assert shop.row("bob").episode.text == "silent: no activity for 60 days, potential before"
    shop.tick("2025-06-01")
    shop.views("bob", "2025-06-01")
    assert shop.moves("bob")[-1] == ("silent", "marginal", "activity")
    assert triggers(shop) == ["tier_reached", "silence"]


def test_a_refund_that_lowers_the_tier_opens_and_says_which_score_fell():
    shop = SmallShop(listening(opening=("tier_drop", "silence", "tier_reached")))
    shop.buys_weekly("ann", FIRST)
    shop.refunds("ann", "2025-02-04", f"ann {FIRST} 0", 300)
    shop.tick("2025-02-05")
    episode = shop.row("ann").episode
    assert (episode.trigger, Tier(episode.origin).label, Tier(episode.target).label) == (
        "tier_drop",
        "high",
        "potential",
    )
    assert episode.text == "fell from high to potential by refund (M 4 to 3)"


def test_new_cut_points_open_nothing():
    dear = listening("dear", rfm={"m": ["500", "5000", "50000", "500000"]})
    shop = SmallShop(listening(opening=("tier_drop", "silence", "tier_reached")), dear)
    shop.buys_weekly("ann", FIRST)
    shop.steers("adopt_playbook", effective_at="2025-02-04", version=dear.version)
    shop.lives_on("ann", "2025-02-04", "2025-02-20")
    assert ("high", "potential", "recut") in shop.moves("ann")
    assert "tier_drop" not in triggers(shop)


# -- levels of risk ----------------------------------------------------------------------------------------------------

LEVELS = {"raised": 0.6, "high": 0.8, "margin": 0.1, "cool_down_days": 30}


def in_force(**sections):
    return InForce.of(listening(**sections), make_shop())


def ann(**account):
    """Return the profile of a marginal user."""
    profile = Profile(key=b"ann", due=NEVER, silence_due=NEVER, other_due=NEVER)
    profile.standing.tier = Tier.MARGINAL
    for name, value in account.items():
        setattr(profile.account, name, value)
    return profile


def weekly(profile, book, *scores):
    """Return what a score a week opens: the level, or None."""
    found = [by_risk(profile, score, book, (n + 1) * 7 * DAY_MS) for n, score in enumerate(scores)]
    return [None if opening is None else opening.name for opening in found]


def test_the_first_score_sets_the_level_and_opens_nothing():
    profile = ann()
    assert weekly(profile, in_force(risk=LEVELS), 0.9) == [None]
    assert profile.account.risk_level == "high"


def test_a_level_is_reached_from_its_bound_on_and_left_a_margin_below_it():
    profile, levels = ann(), []
    for score in (0.3, 0.6, 0.5, 0.499999, 0.599999, 0.8, 0.7, 0.699999, 0.3):
        by_risk(profile, score, in_force(risk=LEVELS), DAY_MS)
        levels.append(profile.account.risk_level)
    assert levels == ["low", "raised", "raised", "low", "low", "high", "high", "raised", "low"]


def test_a_higher_level_opens_and_says_the_figures():
    profile, book = ann(risk_level="low"), in_force(risk=LEVELS)
    opening = by_risk(profile, 0.61, book, 5 * DAY_MS)
    assert (opening.trigger, opening.name, opening.at) == ("risk", "raised", 5 * DAY_MS)
    assert (opening.origin, opening.target) == (Tier.MARGINAL, Tier.MARGINAL)
    assert opening.text == "risk of no order 0.61: raised (from 0.6 on), low before"


def test_within_the_cool_down_the_level_moves_and_opens_nothing():
    profile, book = ann(), in_force(risk=LEVELS)
    assert weekly(profile, book, 0.1, 0.7, 0.1, 0.7, 0.9) == [None, "raised", None, None, None]
    assert profile.account.risk_level == "high"
    assert weekly(ann(), book, 0.1, 0.7, 0.1, 0.1, 0.1, 0.1, 0.7) == [None, "raised", None, None, None, None, "raised"]


def test_of_a_silent_user_a_higher_risk_opens_nothing():
    profile = ann(risk_level="low")
    profile.standing.tier = Tier.SILENT
    assert by_risk(profile, 0.99, in_force(risk=LEVELS), DAY_MS) is None
    assert profile.account.risk_level == "high"


@given(
    base=st.integers(0, 900_000),
    steps=st.lists(st.integers(0, 100_000), min_size=2, max_size=30),
)
def test_within_a_margin_the_level_never_flaps(base, steps):
    """Scores that differ by less than the margin change a level once at most, upwards, and open once at most."""
    profile, book = ann(), in_force(risk=LEVELS | {"cool_down_days": 0})
    levels, opened = [], 0
    for n, step in enumerate(steps):
        opened += by_risk(profile, (base + step) / 1_000_000, book, n * 7 * DAY_MS + 1) is not None
        levels.append(openings.RISK_LEVELS.index(profile.account.risk_level))
    changes = [after - before for before, after in pairwise(levels) if after != before]
    assert changes in ([], [1])
    assert opened == len(changes)


@given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=60))
def test_openings_by_risk_keep_the_cool_down_and_every_level_is_that_of_its_score(millionths):
    profile, book = ann(), in_force(risk=LEVELS)
    opened, before = [], ""
    for n, score in enumerate(millionths):
        at = (n + 1) * 3 * DAY_MS
        opening = by_risk(profile, score / 1_000_000, book, at)
        level = profile.account.risk_level
        assert level == risk_level(before, score / 1_000_000, book.playbook.risk)
        for name, bound in (("high", 800_000), ("raised", 600_000)):
            if score >= bound:
                assert openings.RISK_LEVELS.index(level) >= openings.RISK_LEVELS.index(name)
            if score < bound - 100_000:
                assert openings.RISK_LEVELS.index(level) < openings.RISK_LEVELS.index(name)
        if opening is not None:
            assert before
            opened.append(at)
        before = level
    assert all(after - first >= 30 * DAY_MS for first, after in pairwise(opened))


def with_model(*playbooks, **settings):
    """Return a shop with a model in force from the year's first day on."""
    shop = SmallShop(*playbooks, models={(30, 7): scorer()}, **settings)
    shop.steers("adopt_snapshot", effective_at="2025-01-01", horizon_days=30, version=7)
    return shop


def test_risk_is_judged_at_the_weekly_visit_and_opens_when_its_level_rises():
    levels = {"raised": 0.55, "high": 0.65, "margin": 0.02, "cool_down_days": 0}
    book = listening(opening=("risk",), risk=levels)
    shop = with_model(book)
    shop.buys_weekly("bob", FIRST, times=4)
    rises = []
    before = shop.row("bob").account.risk_level
    for day in range(58):
        shop.tick(later("2025-01-28", days=day))
        account = shop.row("bob").account
        if account.risk_level != before:
            assert account.risk_level == risk_level(before, account.risk, book.risk)
            if openings.RISK_LEVELS.index(account.risk_level) > openings.RISK_LEVELS.index(before):
                rises.append((rfc3339(account.risk_at), account.risk_level))
            before = account.risk_level
    assert rises
    assert by("risk", shop) == rises


def test_who_opts_out_of_profiling_has_no_level_any_more():
    shop = with_model()
    shop.buys_weekly("bob", FIRST, times=4)
    assert shop.row("bob").account.risk_level
    shop.says("bob", "2025-02-01", opt_out_profiling=True)
    assert not shop.row("bob").account.risk_level
    shop.tick("2025-02-20")
    assert not shop.row("bob").account.risk_level


# -- named signals -----------------------------------------------------------------------------------------------------


def seen_of(**counts):
    """Return features of which only some counts are known, the rest zero."""
    values = [0] * len(NAMES)
    for name, count in counts.items():
        values[NAMES.index(name)] = features.log_count(count)
    return values


@given(
    st.integers(0, COUNT_MAX), st.integers(0, COUNT_MAX), st.sampled_from(["view_30d", "sign_in_recency", "orders_52w"])
)
def test_a_bound_on_a_count_holds_just_where_it_does_of_the_plain_number(count, bound, name):
    seen = seen_of(**{name: count})
    assert condition(name, at_least=bound).holds(seen) == (count >= bound)
    assert condition(name, at_most=bound).holds(seen) == (count <= bound)


@given(
    month=st.integers(0, 500),
    before=st.integers(0, 500),
    percent=st.integers(1, 100),
    bound=st.integers(0, 500),
    channel=st.sampled_from(CHANNELS),
)
def test_a_fall_and_the_time_before_hold_just_where_they_do_of_the_plain_numbers(
    month, before, percent, bound, channel
):
    seen = seen_of(**{f"{channel}_30d": month, f"{channel}_60d": month + before})
    fell = condition(f"{channel}_trend", fell_by=percent / 100)
    assert fell.holds(seen) == (before > 0 and 100 * month <= (100 - percent) * before)
    assert condition(f"{channel}_before", at_least=bound).holds(seen) == (before >= bound)
    assert condition(f"{channel}_before", at_most=bound).holds(seen) == (before <= bound)


def test_every_count_has_thousandths_of_its_own():
    assert [count_of(features.log_count(count)) for count in range(COUNT_MAX + 1)] == list(range(COUNT_MAX + 1))
    assert count_of(features.log_count(5000)) == COUNT_MAX + 1


def test_shares_flags_and_gaps_have_plain_units_too():
    seen = [0] * len(NAMES)
    seen[NAMES.index("discount_share")] = 250
    seen[NAMES.index("order_overdue")] = SCALE
    seen[NAMES.index("order_gaps_since")] = features.log(2.5)
    assert condition("discount_share", at_least=0.25, at_most=0.25).holds(seen)
    assert not condition("discount_share", at_least=0.26).holds(seen)
    assert condition("order_overdue", at_least=1).holds(seen)
    assert condition("order_gaps_since", at_least=2.5).holds(seen)
    assert not condition("order_gaps_since", at_least=2.6).holds(seen)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"feature": "sign_in_15d", "at_most": 1}, "sign_in_15d"),
        ({"feature": "net_revenue_52w", "at_most": 1}, "net_revenue_52w"),
        ({"feature": "discounted_session_trend", "fell_by": 0.5}, "discounted_session_trend"),
        ({"feature": "sign_in_trend", "at_most": 1}, "'sign_in_trend': is a trend, of which fell_by alone is allowed"),
        ({"feature": "sign_in_30d", "fell_by": 0.5}, "'sign_in_30d': is no trend; allowed is at_least, at_most"),
        ({"feature": "sign_in_30d"}, "'sign_in_30d': is no trend; allowed is at_least, at_most"),
        ({"feature": "sign_in_trend", "fell_by": 1.5}, "fell_by = 1.5: allowed is a share above 0, up to 1"),
        ({"feature": "sign_in_30d", "at_most": 2.5}, "at_most = 2.5: allowed is a whole number from 0 to 1000"),
        ({"feature": "sign_in_before", "at_least": -1}, "at_least = -1: allowed is a whole number from 0 to 1000"),
        ({"feature": "order_overdue", "at_least": 2}, "at_least = 2: allowed is 0 or 1"),
        ({"feature": "discount_share", "at_least": 2}, "at_least = 2: allowed is a share from 0 to 1"),
        ({"feature": "order_gap_mean", "at_least": -2}, "at_least = -2: allowed is a number from 0 on"),
    ],
)
def test_what_a_condition_cannot_be_is_refused_with_field_and_value(given, message):
    with pytest.raises(ConditionError, match="(?s).*" + message.replace("(", r"\(")):
        condition(**given)


QUIET = {"name": "quiet", "when": [{"feature": "session_30d", "at_most": 2}], "cool_down_days": 28}
LOST = {"name": "lost", "when": [{"feature": "session_30d", "at_most": 0}], "cool_down_days": 28}


def held_weekly(book, *sessions):
    """Return by week what the counts of sessions in 30 days open: the signal's name, or None."""
    profile = ann()
    found = [
        by_signals(seen_of(session_30d=count), profile, book, (week + 1) * 7 * DAY_MS)
        for week, count in enumerate(sessions)
    ]
    return [None if opening is None else opening.name for opening in found]


def test_a_signal_opens_once_while_it_holds():
    assert held_weekly(in_force(signals=[QUIET]), 9, 2, 1, 0, 0, 0, 0) == [None, "quiet", *[None] * 5]


def test_it_opens_again_after_it_had_ceased_and_its_cool_down_is_over():
    book = in_force(signals=[QUIET])
    assert held_weekly(book, 2, 9, 2, 2, 2, 2) == ["quiet", None, None, None, "quiet", None]
    assert held_weekly(book, 2, 2, 2, 2, 9, 2) == ["quiet", None, None, None, None, "quiet"]


def test_of_several_the_first_opens_and_tells_of_the_others():
    book, profile = in_force(signals=[LOST, QUIET]), ann()
    opening = by_signals(seen_of(), profile, book, DAY_MS)
    assert (opening.trigger, opening.name) == ("signal", "lost")
    assert opening.text == "signal lost: no sessions in 30 days; also quiet"
    assert by_signals(seen_of(), profile, book, 8 * DAY_MS) is None


def test_of_a_silent_user_a_signal_opens_nothing():
    profile = ann()
    profile.standing.tier = Tier.SILENT
    assert by_signals(seen_of(), profile, in_force(signals=[LOST]), DAY_MS) is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_a_signal_never_opens_within_its_cool_down_nor_while_it_goes_on(sessions):
    found = held_weekly(in_force(signals=[QUIET]), *sessions)
    opened = [week for week, name in enumerate(found) if name]
    assert all(after - first >= 4 for first, after in pairwise(opened))
    for first, after in pairwise(opened):
        assert any(count > 2 for count in sessions[first:after])
    assert bool(opened) == any(count <= 2 for count in sessions)


ARTICLE = "drifting-away"
"""The founding article's signal in the default playbook: all three of its signs together."""
SIGNALS = [signal.model_dump(exclude_none=True) for signal in load(DEFAULT_PLAYBOOK).signals]
BREAKS = "2025-04-01"


class Life:
    """What a user does, day by day, noted as plain counts too."""

    def __init__(self, shop, user, seed):
        self.shop, self.user, self.draw = shop, user, Random(seed)
        self.days = {name: [] for name in ("Signed In", "Product Added", "Product List Viewed")}

    def does(self, event, at, **properties):
        self.days[event].append(ms(at) // DAY_MS)
        self.shop.does(self.user, at, event, **properties)

    def day(self, day, *, loyal):
        """Live a day, as a loyal user or as one who fades."""
        morning = day * DAY_MS + 8 * HOUR_MS
        if loyal or day % 7 == 3:
            self.does("Signed In", morning)
        if self.draw.random() < (0.9 if loyal else 0.15):
            self.does("Product Added", morning + HOUR_MS, product_id="p1")
        if loyal and self.draw.random() < 0.4:
            self.does("Product List Viewed", morning + 2 * HOUR_MS, list_id="new-arrivals")

    def count(self, event, today, first, last):
        """Count what was done from `first` to `last` days before a day."""
        return sum(first <= today - day <= last for day in self.days[event])

    def fades(self, today):
        """Tell in plain numbers whether the article's three hold on a day."""
        sign_ins, carts = (self.count(event, today, 31, 60) for event in ("Signed In", "Product Added"))
        return (
            sign_ins >= 20
            and self.count("Signed In", today, 1, 30) <= 0.3 * sign_ins
            and carts > 0
            and self.count("Product Added", today, 1, 30) <= 0.3 * carts
            and self.count("Product List Viewed", today, 1, 30) == 0
            and self.count("Product List Viewed", today, 31, 60) >= 1
        )


@pytest.mark.parametrize("seed", range(6))
def test_who_fades_as_in_the_article_is_noticed_at_the_first_visit_at_which_all_three_hold(seed):
    """In rule mode, without any model; and the loyal user beside him is never taken for one who fades."""
    shop = SmallShop(listening(opening=("signal",), signals=SIGNALS))
    fay, lea = Life(shop, f"fay{seed}", seed), Life(shop, f"lea{seed}", seed + 100)
    for user in (fay, lea):
        shop.buys_weekly(user.user, "2025-01-01T20", times=3)
    visits = []
    for day in range(ms("2025-01-20") // DAY_MS, ms("2025-06-01") // DAY_MS):
        due = shop.row(fay.user).visit_due
        if due <= day * DAY_MS:
            visits.append(due // DAY_MS)
        fay.day(day, loyal=day * DAY_MS < ms(BREAKS))
        lea.day(day, loyal=True)
    holding = [day for day in visits if fay.fades(day)]
    assert by("signal", shop, fay.user) == [(rfc3339(holding[0] * DAY_MS), ARTICLE)]
    assert 4 <= (holding[0] - ms(BREAKS) // DAY_MS) / 7 <= 6, "within the weeks after the break"
    assert not by("signal", shop, lea.user)


def test_a_signal_says_what_was_seen_in_figures():
    seen = seen_of(
        sign_in_30d=5, sign_in_60d=34, cart_add_30d=3, cart_add_60d=28, new_arrival_view_30d=0, new_arrival_view_60d=12
    )
    opening = by_signals(seen, ann(), in_force(signals=SIGNALS), DAY_MS)
    assert opening.name == ARTICLE
    assert opening.text == (
        "signal drifting-away: 5 sign-ins in 30 days, down 83% from 29 in the 30 days before; "
        "29 sign-ins in the 30 days before the last 30; "
        "3 cart additions in 30 days, down 88% from 25 in the 30 days before; no views of new arrivals in 30 days; "
        "12 views of new arrivals in the 30 days before the last 30"
    )


# -- rhythm ------------------------------------------------------------------------------------------------------------

RHYTHM = {"min_orders": 4, "factor": 1.5, "deviations": 2.0}


def steady(**sections):
    """Return a playbook under which little else than a broken rhythm opens anything."""
    return listening(opening=("rhythm", "silence"), rhythm=RHYTHM, **sections)


def allowed_ms(days_between):
    return round((1.5 * mean(days_between) + 2 * stdev(days_between)) * DAY_MS)


def test_a_rhythm_is_broken_just_when_the_users_own_gaps_say_so():
    shop, days = SmallShop(steady()), [0, 10, 24, 34, 44]
    for n, day in enumerate(days):
        shop.orders("bob", later(FIRST, days=day), f"o{n}")
    broken = later(FIRST, days=44) + allowed_ms([10, 14, 10, 10])
    assert shop.row("bob").rhythm_due == broken + HOUR_MS
    shop.tick(broken + HOUR_MS - 1)
    assert not by("rhythm", shop)
    shop.tick(broken + HOUR_MS + 1)
    assert by("rhythm", shop) == [(rfc3339(broken), None)]
    assert shop.row("bob").episode.text == (
        "no order for 20 days, where one came every 11.0 days (deviation 2.0, 5 orders)"
    )


def test_before_so_many_orders_there_is_no_rhythm():
    shop = SmallShop(steady())
    shop.buys_weekly("bob", FIRST, times=3)
    assert shop.row("bob").rhythm_due == NEVER
    shop.orders("bob", later(FIRST, days=21), "fourth")
    assert shop.row("bob").rhythm_due == later(FIRST, days=31.5, hours=1)


def test_it_is_told_once_for_each_last_order_whatever_else_the_user_does():
    shop = SmallShop(steady(observe_days=5))
    last = shop.buys_weekly("bob", FIRST, times=6)
    shop.lives_on("bob", last, later(last, days=100), every_days=3)
    assert len(by("rhythm", shop)) == 1
    shop.orders("bob", later(last, days=100), "back")
    shop.lives_on("bob", later(last, days=101), later(last, days=250), every_days=3)
    assert len(by("rhythm", shop)) == 2


def test_each_order_puts_it_off():
    shop = SmallShop(steady())
    shop.buys_weekly("bob", FIRST, times=20)
    assert not by("rhythm", shop)


def test_silence_says_more_than_a_broken_rhythm_and_a_return_does_not_bring_it_up():
    shop = SmallShop(steady(tiers={"silence_days": 20}, observe_days=5))
    for n in range(5):
        shop.orders("bob", later(FIRST, days=20 * n - n), f"o{n}")
    last = later(FIRST, days=76)
    shop.tick(later(last, days=25))
    assert shop.tier("bob") == "silent"
    assert not by("rhythm", shop)
    shop.views("bob", later(last, days=60))
    shop.tick(later(last, days=70))
    assert not by("rhythm", shop)


def test_a_source_that_is_down_breaks_no_rhythm():
    shop = SmallShop(steady(), require_heartbeat=("orders",))
    last = shop.buys_weekly("bob", FIRST, times=6)
    shop.steers("heartbeat", source="orders", at=last)
    shop.tick(later(last, days=15))
    assert not by("rhythm", shop)
    assert shop.counts["rhythm held"] > 0
    for minutes in range(0, 26 * 60, 10):
        shop.steers("heartbeat", source="orders", at=later(last, days=15, minutes=minutes))
        shop.tick(later(last, days=15, minutes=minutes + 1))
    assert len(by("rhythm", shop)) == 1


@given(gaps=st.lists(st.integers(1, 40), min_size=3, max_size=14), cancelled=st.sets(st.integers(0, 13), max_size=2))
def test_at_most_one_opening_by_rhythm_for_each_last_order_and_none_too_early(gaps, cancelled):
    shop, at, days = SmallShop(steady(tiers={"silence_days": 365}, observe_days=1)), ms(FIRST), [0]
    shop.orders("bob", at, "o0")
    for n, gap in enumerate(gaps):
        at += gap * DAY_MS
        shop.orders("bob", at, f"o{n + 1}")
        days.append(days[-1] + gap)
        if n in cancelled:
            shop.cancels("bob", at + 1, f"o{n + 1}")
    shop.lives_on("bob", at + DAY_MS, at + 200 * DAY_MS)
    found = [when for when, _ in by("rhythm", shop)]
    stand = [day for place, day in enumerate(days) if place - 1 not in cancelled]
    told_of = [max(day for day in stand if rfc3339(ms(FIRST) + day * DAY_MS) < when) for when in found]
    assert len(told_of) == len(set(told_of))
    for when, last in zip(found, told_of, strict=True):
        if not cancelled:
            own = [after - before for before, after in pairwise(day for day in days if day <= last)]
            assert len(own) >= 3
            assert when == rfc3339(ms(FIRST) + last * DAY_MS + allowed_ms(own))


# -- the next tier -----------------------------------------------------------------------------------------------------

NEAR = {"tiers": ["potential"], "short_by": 1, "cool_down_days": 30}


def test_an_order_that_leaves_one_score_short_opens_and_says_what_is_missing():
    shop = SmallShop(listening(opening=("near_tier",), near_tier=NEAR))
    shop.buys_weekly("ann", FIRST, times=4)
    shop.tick(later(FIRST, days=22))
    assert by("near_tier", shop) == [(rfc3339(later(FIRST, days=21)), "high")]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([150] * 4, "near high: 1 order within the year missing"),
        ([60] * 6, "near high: 140.01 EUR within the year missing"),
    ],
)
def test_it_says_orders_or_money(values, text):
    shop = SmallShop(listening(opening=("near_tier",), near_tier=NEAR | {"tiers": ["marginal", "potential"]}))
    for n, value in enumerate(values):
        shop.orders("ann", later(FIRST, days=n), f"o{n}", value)
    opening = openings.near_tier(nearing(shop), in_force(near_tier=NEAR), shop.clock, shop.days)
    assert (opening.trigger, opening.name, opening.text) == ("near_tier", "high", text)


def nearing(shop):
    """Return ann's profile, as if nothing of the kind had been told yet."""
    profile = shop.row("ann")
    profile.account.near_at = 0
    return profile


def test_it_is_not_told_again_within_its_cool_down():
    shop = SmallShop(listening(opening=("near_tier",), near_tier=NEAR))
    for day in (0, 1, 2, 20, 21, 22, 40):
        shop.orders("ann", later(FIRST, days=day), f"o{day}", 10)
    assert len(by("near_tier", shop)) <= 2


def test_who_is_high_or_far_is_near_nothing():
    shop = SmallShop(listening(opening=("near_tier",), near_tier=NEAR))
    shop.buys_weekly("ann", FIRST)
    assert shop.tier("ann") == "high"
    assert openings.near_tier(nearing(shop), in_force(near_tier=NEAR), shop.clock, shop.days) is None
    shop.orders("bob", FIRST, "b1", 30)
    shop.orders("bob", later(FIRST, days=1), "b2", 30)
    shop.tick("2025-02-08")
    assert not by("near_tier", shop, "bob")


# -- what comes of them ------------------------------------------------------------------------------------------------


def test_the_level_goes_with_the_command():
    shop = with_model(listening(opening=("silence",), risk={"raised": 0.5, "high": 0.9, "margin": 0.05}))
    last = shop.buys_weekly("bob", FIRST, times=4)
    shop.tick(later(last, days=61))
    (command,) = shop.commands("bob")
    assert command["risk"]["level"] == "raised"
    assert 0.5 <= command["risk"]["probability"] < 0.9
    assert command["reason"]["text"] == "silent: no activity for 60 days, potential before"


def test_a_graver_opening_takes_the_place_of_a_milder_one():
    shop = SmallShop(
        listening(opening=("tier_reached", "rhythm"), rhythm=RHYTHM, caps={"user": {"touches": 9, "days": 1}})
    )
    last = shop.buys_weekly("bob", FIRST, times=5)
    shop.tick(later(last, days=15))
    told = [(value["trigger"], value["reason"]) for value in shop.of("recall-decisions", "bob")]
    assert told[-2:] == [("tier_reached", "upgraded"), ("rhythm", "sent")]


def test_however_a_history_is_cut_the_same_is_found():
    book = listening(signals=SIGNALS, rhythm=RHYTHM, observe_days=7)
    shop = SmallShop(book)
    users = [Life(shop, f"fay{seed}", seed) for seed in range(3)]
    for user in users:
        shop.buys_weekly(user.user, "2025-02-01T20", times=4)
    for day in range(ms("2025-03-03") // DAY_MS, ms("2025-06-01") // DAY_MS):
        for user in users:
            user.day(day, loyal=day * DAY_MS < ms(BREAKS))
    shop.tick("2025-08-15")
    assert {"tier_reached", "rhythm", "signal", "silence"} <= set(triggers(shop))
    whole = Backlog(shop.told, shop.shop, [book], rows_max=64, records_max=4096).finish()
    pieces = Backlog(shop.told, shop.shop, [book], rows_max=1, records_max=7).finish(n=50, restart_every=20)
    assert pieces.by_user == whole.by_user
    assert pieces.counts == whole.counts
