"""Who may be touched, on which channel, and when: consent, reach, caps, cool-downs and quiet hours."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from customers import ms, playbook
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from worker.recall.days import DAY_MS, HOUR_MS, MINUTE_MS
from worker.recall.policy import eligibility, quiet
from worker.recall.profile import Contact, Profile
from worker.stream.processor import NEVER

AT = ms("2025-03-01T12:00")
BOOK = playbook(caps={"user": {"touches": 2, "days": 14}, "channel": {"email": {"touches": 1, "days": 7}}})


def user(*contacts, **account):
    """Return a user with touches at (time, channel), or (time, channel, play)."""
    profile = Profile(key=b"user-1", due=NEVER, silence_due=NEVER, other_due=NEVER)
    profile.account.contacts = [Contact(*contact) for contact in contacts]
    for name, value in account.items():
        setattr(profile.account, name, value)
    return profile


def refusal(profile, channel="email", at=AT, book=BOOK):
    return eligibility.channel_refusal(profile, channel, "marketing", book, at)


# -- what was said -----------------------------------------------------------------------------------------------------


def test_who_has_said_nothing_may_be_touched():
    assert eligibility.forbids(user()) is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [("excluded", "excluded"), ("opted_out", "opted out"), ("profiling_opted_out", "profiling opt-out")],
)
def test_what_forbids_every_touch(said, reason):
    assert eligibility.forbids(user(**{said: True})) == reason


def test_consent_is_of_a_channel_and_a_purpose():
    profile = user(consent={"email:marketing": False, "email:service": True, "push:marketing": True})
    assert refusal(profile, "email") == "no consent"
    assert refusal(profile, "push") is None
    assert eligibility.channel_refusal(profile, "email", "service", BOOK, AT) is None


@pytest.mark.parametrize(("unknown", "reason"), [("deny", "no consent"), ("allow", None)])
def test_the_playbook_says_what_holds_where_consent_is_not_known(unknown, reason):
    assert refusal(user(), book=playbook(consent={"unknown": unknown})) == reason


def test_a_channel_that_does_not_reach_the_user_is_refused_and_no_other():
    profile = user(unreachable={"push": AT - DAY_MS})
    assert (refusal(profile, "push"), refusal(profile, "sms")) == ("unreachable", None)


# -- caps --------------------------------------------------------------------------------------------------------------


def test_a_full_window_is_full_until_its_last_millisecond():
    profile = user((AT, "email"))
    assert refusal(profile, at=AT + 7 * DAY_MS - 1) == "channel cap"
    assert refusal(profile, at=AT + 7 * DAY_MS) is None


def test_midnight_frees_nothing():
    evening = ms("2025-03-01T23:59")
    profile = user((evening, "push"), (evening, "sms"))
    assert eligibility.capped(profile, BOOK, evening + 2 * MINUTE_MS)


def test_the_users_cap_counts_all_channels_and_a_channels_its_own():
    profile = user((AT - DAY_MS, "email"))
    assert not eligibility.capped(profile, BOOK, AT)
    assert (refusal(profile, "email"), refusal(profile, "push")) == ("channel cap", None)
    assert eligibility.capped(user((AT - DAY_MS, "email"), (AT - HOUR_MS, "push")), BOOK, AT)


def test_a_cap_of_none_allows_none():
    assert eligibility.capped(user(), playbook(caps={"user": {"touches": 0, "days": 7}}), AT)


@given(
    waits=st.lists(st.one_of(st.integers(0, 20 * DAY_MS), st.sampled_from([7 * DAY_MS, 7 * DAY_MS - 1])), max_size=40),
    channels=st.lists(st.sampled_from(["email", "push", "sms"]), min_size=40, max_size=40),
    touches=st.integers(0, 4),
)
def test_no_window_ever_holds_more_than_its_cap(waits, channels, touches):
    """Whoever asks the guards before each touch never has too many in any stretch of the caps' length."""
    caps = {"user": {"touches": touches, "days": 14}, "channel": {"email": {"touches": 2, "days": 7}}}
    book, profile, at = playbook(caps=caps), user(), AT
    for wait, channel in zip(waits, channels, strict=False):
        at += wait
        if not eligibility.capped(profile, book, at) and refusal(profile, channel, at, book) is None:
            profile.account.contacts.append(Contact(at, channel))
    sent = profile.account.contacts
    for first in sent:
        within = [touch for touch in sent if first.at <= touch.at < first.at + 14 * DAY_MS]
        assert len(within) <= touches
        emails = [t for t in sent if t.channel == "email" and first.at <= t.at < first.at + 7 * DAY_MS]
        assert len(emails) <= 2


