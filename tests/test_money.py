"""Money: whole minor units by the decimal that is written, halves to the even neighbour."""

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.recall.money import AmountError, Currency

CURRENCIES = [Currency.of(code) for code in ("GBP", "USD", "EUR", "CNY", "JPY", "KRW", "KWD", "CLF")]
currencies = st.sampled_from(CURRENCIES)


def test_exponents_are_those_of_iso_4217():
    assert [currency.exponent for currency in CURRENCIES] == [2, 2, 2, 2, 0, 0, 3, 4]


@given(currencies, st.floats(0, 1e12, exclude_max=True))
@example(CURRENCIES[0], 1.005)
@example(CURRENCIES[0], 1.015)
@example(CURRENCIES[0], 2.675)
@example(CURRENCIES[0], 999_999_999_999.995)
@example(CURRENCIES[7], 900_719_925_474.9375)
@example(CURRENCIES[4], 0.5)
@example(CURRENCIES[4], 1.5)
def test_a_float_counts_as_the_decimal_that_it_is_written_as(currency, amount):
    exact = Decimal(repr(amount)).quantize(Decimal(1).scaleb(-currency.exponent), ROUND_HALF_EVEN)
    assert currency.to_minor(amount) == int(exact.scaleb(currency.exponent))
    assert currency.to_minor(Decimal(repr(amount))) == currency.to_minor(amount)


@given(currencies, st.integers(0, 10**12 - 1))
def test_minor_units_survive_the_way_out_and_back(currency, minor):
    text = currency.to_text(minor)
    assert currency.to_minor(text) == minor
    assert currency.to_minor(Decimal(text)) == minor
    assert currency.to_minor(float(text)) == minor
    assert currency.to_text(-minor) == (f"-{text}" if minor else text)


@given(currencies, st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,5})?", fullmatch=True))
@example(CURRENCIES[0], "999999999999.99")
@example(CURRENCIES[4], "7")
def test_a_text_counts_as_the_decimal_that_it_is(currency, amount):
    assert currency.to_minor(amount) == currency.to_minor(Decimal(amount))


@pytest.mark.parametrize(
    "amount",
    [
        -1,
        -0.01,
        float("nan"),
        float("inf"),
        1e12,
        10**12,
        10**400,
        True,
        "",
        "-1",
        "1e3",
        "NaN",
        "1_0",
        " 1",
        "1\n",
        "\u0663",
        "1.\u0663\u0663",
        "\u0663.00",
        "1.-1",
        "+1.00",
        "1.0\n",
        ".50",
        "1.",
        "1_0.00",
        "1234567890123.00",
    ],
)
def test_what_is_no_amount_is_refused(amount):
    with pytest.raises(AmountError, match="price: a finite number"):
        CURRENCIES[0].to_minor(amount, "price")


@pytest.mark.parametrize("amount", ["-1", "NaN", "sNaN", "Infinity", "1e12"])
def test_what_is_no_amount_is_refused_as_a_decimal_too(amount):
    with pytest.raises(AmountError):
        CURRENCIES[0].to_minor(Decimal(amount))


@pytest.mark.parametrize("code", ["", "gbp", "GBPX", "GB", "GBP\n", "£"])
def test_what_is_no_code_is_refused(code):
    with pytest.raises(ValueError, match="three capital letters"):
        Currency.of(code)
