"""Each pure function on evidence whose answer is known: it fires, and it does not."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from besiege.checks.catalog import CHECKS
from besiege.checks.finding import NOTE, STOP, WARN, from_record
from besiege.checks.gradients import (
    Agreement,
    Differences,
    Displacement,
    Graph,
    Lead,
    Modes,
    Outputs,
    Ranks,
    Saturation,
    Slopes,
)
from besiege.checks.needs import DOCTORS
from besiege.checks.opponents import Nearer, Planted
from besiege.checks.optimisation import (
    Asked,
    Curves,
    Duel,
    Iterates,
    Radii,
    Sweep,
    Unbounded,
)
from besiege.checks.pair import Pair
from besiege.checks.protocol import (
    Budget,
    Certified,
    Chosen,
    Claims,
    Clean,
    Inside,
    Pixels,
    Saved,
    Scores,
    Sizes,
    Tuned,
)
from besiege.checks.randomness import (
    Answers,
    Control,
    Coupling,
    Elsewhere,
    Luck,
    Luckiest,
    Repeats,
    Silence,
    Split,
    Streams,
    Unkeyed,
    best_of,
)
from besiege.core.comparisons import paired
from besiege.core.power import images_for
from besiege.core.stats import wilson

N = 100
ONES, ZEROS = np.ones(N), np.zeros(N)
HALF = np.repeat([0.0, 1.0], N // 2)
COIN = (np.arange(N)[:, None] * 7 + np.arange(20) * 3) % 10 < 8  # right on 16 of 20 draws
RISING = np.tile(np.arange(20.0), (N, 1))
FLAT = np.tile(np.minimum(np.arange(20.0), 5), (N, 1))


def share(p):
    return (np.arange(N) < round(p * N)).astype(float)


def proved(size, predicted, answer=0):
    """An image in 20, judged at this size where 1 is certified; the others are left alone."""
    rows = np.array([predicted] + [[answer] * len(predicted)] * 19)
    sizes = np.where(np.arange(20) == 0, size, 0.0)
    return Certified(np.ones(20), np.full(20, answer), sizes, rows, alpha=1e-5)


# number, what it must name, what it must pass
CASES = [
    (1, Slopes(np.where(share(0.05), 0.0, 1.0)), Slopes(np.where(share(0.01), 0.0, 1.0))),
    (1, Slopes(np.where(share(0.05), np.nan, 1.0)), Slopes(ONES * 1e-30)),
    (2, Graph(("fd", "rdg"), (False, True)), Graph(("fd", "rdg"), (True, True))),
    (3, Differences(HALF - 0.5, 0.5 - HALF), Differences(HALF - 0.5, 1.1 * (HALF - 0.5))),
    (3, Differences((HALF - 0.5) / 4, HALF - 0.5), Differences(ZEROS, ZEROS)),
    (4, Agreement(0.1 * ONES, 8), Agreement(0.3 * ONES, 8)),
    (5, Saturation(np.where(share(0.1), 1e-9, 1), ONES), Saturation(2e-8 * ONES, ONES)),
    (5, Saturation(ZEROS, ONES), Saturation(ZEROS, np.inf * ONES)),
    (6, Ranks(2 * share(0.1)[:, None]), Ranks(2 * share(0.01)[:, None])),
    (6, Ranks(np.tile([2, 0, 0, 0], (N, 1))), Ranks(np.tile([3, 0, 1, 0], (N, 1)))),
    (
        7,
        Lead("identity", (0.5, 0.6), (0.4, 0.5), (0, 0)),
        Lead("x", (0.5, 0.9), (0.4, 0.8), (0, 1)),
    ),
    (8, Displacement("identity", (2, 2), 0.9, 0.1), Displacement("identity", (0, 0), 0.9, 0.9)),
    (8, Displacement("identity", (0, 1), 0.6, 0.3), Displacement("identity", (9, 9), 0.1, 0.0)),
    (9, Outputs(np.tile([0.7, 0.2, 0.1], (4, 1))), Outputs(np.array([[0.7, 0.3], [2.0, -1.0]]))),
    (10, Modes(("bn",)), Modes(())),
    (10, Modes((), ("bn.running_mean",)), Modes(())),
    (11, Curves(RISING, ONES > 0), Curves(FLAT, ONES > 0)),
    (11, Curves(RISING[:, :3], ONES > 0), Curves(RISING, ZEROS > 0)),
    (12, Iterates(HALF[:, None], 1, ZEROS, 1), Iterates(HALF[:, None], 1, HALF, 1)),
    (
        12,
        Iterates(np.tile(HALF[:, None], 3), 20, ZEROS, 20),
        Iterates(COIN * 1.0, 1, 0.8 * ONES, 20),
    ),
    (13, Unbounded(share(0.02), 10), Unbounded(0.4 * ONES, 10)),
    (
        14,
        Radii(np.array([1, 2]), np.stack([share(0.3), share(0.6)])),
        Radii(np.array([1, 2]), np.stack([share(0.6), share(0.3)])),
    ),
    (15, Pair(ONES, HALF, factor=10), Pair(HALF, HALF, factor=10)),
    (16, Pair(share(0.52), share(0.5)), Pair(share(0.51), share(0.5))),
    (16, Pair(ONES, HALF, random=True), Pair(share(0.52), share(0.5), random=True)),
    (
        17,
        Sweep(np.array([1, 2, 3]), np.stack([ONES, HALF, ZEROS])),
        Sweep(np.array([1, 2, 3]), np.stack([ONES, ZEROS, HALF])),
    ),
    (18, Duel(-ONES, -HALF), Duel(HALF + 1, -ONES)),
    (18, Duel(-ONES, -ONES), Duel(ONES, ONES)),
    (19, Pair(ZEROS, HALF), Pair(HALF, ZEROS)),
    (20, Pair(share(0.5), share(0.46)), Pair(share(0.5), share(0.47))),
    (21, Asked(np.ones((4, 5)), np.ones((4, 5))), Asked(0.3 * np.ones((4, 5)), np.ones((4, 5)))),
    (22, Pair(share(0.5), share(0.49)), Pair(share(0.49), share(0.5))),
    (23, Pair(share(0.5), share(0.49)), Pair(share(0.49), share(0.5))),
    (24, Nearer(ONES, share(0.01)), Nearer(HALF, 1 - HALF)),
    (25, Pair(share(0.5), share(0.4)), Pair(share(0.5), share(0.48))),
    (26, Pair(share(0.5), share(0.49)), Pair(HALF, HALF)),
    (27, Planted(share(0.9), ZEROS), Planted(share(0.99), share(0.2))),
    (27, Planted(ONES, ONES), Planted(ONES, HALF)),
    (28, Control(share(0.575), share(0.834)), Control(share(0.83), share(0.834))),
    (29, Answers(COIN[:, :4]), Answers(ONES[:, None] > 0)),
    (29, Answers(COIN[:, :9]), Answers(COIN)),
    (30, Luck(ZEROS, ONES), Luck(HALF, HALF)),
    (30, Luck(share(0.2), share(0.4)), Luck(share(0.37), share(0.4))),
    (31, Split(ONES, HALF, ("1 x 8", "8 x 1")), Split(share(0.5), share(0.48), ("a", "b"))),
    (32, Repeats(1, 8), Repeats(8, 8)),
    (32, Streams(np.array([1, 2]), np.array([2, 3])), Streams(np.array([1]), np.array([3]))),
    (32, Elsewhere(ZEROS, ONES), Elsewhere(HALF, HALF)),
    (32, Unkeyed("mine", True, False), Unkeyed("mine", False, True)),
    (33, Coupling(np.array([0, 0.01]), ONES[:2]), Coupling(np.array([1e-6, 1e-5]), ONES[:2])),
    (
        33,
        Coupling(np.array([0.01]), np.array([10.0])),
        Coupling(np.array([1e-3]), np.array([100.0])),
    ),
    (34, Luckiest(COIN), Luckiest(ONES[:, None])),
    (34, Luckiest(COIN, COIN), Luckiest(COIN[:, :1], COIN)),
    (34, Luckiest(COIN | True, COIN[:, :5]), None),
    (35, Silence(HALF, share(0.1)), Silence(HALF, ZEROS)),
    (36, Sizes(np.array([0.031, 0.04]), 8 / 255), Sizes(np.array([8 / 255 + 3e-8]), 8 / 255)),
    (36, Sizes(ZEROS, 1, low=-ONES), Sizes(ZEROS, 1, low=ZEROS, high=ONES)),
    (36, Sizes(ZEROS, 1, refused=HALF > 0), Sizes(ZEROS, 1, refused=HALF > 2)),
    (37, Pixels(-ONES, ONES), Pixels(ZEROS, ONES, 8 / 255)),
    (37, Pixels(ZEROS, 255 * ONES), Pixels(ZEROS, 0.3 * ONES)),
    (37, Pixels(ZEROS, ONES / 255), Pixels(ZEROS, ONES, 1 / 255)),
    (37, Pixels(ZEROS, ONES, 0.1 / 255), Pixels(ZEROS, ONES)),
    (38, Clean(share(0.8), share(0.9)), Clean(share(0.88), share(0.9))),
    (38, Clean(ZEROS[:4], ONES[:4]), Clean(np.arange(16) > 0.0, ONES[:16])),
    (39, Chosen("correct", 100), Chosen("all", 100)),
    (40, Scores(HALF), Scores(np.repeat([0.0, 1.0], 400))),
    (41, Inside(("tvm",)), Inside(())),
    (42, Budget(0.2 * ONES), Budget(0.9 * ONES)),
    (42, Budget(ZEROS[:1]), Budget(ZEROS[:0])),
    (43, Claims(ONES, HALF), Claims(HALF, ONES)),
    (44, proved(0.9, [1] * 20), proved(1.0, [1] * 20)),
    (44, proved(0.0, [1] * 2 + [0] * 18), proved(0.0, [1] + [0] * 19)),
    (44, proved(0.9, [-1, 1, 1, 1]), proved(0.9, [-1] * 20)),
    (44, proved(0.9, [0] * 20, answer=1), proved(0.9, [0] * 20, answer=-1)),
    (45, Tuned(ZEROS[:16], HALF), Tuned(HALF[:0], HALF)),
    (45, Tuned(HALF[:16], HALF[:0]), Tuned(HALF, HALF)),
    (45, Tuned(HALF[42:58], ONES), Tuned(ONES[:16], HALF)),
    (46, Saved(np.array([[1, 1, 2]]), ("a", "b", "c")), Saved(np.array([[1, 1, 1]]), ("a",) * 3)),
    (
        46,
        Saved(np.stack([ZEROS[:16], np.arange(16) < 2], 1), ("a", "b")),
        Saved(np.stack([ZEROS[:16], np.arange(16) < 1], 1), ("a", "b")),
    ),
]


@pytest.mark.parametrize("number, broken, sound", CASES, ids=[str(c[0]) for c in CASES])
def test_a_known_answer(number, broken, sound):
    found = CHECKS[number](broken, "here", ["c1"])
    assert found is not None
    assert (found.number, found.about, found.cells) == (number, "here", ("c1",))
    assert found.what.endswith(".")
    assert found.next.endswith(".")
    if sound is not None:
        assert CHECKS[number](sound) is None


def number_free(check):
    """Those of a run that can always be asked."""
    return check.number in (35, 36, 39, 40)


def test_every_check_has_a_case_and_its_page():
    assert {case[0] for case in CASES} == set(CHECKS) == set(range(1, 47))
    for check in CHECKS.values():
        doc = check.function.__doc__ or ""
        assert "Figure:" in doc, check.name
        assert "To do" not in doc, "advice.py has it"
        assert "Threshold" in doc or "noted" in doc, check.name
        assert check.gathered, check.name
        assert ("run" not in check.gathered) == (check.needs == DOCTORS) or number_free(check)


def test_levels():
    level = {n: check.level for n, check in CHECKS.items()}
    assert level[12] == level[28] == level[33] == STOP
    assert level[7] == level[43] == WARN
    assert level[34] == NOTE


def test_a_few_wrong_certificates_of_many_may_be_chance_and_eight_are_not():
    answers = np.zeros((1000, 20), int)
    for wrong, level in ((1, NOTE), (3, NOTE), (8, STOP)):
        answers[:wrong] = 1
        found = CHECKS[44](Certified(np.ones(1000), answers[:, 0] * 0, np.zeros(1000), answers))
        assert (found.figure, found.level, len(found.examples)) == (wrong, level, wrong)


def test_the_rise_of_one_radius_of_many_by_luck_is_none():
    """The best of 45 pairs at 95 % each; alone it would be a rise."""
    one, other = share(0.4), np.roll(share(0.4), 0)
    other[40:47] = 1
    two = Radii(np.arange(2.0), np.stack([one, other]))
    ten = Radii(np.arange(10.0), np.stack([one] * 9 + [other]))
    assert CHECKS[14](two) is not None
    assert CHECKS[14](ten) is None


def test_a_finding_survives_its_record():
    found = CHECKS[12](Iterates(HALF[:, None], 1, ZEROS, 1, np.arange(N) + 1000))
    assert found.examples == tuple(range(1050, 1060))
    assert from_record(found.record()) == found


def test_best_of_k_is_hypergeometric():
    right = np.array([[True] * 3 + [False] * 2])
    assert best_of(right, 1) == pytest.approx(3 / 5)
    assert best_of(right, 2) == pytest.approx(3 / 10)
    assert best_of(right, 4) == 0


@pytest.mark.parametrize("right", [0.0, 0.3, 0.5, 1.0])
def test_the_number_of_images_that_check_40_names_is_enough_and_one_less_is_not(right):
    few = np.repeat([1.0, 0.0], [round(20 * right), round(20 * (1 - right))])
    told = CHECKS[40](Scores(few))
    (need,) = map(int, re.findall(r"Take (\d+) images", told.next))
    low, high = wilson(20 * right, 20)[1:]
    worst = min(max(0.5, low), high)  # of the shares that 20 images leave open
    width = [np.subtract(*wilson(worst * n, n)[:0:-1]) / 2 for n in (need, need - 1)]
    assert width[0] <= 0.05 < width[1]
    assert need >= images_for(0.05, right)


@pytest.mark.parametrize("n, discordant", [(16, 0.3), (40, 0.1), (100, 0.3)])
def test_equal_attackers_rarely_differ(n, discordant):
    """Against simulation: the lower limit is above 0 in some 2.5 % of cases, never many more."""
    random = np.random.default_rng(0)  # noqa: TID251
    odds = (1 - discordant, discordant / 2, discordant / 2)
    d = random.choice([0.0, 1.0, -1.0], (3000, n), p=odds)
    false = [paired(np.maximum(one, 0), np.maximum(-one, 0)).low > 0 for one in d]
    assert np.mean(false) < 0.04


def test_a_difference_is_found():
    random = np.random.default_rng(1)  # noqa: TID251
    d = random.choice([0.0, 1.0], (500, 100), p=(0.9, 0.1))
    assert np.mean([paired(one, 0 * one).low > 0 for one in d]) > 0.9


shares = arrays(float, 12, elements=st.floats(0, 1))


@given(shares)
def test_equal_attackers_are_never_told_apart(right):
    for number in (15, 16, 19, 20, 22, 23, 25, 26):
        assert CHECKS[number](Pair(right, right)) is None
    assert CHECKS[28](Control(right, right)) is None


@given(shares, shares)
def test_what_is_better_one_way_is_not_the_other(a, b):
    for number in (15, 16, 20, 22, 23, 25, 26):
        ways = [CHECKS[number](Pair(*pair)) for pair in ((a, b), (b, a))]
        assert None in ways


@given(arrays(float, (6, 15), elements=st.floats(-10, 10)), st.floats(0.1, 10), st.floats(-5, 5))
def test_convergence_does_not_depend_on_the_unit_of_the_loss(loss, scale, shift):
    loss = np.round(loss, 2)
    first = CHECKS[11](Curves(loss, np.ones(6) > 0))
    second = CHECKS[11](Curves(np.round(loss * 4) * 2 / 8, np.ones(6) > 0))
    other = CHECKS[11](Curves(loss * 8, np.ones(6) > 0))
    assert (first is None) == (other is None)
    assert second is None or second.number == 11