# -- cool-downs --------------------------------------------------------------------------------------------------------


def test_a_play_may_begin_again_when_its_cool_down_has_passed():
    play = BOOK.plays[0].model_copy(update={"cool_down_days": 30})
    profile = user((AT, "email", play.name))
    assert eligibility.cools_down(profile, play, AT + 30 * DAY_MS - 1)
    assert not eligibility.cools_down(profile, play, AT + 30 * DAY_MS)


def test_another_play_cools_nothing_down():
    assert not eligibility.cools_down(user((AT, "email", "another")), BOOK.plays[0], AT)


LETTER = {
    "name": "letter",
    "opening": ["tier_drop"],
    "kind": "memory",
    "template": "letter",
    "rungs": ["email"],
    "cool_down_days": 45,
}
FORGETFUL = playbook(plays=[LETTER], choice={"priors": {}}, caps={"user": {"touches": 2, "days": 60}, "channel": {}})
"""Of these the user's cap looks back the farthest."""
COOLING = FORGETFUL.model_copy(update={"caps": BOOK.caps})
"""Of these the play's cool-down does."""


@given(
    book=st.sampled_from([FORGETFUL, COOLING]),
    ages=st.lists(st.integers(0, 70 * DAY_MS), max_size=8),
    later=st.one_of(st.just(0), st.integers(0, 30 * DAY_MS)),
)
@example(FORGETFUL, [60 * DAY_MS - 1, 60 * DAY_MS - 1], 0)
@example(COOLING, [45 * DAY_MS - 1], 0)
def test_what_is_forgotten_no_guard_would_have_seen(book, ages, later):
    play, whole, trimmed, at = book.plays[0], user(), user(), AT + later
    whole.account.contacts = [Contact(AT - age, "email", play.name) for age in ages]
    trimmed.account.contacts = eligibility.kept(whole.account.contacts, book, AT, 30)
    for look in (
        lambda profile: eligibility.capped(profile, book, at),
        lambda profile: refusal(profile, at=at, book=book),
        lambda profile: eligibility.cools_down(profile, play, at),
        lambda profile: sum(contact.at > at - 30 * DAY_MS for contact in profile.account.contacts),
    ):
        assert look(whole) == look(trimmed)


def test_what_no_guard_looks_back_to_is_forgotten_but_an_incentive_not_for_a_year():
    old = [Contact(AT - days * DAY_MS, "email", face=face) for days, face in ((62, 0), (62, 1), (367, 1))]
    assert eligibility.kept(old, FORGETFUL, AT, 30) == [old[1]]
    assert eligibility.kept(old, FORGETFUL, AT, 90) == [old[0], old[1]]


# -- quiet hours -------------------------------------------------------------------------------------------------------

NIGHT = playbook(quiet_hours={"from": "21:00", "to": "09:00", "channels": ["push", "sms"]})


def at_wall(text, zone, fold=0):
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


def quiet_until(text, zone, book=NIGHT, channel="push", fold=0):
    """Return what the clock on the user's wall shows when he may be touched."""
    then = quiet.until(at_wall(text, zone, fold), channel, zone, book)
    return dt.datetime.fromtimestamp(then / 1000, ZoneInfo(zone)).isoformat()


def test_a_touch_at_night_waits_for_the_users_morning():
    assert quiet_until("2025-06-01T23:30", "Asia/Shanghai") == "2025-06-02T09:00:00+08:00"
    assert quiet_until("2025-06-02T03:00", "America/New_York") == "2025-06-02T09:00:00-04:00"


@pytest.mark.parametrize(
    ("wall", "free"),
    [("20:59:59.999", True), ("21:00:00", False), ("08:59:59.999", False), ("09:00:00", True), ("13:00:00", True)],
)
def test_where_the_night_begins_and_ends(wall, free):
    at = at_wall(f"2025-06-02T{wall}", "Europe/Berlin")
    assert (quiet.until(at, "push", "Europe/Berlin", NIGHT) == at) is free


