"""The score that a detail reaches by chance."""

import math

import pytest

from artmodels.methods.artminer.chance import LEAST, chance_level


def test_the_level_is_above_the_second_places_by_their_deviation() -> None:
    scores = [[0.9, 0.1], [0.8, 0.12, 0.11], [0.2, 0.14], [0.15, 0.13], [0.5, 0.2], [0.7]]
    # Median 0.13, median absolute deviation 0.01, of five; and 15 % of the median, of ten.
    assert chance_level(scores) == pytest.approx(0.13 + 6 * (5 * 0.014826 + 10 * 0.15 * 0.13) / 15)


def test_what_is_like_everything_has_a_higher_level() -> None:
    rare, common = ([[level + 0.03, level - 0.01 * (number % 3)] for number in range(9)] for level in (0.1, 0.3))
    wide = [[0.2, 0.1 - 0.03 * (number % 3)] for number in range(9)]
    assert chance_level(rare) < 0.22 and chance_level(common) > 0.46 and chance_level(wide) > chance_level(rare)


def test_a_collection_in_which_all_pictures_show_the_detail_does_not_raise_it() -> None:
    places = [0.12, 0.11, 0.13, 0.12, 0.1, 0.12]
    assert chance_level([[0.8, place] for place in places]) == chance_level([[0.15, place] for place in places])


def test_few_pictures_say_nothing() -> None:
    assert chance_level([[0.5, 0.4]] * (LEAST - 1) + [[0.3], []]) == -math.inf
    assert chance_level([[0.5, 0.4]] * LEAST) > 0
