"""The playbook and the settings: what is refused, and that the message names field, value and what is allowed."""

import re
import tomllib
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from customers import make_shop, playbook
from hypothesis import given
from hypothesis import strategies as st

from worker.recall.money import Currency
from worker.recall.playbook import PlaybookError, load, parse
from worker.recall.playbook.lines import places
from worker.recall.rfm import Scores
from worker.recall.shop import CONTACT_AFTERMATH_DAYS, InForce
from worker.recall.tiers import Tier
from worker.settings import DEFAULT_PLAYBOOK, SettingsError
from worker.settings import load as load_settings

DEFAULT = DEFAULT_PLAYBOOK.read_text()


def changed(old, new):
    """Return the default playbook with a line changed."""
    assert DEFAULT.count(old) == 1
    return DEFAULT.replace(old, new)


def error_of(tmp_path, text):
    """Return what is said of a playbook, without the file's name; of several mistakes each on a line of its own."""
    path = tmp_path / "playbook.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PlaybookError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"playbook {path}") for line in lines)
    return "\n".join(line.removeprefix(f"playbook {path}").removeprefix(", ").removeprefix(": ") for line in lines)


WRONG = [
    ("silence_days = 60", "silence_days = 0", "tiers.silence_days = 0: allowed is 1 or more"),
    ("silence_days = 60", 'silence_days = "soon"', "tiers.silence_days = 'soon': allowed is a whole number"),
    ("hold_days = 7", "hold_day = 7", "tiers.hold_day = 7: no such field; did you mean 'hold_days'?"),
    ("r = 4, f = 4, m = 4", "r = 6, f = 4, m = 4", "tiers.high.r = 6: allowed is 5 or less"),
    (
        "[21, 45, 90, 180]",
        "[21, 45, 45, 180]",
        "rfm.r_days = [21, 45, 45, 180]: allowed are four bounds in rising order",
    ),
    ("[21, 45, 90, 180]", "[21, 45, 90]", "rfm.r_days = [21, 45, 90]: allowed is at least 4 of them"),
    ('m = ["50", "150"', 'm = ["-50", "150"', "rfm.m[0] = '-50': allowed is 0 or more"),
    ("share = 0.1", "share = 0.6", "holdout.share = 0.6: allowed is 0.5 or less"),
    ('unknown = "deny"', 'unknown = "maybe"', "consent.unknown = 'maybe': allowed is 'allow' or 'deny'"),
    (
        "channel = { email = {",
        "channel = { fax = {",
        "caps.channel.fax: allowed is 'in_app', 'push', 'email', 'sms' or 'human'",
    ),
    ('from = "21:00"', 'from = "9pm"', "quiet_hours.from = '9pm': allowed is a time of the day such as 21:00"),
    ("raised = 0.85", "raised = 0.97", "risk.raised = 0.97: allowed is above margin (0.05) and below high (0.95)"),
    ("middle = 0.75", "middle = 1.75", "potential.middle = 1.75: allowed is below high (1.5)"),
    (
        'feature = "sign_in_trend"',
        'feature = "signin_trend"',
        "signals[0] (drifting-away): when[0].feature = 'signin_trend': no such feature; did you mean 'sign_in_trend'?",
    ),
    (
        'feature = "sign_in_before", at_least = 20',
        'feature = "sign_in_before", at_least = 20, at_most = 9',
        "signals[0] (drifting-away): when[1].at_least = 20.0: allowed is up to at_most (9)",
    ),
    ('name = "default"', 'name = "My Book"', "name = 'My Book': allowed is small letters, digits, - and _, at most 64"),
    ('name = "memory-email"', 'name = "care-letter"', "name = 'care-letter': stands 2 times; allowed is once"),
    ('name = "care-letter"', 'name = "nothing"', "name = 'nothing': allowed is any other name: this one stands for "),
    ('audience = "core"', 'audience = "vip"', "(care-letter): audience = 'vip': allowed is 'all' or 'core'"),
    ('kind = "care"', 'kind = "caer"', "kind = 'caer': allowed is 'memory', 'points_expiry', 'care', "),
    ('kind = "care"', 'kind = "habit"', "(care-letter): kind = 'habit': allowed is with steps, at least one"),
    ('kind = "habit"', 'kind = "memory"', "kind = 'memory': allowed is 'habit' where there are steps"),
    (
        'cost = { hidden = "0.50" }',
        'cost = { hidden = "a lot" }',
        "cost.hidden = 'a lot': allowed is an amount such as",
    ),
    (
        'rungs = ["push", "email", "sms"]',
        'rungs = ["email", "push", "sms"]',
        "rungs = ['email', 'push', 'sms']: allowed is each once, in the order in_app, push, email, sms, human",
    ),
    (
        'rungs = ["push", "email", "sms"]',
        'rungs = ["push", "e-mail", "sms"]',
        "(comeback-pack): rungs[1] = 'e-mail': allowed is 'in_app', 'push', 'email', 'sms' or 'human'; did you mean ",
    ),
    (
        'signals = ["drifting-away"]',
        'signals = ["drifting-awa"]',
        "signals[0] = 'drifting-awa': no such signal; did you mean 'drifting-away'?",
    ),
    (
        'opening = ["tier_drop", "risk", "signal"]\nsignals = [',
        'opening = ["tier_drop", "risk"]\nsignals = [',
        "signals = ['drifting-away']: allowed is with an opening by signal",
    ),
    (
        "face_values = [10, 20]",
        "face_values = [20, 10]",
        "face_values = ['20', '10']: allowed are values in rising order",
    ),
    (
        "success = { track = { order = 1 }, within_days = 28 }",
        "success = { track = { buys = 1 }, within_days = 28 }",
        "success.track.buys: allowed is 'session', 'check_in', ",
    ),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG, ids=[new for _, new, _ in WRONG])