def test_what_makes_no_sound_may_come_at_night():
    at = at_wall("2025-06-02T03:00", "Europe/Berlin")
    assert quiet.until(at, "email", "Europe/Berlin", NIGHT) == at


def test_hours_within_one_day():
    siesta = playbook(quiet_hours={"from": "13:00", "to": "15:30", "channels": ["push"]})
    assert quiet_until("2025-06-02T14:00", "Europe/Madrid", siesta) == "2025-06-02T15:30:00+02:00"
    assert quiet_until("2025-06-02T15:30", "Europe/Madrid", siesta) == "2025-06-02T15:30:00+02:00"


def test_the_same_time_twice_is_never_quiet():
    never = playbook(quiet_hours={"from": "21:00", "to": "21:00", "channels": ["push"]})
    assert quiet_until("2025-06-02T21:00", "Europe/Berlin", never) == "2025-06-02T21:00:00+02:00"


def test_the_hour_that_summer_time_takes_is_not_waited_for():
    half_past_two = playbook(quiet_hours={"from": "22:00", "to": "02:30", "channels": ["push"]})
    assert quiet_until("2025-03-30T01:00", "Europe/Berlin", half_past_two) == "2025-03-30T03:00:00+02:00"
    assert quiet_until("2025-03-29T23:00", "Europe/Berlin") == "2025-03-30T09:00:00+02:00"


def test_in_the_hour_that_comes_twice_the_quiet_hours_hold_again():
    half_past_two = playbook(quiet_hours={"from": "22:00", "to": "02:30", "channels": ["push"]})
    assert quiet_until("2025-10-26T01:00", "Europe/Berlin", half_past_two) == "2025-10-26T02:30:00+02:00"
    assert quiet_until("2025-10-26T02:10", "Europe/Berlin", half_past_two, fold=1) == "2025-10-26T02:30:00+01:00"
    assert quiet_until("2025-10-25T23:00", "Europe/Berlin") == "2025-10-26T09:00:00+01:00"


CHANGES = [
    ("Europe/Berlin", "2025-03-30T01:00"),
    ("Europe/Berlin", "2025-10-26T01:00"),
    ("America/New_York", "2025-03-09T07:00"),
    ("America/New_York", "2025-11-02T06:00"),
    ("Australia/Lord_Howe", "2025-04-05T15:00"),  # half an hour
    ("Australia/Lord_Howe", "2025-10-04T15:30"),
    ("Pacific/Apia", "2011-12-30T10:00"),  # a day that never was
    ("America/Santiago", "2025-09-07T04:00"),  # at midnight
    ("Asia/Kathmandu", "2025-06-01T00:00"),  # none
]


def brute_force(at, zone, start, end):
    """Return the first time from `at` on at which the clock on the wall shows no quiet minute."""
    while True:
        local = dt.datetime.fromtimestamp(at / 1000, ZoneInfo(zone))
        minute = 60 * local.hour + local.minute
        if not (start <= minute < end or (end < start and (minute >= start or minute < end))):
            return at
        at += MINUTE_MS - at % MINUTE_MS


@settings(max_examples=300, deadline=None)
@given(
    place=st.sampled_from(CHANGES),
    away=st.integers(-26 * 60, 26 * 60),
    into=st.integers(0, MINUTE_MS - 1),
    start=st.integers(0, 24 * 60 - 1),
    length=st.integers(0, 24 * 60 - 1),
)
@example(CHANGES[0], -1, 0, 60, 60)
@example(CHANGES[1], 0, 1, 120, 30)
def test_as_minute_by_minute(place, away, into, start, length):
    zone, changed = place
    at = ms(changed) + away * MINUTE_MS + into
    end = (start + length) % (24 * 60)
    assert quiet.end(at, zone, start, end) == brute_force(at, zone, start, end)


@given(at=st.integers(0, 2**41), zone=st.sampled_from(sorted({zone for zone, _ in CHANGES})))
def test_when_it_is_over_it_is_not_quiet(at, zone):
    then = quiet.until(at, "sms", zone, NIGHT)
    assume(then != at)
    assert at < then < at + 2 * DAY_MS
    assert quiet.until(then, "sms", zone, NIGHT) == then
