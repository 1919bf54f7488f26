"""Which input pixels the values along one dimension see.

Strides, interpolation and transposed convolution make neighbouring values see differently many
pixels. A span therefore keeps the first and the last pixel of every value of one period; the
arithmetic on it is exact, and its size is the largest over all values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

# a period above this is rounded up to a span without phases: it only arises where a network resizes
# by ratios such as 37:64
_LONGEST_PERIOD = 512
# levels further apart than this are not looked for behind sizes that were rounded
_LONGEST_DOWN = 129

Number = int | float | Fraction


@dataclass(frozen=True)
class Span:
    """What the values along one dimension see, far from the borders.

    Value ``i`` of period ``p = len(low)`` sees the pixels from ``low[i % p] + (i // p) * advance``
    to ``high[i % p] + (i // p) * advance``. A value that sees nothing has an infinite ``low`` and a
    ``high`` of minus infinity.

    Attributes:
        low: First pixel of each value of one period.
        high: Last pixel.
        advance: Pixels from one period to the next.
    """

    low: tuple[Number, ...]
    high: tuple[Number, ...]
    advance: Number

    @property
    def size(self) -> float:
        """Pixels that the value sees that sees most; infinite: the whole image; nan: not known."""
        return max(
            math.nan if math.isnan(b) else float(b - a) + 1
            for a, b in zip(self.low, self.high, strict=True)
        )

    @property
    def jump(self) -> float:
        """Pixels between two neighbouring values."""
        return float(self.advance) / len(self.low)

    @property
    def is_finite(self) -> bool:
        """Whether it is neither the whole image nor unknown."""
        return math.isfinite(self.size) or self.size == -math.inf

    def at(self, i: int) -> tuple[Number, Number]:
        """First and last pixel that value ``i`` sees."""
        turns, phase = divmod(i, len(self.low))
        return self.low[phase] + turns * self.advance, self.high[phase] + turns * self.advance


PIXEL = Span((0,), (0,), 1)
WHOLE = Span((-math.inf,), (math.inf,), 0)
UNKNOWN = Span((math.nan,), (math.nan,), 0)


def box(size: Number, jump: Number) -> Span:
    """A span without phases."""
    return Span((0,), (size - 1,), jump)


def join(spans: Sequence[Span]) -> Span:
    """What a value sees that reads the values at its place of several tensors."""
    if len(spans) == 1:
        return spans[0]
    for special in (WHOLE, UNKNOWN):
        if any(span is special for span in spans):
            return special
    rates = {Fraction(span.advance) / len(span.low) for span in spans}
    period = math.lcm(*(len(span.low) for span in spans))
    if len(rates) > 1:  # cropped or padded by hand so that their places no longer correspond
        plain = [_without_phases(span) for span in spans]
        widest = max(plain, key=lambda span: span.size)
        return Span(widest.low, widest.high, max(span.advance for span in plain))
    if period > _LONGEST_PERIOD:
        return join([_without_phases(span) for span in spans])
    seen = [_union(span.at(i) for span in spans) for i in range(period)]
    return _span(seen, spans[0].advance * (period // len(spans[0].low)))


def read(span: Span, step: Fraction, reads: Callable[[int], Iterable[int]]) -> Span:
    """What a value sees that reads several values of another tensor.

    Args:
        span: Of the tensor that is read.
        step: Values of that tensor for each value of the result.
        reads: The values that value ``i`` of the result reads. Periodic: value ``i + n`` reads
            ``n * step`` further, where that is whole.
    """
    if not span.is_finite:
        return span
    period = len(span.low)
    turns = period // math.gcd(period, step.numerator)
    length = step.denominator * turns
    if length > _LONGEST_PERIOD:
        if period > 1:
            return read(_without_phases(span), step, reads)
        return _slanted(span, step, reads)
    seen = [_union(span.at(j) for j in reads(i)) for i in range(length)]
    return _span(seen, span.advance * (step.numerator * turns // period))


def window(span: Span, kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> Span:
    """Slide a window over the values."""
    return read(
        span,
        Fraction(stride),
        lambda i: (i * stride - padding + j * dilation for j in range(kernel)),
    )


def spread(span: Span, kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> Span:
    """Add a window of the result for every value: a transposed convolution."""

    def reads(i: int) -> Iterable[int]:
        for j in range(kernel):
            source, rest = divmod(i + padding - j * dilation, stride)
            if rest == 0:
                yield source

    return read(span, Fraction(1, stride), reads)


def repeated(span: Span, times: int) -> Span:
    """Give every value several times: nearest upsampling by a whole number."""
    return read(span, Fraction(1, times), lambda i: (i // times,))


@dataclass(frozen=True)
class Resizing:
    """How the values along one dimension are resized.

    Attributes:
        ratio: Values before / values after; where sizes were rounded on their way down, as it
            would be without that.
        drift: 0 where that is the very ratio of the sizes; else of the sign by which the places
            that are read drift off, small beside the distance of any two places.
    """

    ratio: Fraction
    drift: Fraction = Fraction(0)

    @classmethod
    def of(cls, span: Span, before: int, after: int) -> Resizing:
        """From one size to another of a tensor that has such a span."""
        exact = Fraction(before, after)
        for tolerance in (1, 2):  # poolings round by less than one value, unpadded kernels by two
            for below in range(1, min(exact.denominator, _LONGEST_DOWN)):
                simple = Fraction(round(exact * below), below)
                near = abs(before - simple * after) < tolerance * max(Fraction(1), simple)
                if simple and near and _is_plain(Fraction(span.advance) * simple / len(span.low)):
                    return cls(simple, Fraction(1 if exact > simple else -1, 1_000))
        return cls(exact)

    def place(self, i: int) -> Fraction:
        """Where value ``i`` lies among the values before, with centres at half a position."""
        half = Fraction(1, 2)
        return (i + half) * self.ratio - half + self.drift


def interpolated(span: Span, before: int, after: int) -> Span:
    """Interpolate linearly from one size to another."""
    if before == after or not span.is_finite:
        return span
    resizing = Resizing.of(span, before, after)

    def reads(i: int) -> Iterable[int]:
        place = resizing.place(i)
        first = math.floor(place)
        return (first,) if place == first else (first, first + 1)

    return read(span, resizing.ratio, reads)


def _is_plain(jump: Fraction) -> bool:
    """Whether values lie a whole number of pixels apart, or a whole number of them in a pixel."""
    return jump.denominator == 1 or jump.numerator == 1


def shifted(span: Span, by: int) -> Span:
    """Value ``i`` of the result is value ``i + by``."""
    return read(span, Fraction(1), lambda i: (i + by,))


def _union(seen: Iterable[tuple[Number, Number]]) -> tuple[Number, Number]:
    low: Number = math.inf
    high: Number = -math.inf
    for first, last in seen:
        low, high = min(low, first), max(high, last)
    return low, high


def _span(seen: Sequence[tuple[Number, Number]], advance: Number) -> Span:
    """A span with the shortest period that shows the same."""
    period = len(seen)
    for shorter in range(1, period):
        turns = period // shorter
        if period % shorter or advance % turns:
            continue
        part = advance // turns
        if all(
            seen[i + shorter] == (seen[i][0] + part, seen[i][1] + part)
            for i in range(period - shorter)
        ):
            seen, advance = seen[:shorter], part
            break
    return Span(tuple(low for low, _ in seen), tuple(high for _, high in seen), advance)


def _without_phases(span: Span) -> Span:
    """A span of period one that covers another."""
    period = len(span.low)
    jump = Fraction(span.advance) / period
    offsets = [i * jump for i in range(period)]
    lows = [low - o for low, o in zip(span.low, offsets, strict=True) if math.isfinite(low)]
    highs = [high - o for high, o in zip(span.high, offsets, strict=True) if math.isfinite(high)]
    return Span((min(lows),), (max(highs),), jump)


def _slanted(span: Span, step: Fraction, reads: Callable[[int], Iterable[int]]) -> Span:
    """As ``read`` for a period of one, where the result's own period is too long to keep."""
    reach = [
        [j - i * step for j in reads(i)] for i in range(min(step.denominator, _LONGEST_PERIOD))
    ]
    jump = Fraction(span.advance)
    low = span.low[0] + jump * math.floor(min(min(r) for r in reach if r))
    high = span.high[0] + jump * math.ceil(max(max(r) for r in reach if r))
    return Span((low,), (high,), jump * step)
