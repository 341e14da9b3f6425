from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.config.status import parse_status
from instar.config.units import format_duration, format_size, parse_duration, parse_share, parse_size


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(3, 3), (0.5, 0.5), ("30", 30), ("250ms", 0.25), ("10m", 600), ("1h30m", 5400), ("1h 30m", 5400), ("2D", 172800)],
)
def test_duration(value: object, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "m", "10 parsecs", "-3s", "10m!", True, None, [], math.inf, math.nan])
def test_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="must be a number of seconds"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), ("", 0), (10, 10), ("10", 10), ("1K", 1024), ("300M", 300 << 20), ("1.5G", 3 << 29), ("2GiB", 2 << 30)],
)
def test_size(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["big", "10Q", "-1M", True, 1.5, None])
def test_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="must be a number of bytes"):
        parse_size(value)


@given(st.integers(0, 1 << 50))
def test_a_shown_size_reads_back(count: int) -> None:
    assert parse_size(format_size(count)) == count


@given(st.integers(0, 10**7))
def test_a_shown_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_share() -> None:
    assert parse_share("10%") == pytest.approx(0.1)
    assert parse_share("2.5 %") == pytest.approx(0.025)
    assert parse_share(0.5) == 0.5
    for wrong in ("10", "%", True, None):
        with pytest.raises(ValueError, match="must be a share"):
            parse_share(wrong)


def test_status_ranges() -> None:
    status = parse_status([200, "301-302", "404, 410"])
    assert [code for code in range(100, 600) if code in status] == [200, 301, 302, 404, 410]
    assert str(status) == "200, 301-302, 404, 410"
    assert parse_status(str(status)) == status
    assert 399 in parse_status("200-399")
    assert 400 not in parse_status("200-399")
    assert 200 in parse_status(200)


@pytest.mark.parametrize("value", ["2xx", "", [], True, 99, 600, "300-200", None, [None]])
def test_no_status(value: object) -> None:
    with pytest.raises(ValueError, match="must be status codes"):
        parse_status(value)