def test_a_mistake_is_named_by_line_field_value_and_what_is_allowed(tmp_path, old, new, said):
    text = changed(old, new)
    told = error_of(tmp_path, text)
    line = int(re.match(r"line (\d+): ", told)[1])
    assert new.splitlines()[-1] in text.splitlines()[line - 1]
    assert said in told.splitlines()[0]


def test_every_mistake_is_named_at_once(tmp_path):
    said = error_of(tmp_path, changed("hold_days = 7", "hold_days = -1").replace("share = 0.1", "share = -1"))
    assert [line.split(": ")[1].split(" = ")[0] for line in said.splitlines()] == ["tiers.hold_days", "holdout.share"]


def test_every_unknown_name_is_told_at_once(tmp_path):
    priors = "[choice.priors]\ncare-leter = { with = 0.1, without = 0.05 }\nfax = { with = 0.1, without = 0.05 }\n"
    said = error_of(tmp_path, changed("[choice]\n", priors + "[choice]\n").replace('["drifting-away"]', '["a", "b"]'))
    assert [line.partition(": ")[2].partition("; a")[0] for line in said.splitlines()] == [
        "choice.priors.care-leter = 'care-leter': no such play; did you mean 'care-letter'?",
        "choice.priors.fax = 'fax': no such play",
        "plays[0] (care-letter): signals[0] = 'a': no such signal",
        "plays[0] (care-letter): signals[1] = 'b': no such signal",
    ]


LEAVES = [place for place in places(DEFAULT) if place]
VALUES = st.one_of(
    st.none().map(lambda _: datetime(2026, 1, 1, tzinfo=UTC).date()),
    st.booleans(),
    st.integers(-1, 10**15),
    st.floats(),
    st.sampled_from(["", "email", "-1", "NaN", "x" * 200, "21:00"]),
    st.lists(st.sampled_from([1, "email", "order", {}]), max_size=5),
    st.dictionaries(st.sampled_from(["", "r", "email", "with"]), st.integers(), max_size=2),
)


def findings_of(raw):
    try:
        parse(raw, "p.toml", places(DEFAULT))
    except PlaybookError as error:
        return error.findings
    return []


@given(st.sampled_from(LEAVES), VALUES)
def test_whatever_stands_anywhere_is_allowed_or_told_with_its_line(place, value):
    raw = tomllib.loads(DEFAULT)
    around = raw
    for part in place[:-1]:
        around = around[part]
    around[place[-1]] = value
    findings = findings_of(raw)
    assert all(finding.line for finding in findings)
    assert all(re.search("allowed|no such|missing|stands", finding.text) for finding in findings)


