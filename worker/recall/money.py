"""Money: whole minor units inside, decimal strings with a currency outside.

What touches cost is counted in micros, millionths of the major unit: a push costs less than a cent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal

from schemas.values import AMOUNT_LIMIT, CURRENCY_PATTERN, DECIMAL_PATTERN

_DECIMAL = re.compile(DECIMAL_PATTERN)
_CODE = re.compile(CURRENCY_PATTERN)
MICRO_DIGITS = 6
_MAJOR_DIGITS = len(str(AMOUNT_LIMIT - 1))
_ISO_4217_OTHERS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
"""The currencies whose minor unit is not a hundredth, by the exponent of theirs."""
_EXPONENTS = {code: exponent for exponent, codes in _ISO_4217_OTHERS.items() for code in codes.split()}


class AmountError(ValueError):
    """An amount that is negative, not finite, too great, or no number."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: a finite number or decimal, from 0 to below {AMOUNT_LIMIT}, is allowed")


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency and its minor unit, 10 to the power of minus `exponent` of the major one.

    >>> Currency.of("GBP"), Currency.of("JPY")
    (Currency(code='GBP', exponent=2), Currency(code='JPY', exponent=0))
    >>> Currency.of("pounds")
    Traceback (most recent call last):
        ...
    ValueError: currency 'pounds': a code of ISO 4217 is allowed, three capital letters such as GBP
    """

    code: str
    exponent: int
    _scale: float = field(init=False, repr=False, compare=False)
    _fast_below: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_scale", 10.0**self.exponent)
        # A product below 2**50 is off by an eighth at most.
        object.__setattr__(self, "_fast_below", min(float(AMOUNT_LIMIT), 2.0**50 / self._scale))

    @classmethod
    def of(cls, code: str) -> Currency:
        """Return the currency of an ISO 4217 code."""
        if not _CODE.fullmatch(code):
            raise ValueError(f"currency {code!r}: a code of ISO 4217 is allowed, three capital letters such as GBP")
        return cls(code, _EXPONENTS.get(code, 2))

    def to_minor(self, amount: Decimal | float | str, name: str = "amount") -> int:
        """Return an amount in minor units; a half of one goes to the even neighbour.

        A float stands for the decimal that it is written as. `name` is what an error speaks of.

        >>> pounds = Currency.of("GBP")
        >>> pounds.to_minor(19.990000000000002), pounds.to_minor("12.345"), pounds.to_minor(1.015), pounds.to_minor(7)
        (1999, 1234, 102, 700)
        >>> pounds.to_minor(float("nan"), "price")
        Traceback (most recent call last):
            ...
        worker.recall.money.AmountError: price: a finite number or decimal, from 0 to below 1000000000000, is allowed
        """
        if type(amount) is float and 0.0 <= amount < self._fast_below:
            scaled = amount * self._scale
            minor = round(scaled)
            # Away from a half that does not matter; near one the decimal has to tell.
            if -0.25 < scaled - minor < 0.25:  # noqa: PLR2004 - with the eighth still below a half
                return minor
        if type(amount) is str:
            # Most are written to the minor unit, no further.
            major, _, rest = amount.partition(".")
            if len(rest) == self.exponent and len(major) <= _MAJOR_DIGITS:
                digits = major + rest
                if major and rest and digits.isdecimal() and digits.isascii():
                    return int(digits)
        return int(exact(amount, name).scaleb(self.exponent).to_integral_value(ROUND_HALF_EVEN))

    def signed_minor(self, amount: str) -> int:
        """Return a decimal, which may be negative, in minor units; a half of one goes to the even neighbour.

        >>> Currency.of("GBP").signed_minor("-0.125"), Currency.of("JPY").signed_minor("12")
        (-12, 12)
        """
        return int(Decimal(amount).scaleb(self.exponent).to_integral_value(ROUND_HALF_EVEN))

    def to_text(self, minor: int) -> str:
        """Return minor units, negative ones too, as a decimal string.

        >>> Currency.of("GBP").to_text(-5), Currency.of("JPY").to_text(1200), Currency.of("KWD").to_text(1)
        ('-0.05', '1200', '0.001')
        """
        if not self.exponent:
            return str(minor)
        major, rest = divmod(abs(minor), 10**self.exponent)
        return f"{'-' if minor < 0 else ''}{major}.{rest:0{self.exponent}}"

    def micros_of_minor(self, minor: int) -> int:
        """Return minor units as micros.

        >>> Currency.of("GBP").micros_of_minor(5), Currency.of("JPY").micros_of_minor(1)
        (50000, 1000000)
        """
        per_minor: int = 10 ** (MICRO_DIGITS - self.exponent)
        return minor * per_minor


def micros(amount: Decimal | float | str, name: str = "amount") -> int:
    """Return an amount of major units in micros; a half of one goes to the even neighbour.

    >>> micros("0.05"), micros(Decimal("0.0000025")), micros(20)
    (50000, 2, 20000000)
    """
    return int(exact(amount, name).scaleb(MICRO_DIGITS).to_integral_value(ROUND_HALF_EVEN))


def micros_text(amount: int) -> str:
    """Return micros, negative ones too, as a decimal string of major units, no longer than it must be.

    >>> micros_text(50_000), micros_text(-20_000_000), micros_text(1), micros_text(0)
    ('0.05', '-20', '0.000001', '0')
    """
    major, rest = divmod(abs(amount), 10**MICRO_DIGITS)
    decimals = f".{rest:0{MICRO_DIGITS}}".rstrip("0") if rest else ""
    return f"{'-' if amount < 0 else ''}{major}{decimals}"


def exact(amount: Decimal | float | str, name: str = "amount") -> Decimal:
    """Return an amount in major units, as it is written.

    >>> exact(30.3) - (exact("10.1") + exact(20.2))
    Decimal('0.0')
    """
    if isinstance(amount, str):
        if not _DECIMAL.fullmatch(amount):
            raise AmountError(name)
        return Decimal(amount)
    if isinstance(amount, bool):
        raise AmountError(name)
    value = amount if isinstance(amount, Decimal) else Decimal(repr(amount))
    if not value.is_finite() or not 0 <= value < AMOUNT_LIMIT:
        raise AmountError(name)
    return value
