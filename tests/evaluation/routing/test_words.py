import numpy as np
import pytest

from bksdm.evaluation.routing.words import SMOOTHING, word_lifts, words_of

TEXTS = ["A cat, a cat!", "the dog's bone", "cat and dog", "unread"]
ROUTES, COUNTS = np.array([0, 1, 1, -1]), np.array([30, 20, 10, 99])


def test_words_are_letters_with_what_joins_them() -> None:
    assert words_of("A CAT's bow-tie, 3 cats_2 naïve - 'x'") == {
        "a", "cat's", "bow-tie", "cats", "naïve", "x",
    }  # fmt: skip


def test_lifts_are_those_counted_by_hand() -> None:
    first, second, third = word_lifts(TEXTS, ROUTES, COUNTS, experts=3, least=15)
    # Of 60 prompts 30 are expert 0's. Cat: 30 + 10, all of the 30 are there; a: 30, all there.
    lifts = {each.word: each.lift for each in (*first.most, *first.fewest)}
    assert lifts == pytest.approx(
        {
            "a": (30 + SMOOTHING) / (15 + SMOOTHING),
            "cat": (30 + SMOOTHING) / (20 + SMOOTHING),
            "the": SMOOTHING / (10 + SMOOTHING),
            "bone": SMOOTHING / (10 + SMOOTHING),
            "dog's": SMOOTHING / (10 + SMOOTHING),
        }
    )
    assert [each.word for each in first.most] == ["a", "cat"]
    assert [each.share for each in first.most] == [1, 1]
    assert [each.word for each in second.most] == ["bone", "dog's", "the"]
    assert second.fewest[0].word == "a"
    assert second.fewest[1].share == pytest.approx(10 / 30)
    assert third.most == third.fewest == ()  # no prompts


def test_rare_words_and_those_beyond_the_top_are_left_out() -> None:
    [words, _] = word_lifts(TEXTS, ROUTES, COUNTS, experts=2, least=40, top=1)
    assert [each.word for each in words.most] == ["cat"]
    [words, _] = word_lifts(TEXTS, ROUTES, COUNTS, experts=2, least=15, top=1)
    assert [each.word for each in words.most] == ["a"]
    assert len(words.fewest) == 1
