"""Promise: a radius that is rounded is never more than what was proven."""

from hypothesis import given
from hypothesis import strategies as st

from spacte_client.rounding import round_down, round_up, rounded_down_text


@given(st.floats(0, 40), st.integers(0, 9))
def test_rounding_down_never_goes_up(value: float, digits: int) -> None:
    rounded = round_down(value, digits)
    assert rounded <= value < rounded + 10.0**-digits * (1 + 1e-9)
    assert round_down(rounded, digits) == rounded
    assert round_up(value, digits) >= value


def test_the_published_rounding_was_unsound() -> None:
    """.952864 was printed as .953 in published logs; rounded down it is .952."""
    assert round_down(0.952864, 3) == 0.952
    assert round_down(0.952864, 6) == 0.952864
    assert round_up(0.952864, 3) == 0.953


def test_the_text_of_a_radius_is_rounded_down_to_its_digits() -> None:
    assert rounded_down_text(0.952864, 3) == "0.952"
    assert rounded_down_text(0.3, 4) == "0.3000"
    assert rounded_down_text(0.0, 3) == "0.000"
