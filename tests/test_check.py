"""`recall check`: what is wrong with a playbook though every value is allowed, on which line, and what to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.demo import PLAYBOOK as DEMO_PLAYBOOK
from worker.recall.playbook.check import check
from worker.recall.playbook.model import RUNGS
from worker.recall.playbook.read import read
from worker.settings import DEFAULT_PLAYBOOK

BASE = """
name = "small"
[rfm]
m = [50, 150, 500, 1500]
"""
MEMORY = {"opening": ["tier_drop"], "kind": "memory", "template": "t", "rungs": ["email"]}


def toml(value) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(entry)}' for key, entry in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def play(name="memory", **fields) -> str:
    """Return a play of a playbook: a memory e-mail on a drop, but for what is said otherwise."""
    told = {"name": name, **MEMORY, **fields}
    return "[[plays]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in told.items())


def signal(*when) -> str:
    return f"[[signals]]\nname = 's'\nwhen = {toml(list(when))}\n"


@pytest.fixture
def found(tmp_path):
    """What is found in a playbook: (level, line of the file, text)."""

    def look(*parts, **options):
        path = tmp_path / "p.toml"
        path.write_text(BASE + "".join(parts))
        lines = path.read_text().splitlines()
        return [
            (finding.level, "" if finding.line is None else lines[finding.line - 1], finding.text)
            for finding in check(read(path), **options)
        ]

    return look


@pytest.mark.parametrize("path", [DEFAULT_PLAYBOOK, DEMO_PLAYBOOK], ids=lambda path: path.name)
def test_nothing_is_found_in_the_playbooks_that_come_with_it(path):
    assert check(read(path), grants={"daily": 50_000_000}, partitions=4, horizons_days=(30, 60)) == []


def test_nothing_is_found_in_a_short_playbook(found):
    assert found(play()) == []


SMS = ["push", "email", "sms"]
TWO_RUNGS = ["push", "email"]
ERRORS = [
    # Who is reached.
    (
        play(tiers=["high"]),
        "tiers = ['high']",
        "(memory): tiers = ['high']: no one can reach the play: this contradicts its opening by tier_drop",
    ),
    (play(to_tiers=["high"]), "to_tiers", "no one can reach the play: this contradicts its opening by tier_drop"),
    (play(from_tiers=["new"]), "from_tiers", "no one can reach the play"),
    (play(opening=["rhythm"], tiers=["new"]), "tiers", "contradicts its opening by rhythm"),
    (play(opening=["near_tier"], tiers=["marginal"]), "tiers", "contradicts its opening by near_tier"),
    (play(opening=["silence"], tiers=["potential"]), "tiers", "contradicts its opening by silence"),
    (play(opening=["silence"], potential=["low"]), "potential", "no one can reach the play: low is never disturbed"),
    (play(opening=["signal"]), "opening", "no one can reach the play: there are no [[signals]]"),
    (
        play(tiers=["high"], to_tiers=["high"]),
        "[[plays]]",
        "(memory): no one can reach the play: tiers, to_tiers and opening contradict each other",
    ),
    (
        play("first", cool_down_days=0) + play("second", audience="core"),
        "[[plays]]",
        "plays[1] (second): stands behind first, which fits all of its users (choice.mode = 'rule'): no one can reach",
    ),
    (
        play("falls", cool_down_days=0, opening=["tier_drop"], tiers=["marginal"])
        + play("others", cool_down_days=0, tiers=["potential"])
        + play("last"),
        "[[plays]]",
        "plays[2] (last): stands behind falls, others, which fits all of its users",
    ),
    # How far it climbs.
    (
        play(rungs=["sms"]),
        "rungs",
        "rungs[0] = 'sms': no one gets so far: it comes after 2 touches without an answer, ",
    ),
    (play(rungs=["push", "sms"]), "rungs", "rungs[1] = 'sms': no one gets so far: it comes after 2 touches"),
    (
        play(rungs=SMS, from_tiers=["potential"]),
        "rungs",
        "rungs[2] = 'sms': no one gets so far: it is for the highest value alone (ladder.top), and the play is for oth",
    ),
    (
        play(opening=["silence"], potential=["middle"], rungs=SMS),
        "rungs",
        "it is for the highest value alone (ladder.top)",
    ),
    (play(rungs=["push", "email", "human"]), "rungs", "nobody has time for it (ladder.human_per_day = 0)"),
    (
        "[potential]\nmiddle_rungs = ['in_app']\n" + play(opening=["silence"], potential=["middle"], rungs=TWO_RUNGS),
        "rungs = ['push', 'email']",
        "no one can reach the play: users of middle potential get in_app alone (potential.middle_rungs)",
    ),
    (
        "[caps]\nchannel = { email = { touches = 0, days = 1 } }\n" + play(),
        "rungs",
        "rungs[0] = 'email': no one gets so far: caps.channel.email allows no touch",
    ),
    (
        "[caps]\nuser = { touches = 2, days = 14 }\n" + play(rungs=SMS),
        "rungs",
        "rungs[2] = 'sms': no one gets so far: it is touch 3 of the play, 6 days after the first, and caps.user allows",
    ),
    (
        play(rungs=SMS, success={"track": {"order": 1}, "within_days": 6}),
        "rungs",
        "rungs[2] = 'sms': no one gets so far: it comes 6 days after the first touch at the earliest (ladder",
    ),
    # What goes with it.
    (
        play(incentive={"form": "amount", "face_values": [10]}),
        "incentive",
        "incentive: is never given: it goes with the last rung and never with the first touch",
    ),
    (
        "[subsidy]\nshare_max = 0\n" + play(rungs=TWO_RUNGS, incentive={"form": "amount", "face_values": [10]}),
        "incentive",
        "incentive: is never given: subsidy.share_max = 0",
    ),
    # Sections.
    ("[quiet_hours]\nfrom = '09:00'\nto = '08:30'\n" + play(), "[quiet_hours]", "leaves 30 minutes a day"),
    (
        "[holdout]\nepoch_days = 120\n" + play(),
        "epoch_days",
        "holdout.epoch_days = 120: too short: allowed is more than",
    ),
    (
        signal({"feature": "view_7d", "at_least": 3}, {"feature": "view_30d", "at_most": 2}) + play(opening=["signal"]),
        "when",
        "signals[0] (s): when[1]: view_30d with at_most = 2 and view_7d with at_least = 3 never hold together",
    ),
]


@pytest.mark.parametrize(("parts", "line", "said"), ERRORS, ids=[said[-60:] for _, _, said in ERRORS])
def test_what_cannot_work_is_an_error(found, parts, line, said):
    [(level, on, text)] = found(parts)
    assert (level, line in on) == ("error", True)
    assert said in text


WARNINGS = [
    (
        play(opening=["tier_drop", "near_tier"], tiers=["marginal"]),
        "opening",
        "opening[1] = 'near_tier': brings no one",
    ),
    (play(opening=["tier_drop", "signal"]), "opening", "for want of a signal; take it out"),
    (play(potential=["high"]), "potential", "is asked of silent users alone, and opening has no 'silence'"),
    (
        play(opening=["risk"], to_tiers=["silent"]),
        "to_tiers",
        "is asked of changes of tier alone (silence, tier_drop, ",
    ),
    (
        play("first") + play("second"),
        "[[plays]]",
        "(second): stands behind first, which fits all of its users (choice.mode = 'rule'): its turn comes only where",
    ),
    (
        play(kind="points_expiry"),
        "rungs",
        "points that expire are best told by a badge in the app, which costs nothing; add 'in_app' as the first rung",
    ),
    (
        play(cool_down_days=366),
        "cool_down_days",
        "cool_down_days = 366: longer than the year that users are valued over",
    ),
    (
        signal({"feature": "view_7d", "at_most": 0}) + play(),
        "[[signals]]",
        "signals[0] (s): no play listens to it",
    ),
    (
        "[choice.priors]\nmemory = { with = 0.1, without = 0.1 }\n" + play(),
        "memory",
        "choice.priors.memory: with = 0.1 is not above without = 0.1",
    ),
    (
        "[caps]\nuser = { touches = 1, days = 7 }\n"
        + play(
            kind="habit",
            rungs=["push"],
            steps=[{"channel": "view", "template": "a"}, {"channel": "cart_add", "template": "b"}],
        ),
        "steps",
        "each of the 2 steps is a message, and caps.user allows 1 in 7 days",
    ),
    (
        play("a") + play("b", opening=["risk"]) + play("c", opening=["rhythm"], budget="dayly"),
        "budget",
        "budget = 'dayly': no other play has this one; did you mean 'daily'?",
    ),
]


@pytest.mark.parametrize(("parts", "line", "said"), WARNINGS, ids=[said[-60:] for _, _, said in WARNINGS])
def test_what_hardly_anybody_means_is_a_warning(found, parts, line, said):
    [(level, on, text)] = found(parts)
    assert (level, line in on) == ("warning", True)
    assert said in text


FINE = [
    # The first may have nothing to say, reaches fewer, is over, or speaks to others.
    play("first", kind="new_arrivals") + play("second"),
    play("first", cool_down_days=31) + play("second"),
    play("first", rungs=["push"]) + play("second"),
    play("first", audience="core") + play("second"),
    play("first", tiers=["marginal"]) + play("second"),
    play("first", opening=["silence"], potential=["high"]) + play("second", opening=["silence"]),
    "[choice]\nmode = 'learned'\n" + play("first") + play("second"),
    # The waits are longer than the cap's window.
    "[caps]\nuser = { touches = 1, days = 3 }\n[ladder]\nwait_days = { push = 3 }\n" + play(rungs=TWO_RUNGS),
    # SMS for those who may be of the highest value.
    play(rungs=SMS),
    play(opening=["silence"], potential=["high", "middle"], rungs=SMS),
    "[ladder]\nhuman_per_day = 5\n" + play(rungs=["in_app", "email", "human"]),
    # Quiet hours may be none, or within the day.
    "[quiet_hours]\nfrom = '00:00'\nto = '00:00'\n" + play(),
    "[quiet_hours]\nfrom = '12:00'\nto = '14:00'\n" + play(),
    # A signal of all plays.
    signal({"feature": "view_7d", "at_most": 0}) + play(opening=["signal"]),
    signal({"feature": "view_30d", "at_least": 3}, {"feature": "view_7d", "at_most": 2}) + play(opening=["signal"]),
]


@pytest.mark.parametrize("parts", FINE)
def test_what_may_well_be_meant_is_not_found_fault_with(found, parts):
    assert found(parts) == []


def test_no_part_of_people_is_left_without_a_day(found):
    parts = "[ladder]\nhuman_per_day = 3\n" + play(rungs=["in_app", "email", "human"])
    assert found(parts, partitions=3) == []
    [(level, line, text)] = found(parts, partitions=4)
    assert (level, line) == ("warning", "human_per_day = 3")
    assert "split over 4 partitions, 1 of them have nobody on a day" in text


def test_the_epoch_outlasts_every_horizon_and_every_play(found):
    assert found("[holdout]\nepoch_days = 121\n" + play(), horizons_days=(30,)) == []
    [(_, _, text)] = found("[holdout]\nepoch_days = 121\n" + play(), horizons_days=(30, 60))
    assert "allowed is more than 150, the longest time that is looked at (60 days) and 90" in text
    long = play(success={"track": {"order": 2}, "within_days": 100})
    [(_, _, text)] = found(long)
    assert "allowed is more than 190, the longest time that is looked at (100 days) and 90" in text


# -- money -------------------------------------------------------------------------------------------------------------


def test_a_grant_pays_for_a_contact_in_every_partition(found):
    rich = play(cost={"contact": "0.10"}, audience="core")
    assert found(rich, grants={"daily": 400_000}, partitions=4) == []
    [(level, line, text)] = found(rich, grants={"daily": 399_999}, partitions=4)
    assert (level, line) == ("error", "rungs = ['email']")
    assert "one touch costs 0.1, and 0.399999 for daily over 4 partitions leaves 0.099999 in one; grant more" in text


def test_users_outside_the_core_do_not_get_all_of_a_grant(found):
    shared = "[budgets]\ncore_share = 0.5\n" + play(cost={"contact": "0.10"})
    assert found(shared, grants={"daily": 200_000}) == []
    [(_, _, text)] = found(shared, grants={"daily": 199_990})
    assert "0.19999 for daily, less 50% for core users, leaves 0.099995 in one" in text
    high = "[budgets]\ncore_share = 0.5\n" + play(opening=["tier_reached"], to_tiers=["high"], cost={"contact": "0.10"})
    assert found(high, grants={"daily": 100_000}) == [], "who reaches `high` is of the core"


@pytest.mark.parametrize(
    ("incentive", "micros"),
    [
        ({"form": "amount", "face_values": [20, 30], "expected_redemption": 0.1}, 2_001_000),
        ({"form": "points", "face_values": [100], "expected_redemption": 0.5}, 501_000),
        ({"form": "amount", "face_values": [20], "expected_redemption": 0.1, "points": 50}, 2_051_000),
        ({"form": "percent", "face_values": [10], "expected_redemption": 0.1}, 1_000),
    ],
)
def test_the_smallest_incentive_counts_as_expected(found, incentive, micros):
    parts = play(rungs=["in_app", "email"], incentive=incentive, audience="core")
    assert found(parts, grants={"daily": micros}) == []
    [(_, _, text)] = found(parts, grants={"daily": micros - 1})
    assert "rungs[1] = 'email': one touch costs " in text


def test_what_costs_nothing_needs_no_grant(found):
    assert found(play(rungs=["in_app"], budget="badges"), grants={"daily": 1}, partitions=4)[0][2].startswith(
        "grant 'd"
    )
    assert found(play(rungs=["in_app"], budget="badges") + play("b", opening=["risk"]), grants={"daily": 10_000}) == []


def test_budgets_and_grants_go_by_the_same_names(found):
    said = [text for _, _, text in found(play(budget="daily"), grants={"dayly": 1_000_000})]
    assert said == [
        "grant 'dayly': no play pays with it; did you mean 'daily'?",
        "plays[0] (memory): budget = 'daily': no grant of this name; did you mean 'dayly'?",
    ]


# -- any playbook ------------------------------------------------------------------------------------------------------

OPENINGS = ["tier_drop", "silence", "risk", "rhythm", "tier_reached", "near_tier"]
TIERS = ["high", "potential", "marginal", "silent", "new"]


def some(names):
    return st.lists(st.sampled_from(names), min_size=1, unique=True)


PLAYS = st.fixed_dictionaries(
    {
        "opening": some(OPENINGS),
        "audience": st.sampled_from(["all", "core"]),
        "tiers": some(TIERS),
        "to_tiers": some(TIERS),
        "potential": st.lists(st.sampled_from(["high", "middle", "low"]), unique=True),
        "rungs": some(list(RUNGS)).map(lambda rungs: sorted(rungs, key=RUNGS.index)),
        "cool_down_days": st.sampled_from([0, 30, 60]),
    }
)


@given(st.lists(PLAYS, min_size=1, max_size=4))
def test_of_any_playbook_every_finding_has_a_place_and_is_told_once(tmp_path_factory, plays):
    path = tmp_path_factory.mktemp("check") / "p.toml"
    path.write_text(BASE + "".join(play(f"play-{i}", **fields) for i, fields in enumerate(plays)))
    findings = check(read(path), grants={"daily": 1_000_000}, partitions=4)
    assert all(finding.line and finding.text.startswith("plays[") for finding in findings)
    assert len(set(findings)) == len(findings)
    assert [finding.line for finding in findings] == sorted(finding.line for finding in findings)
