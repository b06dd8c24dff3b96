import pytest

from capt_core.errors import reason, shown


def test_a_value_is_quoted_on_one_line_of_at_most_a_hundred_characters() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert shown("x" * 1000) == "'" + "x" * 96 + "..."


def test_values_that_cannot_be_written_out_are_named_by_their_type() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(10**5000) == "a int too large to show"
    assert shown(nested) == "[[[[[[[...]]]]]]]"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no\n  such thing"), "no such thing"),
        (EOFError(), "EOFError"),
        (OSError("y" * 500), "y" * 157 + "..."),
    ],
)
def test_the_reason_of_an_error_is_one_short_line(error: Exception, said: str) -> None:
    assert reason(error) == said
