"""Pure. Values as numbers: INCR, INCRBYFLOAT and their relatives.

INCRBYFLOAT computes in C's `long double` of 80 bits, as Redis does on x86: otherwise `INCRBYFLOAT k 0.1` on 3.0
would not reply 3.1 but what is left of that in 64 bits. Python has no such type, so numbers are rational here, and
rounded to its 64 bits of mantissa.
"""

from __future__ import annotations

import re
from decimal import Decimal, localcontext
from fractions import Fraction

from milena_cache.servers.resp.decisions.values import Values
from milena_common.resp.redis_replies import CommandError, integer

_MAX, _MIN = 2**63 - 1, -(2**63)
_MANTISSA = 64
# Of the long double of x86: from its greatest exponent on a number is infinite, and below its least one it is 0.
_MAX_EXPONENT, _MIN_EXPONENT = 16384, -16445
# Redis's buffer for the text of a number.
_MAX_TEXT = 5 * 1024
# Digits behind the point in the reply.
_DIGITS = 17

_DECIMAL = re.compile(rb"([+-]?)(?=\d|\.\d)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,9}))?")
_HEXADECIMAL = re.compile(
    rb"([+-]?)0[xX](?=[\da-fA-F]|\.[\da-fA-F])([\da-fA-F]*)(?:\.([\da-fA-F]*))?(?:[pP]([+-]?\d{1,9}))?"
)
_INFINITY = re.compile(rb"[+-]?inf(inity)?", re.IGNORECASE)
_NO_FLOAT = "ERR value is not a valid float"


def _increment(values: Values, key: bytes, by: int) -> int:
    data = values.value_of(key)
    number = (integer(data) if data is not None else 0) + by
    if not _MIN <= number <= _MAX:
        raise CommandError("ERR increment or decrement would overflow")
    values.update(key, b"%d" % number)
    return number


def incr(values: Values, argv: list[bytes]) -> int:
    return _increment(values, argv[1], 1)


def decr(values: Values, argv: list[bytes]) -> int:
    return _increment(values, argv[1], -1)


def incrby(values: Values, argv: list[bytes]) -> int:
    return _increment(values, argv[1], integer(argv[2]))


def decrby(values: Values, argv: list[bytes]) -> int:
    by = integer(argv[2])
    if by == _MIN:
        raise CommandError("ERR decrement would overflow")
    return _increment(values, argv[1], -by)


def incrbyfloat(values: Values, argv: list[bytes]) -> bytes:
    data = values.value_of(argv[1])
    number, by = _parse(data) if data is not None else Fraction(0), _parse(argv[2])
    total = None if number is None or by is None else _rounded(number + by)
    if total is None:
        raise CommandError("ERR increment would produce NaN or Infinity")
    text = _text(total)
    values.update(argv[1], text)
    return text


def _parse(word: bytes) -> Fraction | None:
    """Return a number as `strtold` reads it, None for an infinite one. Raises CommandError."""
    error = CommandError(_NO_FLOAT)
    if len(word) >= _MAX_TEXT:
        raise error
    if _INFINITY.fullmatch(word):
        return None
    if (match := _DECIMAL.fullmatch(word)) is not None:
        sign, whole, behind, exponent = match.groups()
        behind = behind or b""
        digits = (whole + behind).lstrip(b"0")
        power = int(exponent or 0) - len(behind)
        if digits and not -6000 < power + len(digits) < 6000:
            raise error
        # Through Decimal, which has no limit of digits, unlike `int`.
        mantissa = int(Decimal(digits.decode() or "0"))
        number = Fraction(mantissa * 10**power) if power >= 0 else Fraction(mantissa, 10**-power)
    elif (match := _HEXADECIMAL.fullmatch(word)) is not None:
        sign, whole, behind, exponent = match.groups()
        behind = behind or b""
        mantissa = int(whole + behind, 16)
        power = int(exponent or 0) - 4 * len(behind)
        if mantissa and not -20000 < power + mantissa.bit_length() < 20000:
            raise error
        number = Fraction(mantissa * 2**power) if power >= 0 else Fraction(mantissa, 2**-power)
    else:
        raise error
    rounded = _rounded(number)
    if rounded is None or (number and not rounded):
        raise error  # too great, or too small to be told from 0
    return -rounded if sign == b"-" else rounded


def _rounded(number: Fraction) -> Fraction | None:
    """Return the nearest number of `long double`, of two equally near ones the even; None if it is too great."""
    if not number:
        return number
    exponent = abs(number.numerator).bit_length() - number.denominator.bit_length()
    if abs(number) < _power(exponent):
        exponent -= 1
    # Of 2**exponent <= abs(number) < 2**(exponent + 1), the weight of the last bit.
    unit = _power(max(exponent - _MANTISSA + 1, _MIN_EXPONENT))
    rounded = round(number / unit) * unit
    return None if abs(rounded) >= _power(_MAX_EXPONENT) else rounded


def _power(exponent: int) -> Fraction:
    return Fraction(2**exponent) if exponent >= 0 else Fraction(1, 2**-exponent)


def _text(number: Fraction) -> bytes:
    """Return a number with at most _DIGITS digits behind the point, and none that it does not need."""
    scaled = round(abs(number) * 10**_DIGITS)
    with localcontext() as context:
        context.prec = _MAX_TEXT
        text = format(Decimal(scaled).scaleb(-_DIGITS), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return (f"-{text}" if number < 0 and text != "0" else text).encode()