def test_what_is_no_playbook_at_all(tmp_path):
    assert error_of(tmp_path, "name = ").startswith("is not TOML: ")
    assert error_of(tmp_path, b"\xff").startswith("is not TOML: ")
    assert error_of(tmp_path, 'name = "p"') == "rfm: is missing\nplays: is missing"
    assert error_of(tmp_path, "\n\n[rfm]\n").splitlines()[-1] == "line 3: rfm.m: is missing"
    with pytest.raises(PlaybookError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")


SHORT = """
name = "short"
[rfm]
m = [50, 150, 500, 1500]
[[plays]]
name = "memory"
opening = ["tier_drop"]
kind = "memory"
template = "t"
rungs = ["email"]
"""


def test_a_short_playbook_is_enough(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(SHORT)
    book = load(path)
    assert (book.consent.unknown, book.choice.mode, book.quiet_hours.start_minute) == ("deny", "rule", 21 * 60)
    assert book.within_days(book.plays[0]) == book.observe_days
    assert book.order_value_bounds(Currency.of("EUR")) == (5_000, 15_000)


def test_what_is_said_of_some_channels_leaves_the_others_their_defaults(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(SHORT + '[ladder.wait_days]\nemail = 9\n[channels.cost]\nsms = "0.04"\n[costs.brand]\npush = 0\n')
    book = load(path)
    assert (book.ladder.wait_days["email"], book.ladder.wait_days["push"]) == (9, 2)
    assert (book.channels.cost["sms"], book.channels.cost["human"]) == (Decimal("0.04"), 3)
    assert (book.costs.brand["push"], book.costs.brand["sms"]) == (0, Decimal("0.03"))


def test_the_default_playbook_is_sound():
    book = load(DEFAULT_PLAYBOOK)
    assert book.consent.unknown == "deny"
    assert InForce.of(book, make_shop()).rules.table[0] == (Tier.HIGH, Scores(4, 4, 4))


def test_a_version_is_name_and_content():
    raw = tomllib.loads(DEFAULT)
    version = parse(raw, "a").version
    assert parse(raw, "b").version == version
    assert version.startswith("default@")
    others = [{**raw, "name": "other"}, {**raw, "observe_days": 31}, {**raw, "plays": raw["plays"][:1]}]
    assert len({version, *(parse(other, "c").version for other in others)}) == 4


def test_cut_points_are_minor_units_of_the_shop():
    rfm = {"m": ["1.5", "2", "3", "4"]}
    assert playbook(rfm=rfm).cut_points(Currency.of("EUR")).m == (150, 200, 300, 400)
    assert playbook(rfm=rfm).cut_points(Currency.of("KWD")).m == (1500, 2000, 3000, 4000)


def test_the_epoch_of_the_holdout_outlasts_what_is_measured_in_it():
    least = 30 + CONTACT_AFTERMATH_DAYS
    assert InForce.of(playbook(holdout={"epoch_days": least + 1}), make_shop()).holdout.epoch_days == least + 1
    said = "playbook test: holdout.epoch_days = 120: allowed is more than 120, the horizon of 30 days and 90"
    with pytest.raises(ValueError, match=said):
        InForce.of(playbook(holdout={"epoch_days": least}), make_shop())
    with pytest.raises(ValueError, match="allowed is more than 190, the horizon of 100 days and 90"):
        InForce.of(playbook(), make_shop(horizons_days=(100,)))


DROP = {"trigger": "tier_drop", "origin": Tier.HIGH, "target": Tier.POTENTIAL, "tier": Tier.POTENTIAL}


def a_play(**fields):
    play = {"name": "p", "opening": ["tier_drop"], "kind": "memory", "template": "t", "rungs": ["email"], **fields}
    return playbook(plays=[play], signals=[{"name": "s", "when": [{"feature": "view_7d", "at_most": 0}]}]).plays[0]


def test_plays_fit_by_opening_audience_and_tiers():
    care, memory = playbook().plays
    assert care.fits(core=True, **DROP)
    assert not care.fits(core=False, **DROP)
    assert memory.fits(core=False, **DROP)
    assert not memory.fits(core=False, **{**DROP, "target": Tier.NEW})
    assert not memory.fits(core=False, **{**DROP, "trigger": "risk"})
    assert a_play(from_tiers=["high"]).fits(core=False, **DROP)
    assert not a_play(from_tiers=["marginal"]).fits(core=False, **DROP)
    assert not a_play(tiers=["high"]).fits(core=False, **DROP)


def test_where_the_tier_did_not_change_it_is_the_users_own_that_counts():
    play = a_play(opening=["risk"], from_tiers=["new"], to_tiers=["high"], tiers=["potential"])
    assert play.fits(core=False, **{**DROP, "trigger": "risk"})
    assert not play.fits(core=False, **{**DROP, "trigger": "risk", "tier": Tier.HIGH})


def test_a_play_listens_to_the_signals_that_it_names_or_to_all():
    signal = {**DROP, "trigger": "signal", "core": False}
    assert a_play(opening=["signal"], signals=["s"]).fits(name="s", **signal)
    assert not a_play(opening=["signal"], signals=["s"]).fits(name="other", **signal)
    assert a_play(opening=["signal"]).fits(name="other", **signal)


def test_potential_is_asked_of_silent_users_alone():
    play = a_play(potential=["high"])
    assert play.fits(core=False, potential="high", **DROP)
    assert not play.fits(core=False, potential="middle", **DROP)
    assert play.fits(core=False, potential="", **DROP)


def test_a_rung_may_have_a_template_of_its_own():
    play = a_play(rungs=["push", "email"], templates={"push": "short"})
    assert (play.template_of("push"), play.template_of("email")) == ("short", "t")


def test_costs_are_written_in_full():
    """Decimals in a playbook may be in scientific notation; contracts have none."""
    raw = tomllib.loads(DEFAULT)
    raw["plays"][0]["cost"] = {"contact": "1E+2", "hidden": 1e-4}
    play = parse(raw, "p").plays[0]
    assert (play.cost.contact, play.cost.hidden) == (Decimal(100), Decimal("0.0001"))
    assert f"{play.cost.contact:f}" == "100"


SETTINGS = [
    ({"currency": "pounds"}, "currency = 'pounds': currency 'pounds': a code of ISO 4217 is allowed"),
    ({"timezone": "Europe/Atlantis"}, "timezone = 'Europe/Atlantis': allowed is a name of the IANA database such as"),
    ({"partitions": 0}, "partitions = 0: Input should be greater than or equal to 1"),
    ({"horizons_days": "30,400"}, "horizons_days.1 = '400': Input should be less than or equal to 365"),
    ({"horizons_days": "30,30"}, "horizons_days = '30,30': allowed is each horizon once"),
    ({"horizons_days": ""}, "horizons_days = (): Tuple should have at least 1 item"),
    ({"example_share": 0}, "example_share = 0: Input should be greater than 0"),
    ({"live_from": "2026-01-01T00:00:00"}, "live_from = '2026-01-01T00:00:00': Input should have timezone info"),
    ({"salt": ""}, "salt: String should have at least 1 character"),
    ({"mode": "fast"}, "mode = 'fast': Input should be 'transactional' or 'plain'"),
    ({"colour": "red"}, "colour = 'red': Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("wrong", "said"), SETTINGS, ids=[next(iter(wrong)) for wrong, _ in SETTINGS])
def test_a_wrong_setting_is_named(wrong, said):
    with pytest.raises(SettingsError) as caught:
        load_settings(**wrong)
    first, line = str(caught.value).splitlines()
    assert first == "settings (RECALL_... in the environment):"
    assert line.strip().startswith(said)


def test_settings_come_from_the_environment_and_keywords_win(monkeypatch):
    monkeypatch.setenv("RECALL_CURRENCY", "GBP")
    monkeypatch.setenv("RECALL_LIVE_FROM", "2026-01-01T00:00:00Z")
    monkeypatch.setenv("RECALL_REQUIRE_HEARTBEAT", "orders,cart")
    shop = load_settings(timezone="Europe/London").shop()
    assert (shop.currency.code, shop.days.timezone, shop.require_heartbeat) == (
        "GBP",
        "Europe/London",
        ("orders", "cart"),
    )
    assert shop.live_from == datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000
    assert load_settings(currency="JPY").currency == "JPY"
    monkeypatch.setenv("RECALL_PARTITIONS", "many")
    with pytest.raises(SettingsError, match="partitions = 'many': Input should be a valid integer"):
        load_settings()
    monkeypatch.delenv("RECALL_PARTITIONS")
    monkeypatch.setenv("RECALL_REQUIRE_HEARTBEAT", "ordres")
    with pytest.raises(SettingsError, match=r"require_heartbeat.*'ordres'.*'orders'"):
        load_settings()
