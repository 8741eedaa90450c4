"""The playbook and the settings: what is refused, and that the message names field, value and what is allowed."""

import tomllib
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from customers import make_shop, playbook

from worker.recall.money import Currency
from worker.recall.playbook import PlaybookError, load, parse
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
    path = tmp_path / "playbook.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PlaybookError) as caught:
        load(path)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"playbook {path}:")
    return "\n".join(lines).strip() or first.removeprefix(f"playbook {path}: ")


WRONG = [
    ("silence_days = 60", "silence_days = 0", "tiers.silence_days = 0: Input should be greater than or equal to 1"),
    (
        "silence_days = 60",
        'silence_days = "soon"',
        "tiers.silence_days = 'soon': Input should be a valid integer, unable to parse string as an integer",
    ),
    ("hold_days = 7", "hold_day = 7", "tiers.hold_day = 7: Extra inputs are not permitted"),
    ("r = 4, f = 4, m = 4", "r = 6, f = 4, m = 4", "tiers.high.r = 6: Input should be less than or equal to 5"),
    (
        "[21, 45, 90, 180]",
        "[21, 45, 45, 180]",
        "rfm.r_days: allowed are four bounds in rising order",
    ),
    (
        "[21, 45, 90, 180]",
        "[21, 45, 90]",
        "rfm.r_days = [21, 45, 90]: List should have at least 4 items after validation, not 3",
    ),
    ('["50", "150"', '["-50", "150"', "rfm.m.0 = '-50': Input should be greater than or equal to 0"),
    ("share = 0.1", "share = 0.6", "holdout.share = 0.6: Input should be less than or equal to 0.5"),
    ('unknown = "deny"', 'unknown = "maybe"', "consent.unknown = 'maybe': Input should be 'allow' or 'deny'"),
    ("{ email = {", "{ fax = {", "caps.channel.fax.[key] = 'fax': Input should be 'in_app', 'push', 'email', "),
    (
        'name = "care-letter"',
        'name = "memory-email"',
        "playbook: name = 'memory-email': stands 2 times; allowed is once",
    ),
    ('name = "default"', 'name = "My Book"', "name = 'My Book': String should match pattern "),
    ('audience = "core"', 'audience = "vip"', "plays.0.audience = 'vip': Input should be 'all' or 'core'"),
    ('hidden = "0.20"', 'hidden = "a lot"', "plays.0.cost.hidden = 'a lot': Input should be a valid decimal"),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG, ids=[new for _, new, _ in WRONG])
def test_a_mistake_is_named_by_field_value_and_what_is_allowed(tmp_path, old, new, said):
    assert error_of(tmp_path, changed(old, new)).startswith(said)


def test_every_mistake_is_named_at_once(tmp_path):
    said = error_of(tmp_path, changed("hold_days = 7", "hold_days = -1").replace("share = 0.1", "share = -1"))
    assert [line.split(" = ")[0].strip() for line in said.splitlines()] == ["tiers.hold_days", "holdout.share"]


def test_what_is_no_playbook_at_all(tmp_path):
    assert error_of(tmp_path, "name = ").startswith("is not TOML: ")
    assert error_of(tmp_path, b"\xff").startswith("is not TOML: ")
    assert "plays: Field required" in error_of(tmp_path, 'name = "p"')
    with pytest.raises(PlaybookError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")


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


def test_plays_fit_by_audience_and_tiers():
    care, memory = playbook().plays
    drop = {"trigger": "tier_drop", "origin": Tier.HIGH, "target": Tier.POTENTIAL, "tier": Tier.POTENTIAL}
    assert care.fits(core=True, **drop)
    assert not care.fits(core=False, **drop)
    assert memory.fits(core=False, **drop)
    assert not memory.fits(core=False, **{**drop, "target": Tier.NEW})
    assert not memory.fits(core=False, **{**drop, "trigger": "risk"})


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
