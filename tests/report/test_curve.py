"""Curves of the radius: known distances, laws of the curve, and where they are shown."""

from html import escape

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import besiege
from besiege.attacks.threat import L2, Dissimilarity, Linf, Threat
from besiege.core.stats import share_interval
from besiege.laws.problems import code_images, coin_defense, linear_classifier, weights_of
from besiege.report.curve import curve_of, reach, telling
from besiege.report.page import write_report
from besiege.report.tables import summarise

RECORD = {
    "cell": "c" * 16,
    "defense": "bare",
    "recipe": "near",
    "threat": "l2 9",
    "ball": "l2",
    "eps": 9.0,
    "targeted": False,
}
SHAPE = (1, 4, 4)
# Of these weights grey is near the borders, so that [0, 1] does not bind.
NET = linear_classifier(3, SHAPE, 321)
BARE = besiege.Defense(besiege.Chain(), NET)


def row(i, size, predicted, target=-1):
    """An example of label 0."""
    return {"id": i, "label": 0, "target": target, "size": size, "predicted": predicted}


def clean(n, predicted=(0,)):
    return [row(i, 0.0, list(predicted)) for i in range(n)]


def greys(n):
    return 0.4 + 0.2 * besiege.Key.root(7, range(n)).uniform(*SHAPE)


def nearest_borders(x, dual):
    """Labels, and closed-form distances to the nearest border of NET; dual: order of the norm."""
    w, scores = weights_of(NET), NET(x).detach()
    label = scores.argmax(1)
    gaps = scores.gather(1, label[:, None]) - scores
    slopes = (w[label][:, None] - w[None]).norm(dual, dim=2)
    far = torch.where(slopes > 0, gaps / slopes, torch.inf)
    return label, far.amin(1).numpy()


@pytest.mark.parametrize(
    ("ball", "dual", "attack"),
    [(L2(2), 2, "deepfool"), (Linf(0.3), 1, "deepfool"), (L2(2), 2, "ddn")],
)
def test_on_a_linear_model_it_is_the_share_of_the_exact_distances(ball, dual, attack):
    x = greys(30)
    y, exact = nearest_borders(x, dual)
    recipe = besiege.Recipe("near", attack=attack, steps=120 if attack == "ddn" else 4)
    (curve,) = besiege.evaluate(BARE, x, y, ball, recipes=["none", recipe]).curves
    assert exact.max() < ball.eps
    assert curve.at(0).estimate == 1
    for radius in np.quantile(exact, [0.1, 0.3, 0.5, 0.7, 0.9, 1]):
        below, above = (np.mean(exact > k * radius) for k in (1 / 1.021, 1.0))
        assert above <= curve.at(radius).estimate <= below + 1e-9
    assert curve.median.estimate == pytest.approx(np.median(exact), rel=0.021)
    assert curve.median.low <= np.median(exact) <= curve.median.high
    assert curve.at(1.021 * exact.max()).estimate == 0


def test_by_hand():
    found = [
        row(0, 1.0, [1]),
        row(1, 3.0, [2]),
        row(2, 3.0, [1]),
        row(3, 5.0, [0]),
        row(4, 0.0, [1]),
    ]
    curve = curve_of(RECORD, found, [*clean(4), row(4, 0.0, [1])])
    assert curve.radii.tolist() == [0, 1, 3, 5]
    assert curve.share == pytest.approx([0.8, 0.6, 0.2, 0.2])
    assert curve.distances.tolist() == [0, 1, 3, 3, np.inf]
    assert curve.median.estimate == 3
    assert curve.at(2.999).estimate == pytest.approx(0.6)
    assert curve.at(3) == share_interval(np.array([0, 0, 0, 1, 0]))
    assert str(curve) == "bare · near · l2 9: median 3 [0, > 9]"


def test_without_clean_answers_an_example_counts_as_right_until_then():
    found = [row(0, 1.0, [1]), row(1, 0.0, [1]), row(2, 2.0, [0])]
    assert curve_of(RECORD, found).share == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert curve_of(RECORD, found, clean(1)).n == 1  # only ids that both have


def test_a_target_counts_alone():
    """Wrong answers that are not the target do not meet the goal."""
    found = [row(0, 1.0, [2], target=2), row(1, 1.0, [1], target=2)]
    curve = curve_of({**RECORD, "targeted": True}, found)
    assert curve.at(1).estimate == 0.5
    assert curve.distances.tolist() == [1, np.inf]


def test_grey_levels_and_what_is_not_found():
    found = [row(i, 4 / 255, [1]) for i in range(9)]
    linf = {**RECORD, "ball": "linf", "eps": 8 / 255}
    assert curve_of(linf, found).spelt_median == "4 [4, 4] /255"
    lost = curve_of(linf, clean(9))
    assert lost.spelt_median == "> 8 [> 8, > 8] /255"
    assert lost.share.tolist() == [1]
    assert telling([lost]) == [8 / 255]
    assert reach([lost]) == 8 / 255


ROWS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 3.0, 8.9]) | st.floats(1e-3, 9),
        st.lists(st.integers(-1, 2), min_size=4, max_size=4),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(ROWS, st.booleans(), st.booleans())
def test_it_never_rises_and_ends_at_the_worst_of_both(drawn, known, targeted):
    found = [row(i, size, p, target=2) for i, (size, p, _) in enumerate(drawn)]
    before = [row(i, 0.0, [0] * k + [2] * (4 - k), target=2) for i, (_, _, k) in enumerate(drawn)]
    curve = curve_of({**RECORD, "targeted": targeted}, found, before if known else ())
    shares = [curve.at(r).estimate for r in np.linspace(0, 9, 50)]
    assert np.all(np.diff(shares) <= 1e-12)
    assert np.all(np.diff(curve.radii) > 0)
    assert curve.radii[0] == 0
    kept = np.array([[(p != 2) if targeted else (p == 0) for p in ps] for _, ps, _ in drawn])
    start = np.array([k / 4 for _, _, k in drawn]) if known else np.ones(len(drawn))
    tolerance = 1e-9
    assert shares[-1] <= min(kept.mean(), start.mean()) + tolerance
    assert shares[0] <= start.mean() + tolerance
    if all(size > 0 for size, _, _ in drawn):
        assert shares[0] == pytest.approx(start.mean())
    assert curve.at(99).estimate == shares[-1]


def test_a_random_defense_keeps_its_true_value_at_every_radius():
    """No attack moves the coin, so every radius reads 0.8; the lower of two draws would not."""
    y = torch.arange(200) % 10
    x = code_images(y, 10)
    recipe = besiege.Recipe("near", attack="corruption", steps=1)
    (curve,) = besiege.evaluate(
        coin_defense(0.8), x, y, Linf(0.02), recipes=["none", recipe]
    ).curves
    for radius in (0, 0.01, 0.02):
        assert curve.at(radius).estimate == pytest.approx(0.8, abs=0.03)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two attackers of the nearest point, one of the ball."""
    x = greys(12)
    folder = tmp_path_factory.mktemp("runs") / "run"
    near = [besiege.Recipe(name, attack=name, steps=8) for name in ("deepfool", "fmn")]
    besiege.evaluate(
        BARE, x, NET(x).argmax(1), L2(2), recipes=["none", *near, "bpda"], steps=3, out=folder
    )
    return folder


def test_it_is_shown_for_attacks_of_the_nearest_alone(run):
    summary = summarise(run)
    assert [curve.recipe for curve in summary.curves] == ["deepfool", "fmn"]
    text = str(summary)
    assert text.count("nearest points within l2 2, untargeted") == 1
    assert "median distance [95 %]" in text
    for curve in summary.curves:
        assert curve.spelt_median in text
        assert escape(str(curve)) in summary._repr_html_()
    page = write_report(run).read_text()
    assert page.count("Nearest points within l2 2, untargeted") == 1
    assert "l2 distance" in page
    steps = page[page.index("After each step") :]
    assert "bpda" in steps[: steps.index("<h2>")]
    assert "fmn" not in steps[: steps.index("<h2>")]  # its steps walk along the border
    assert write_report(run).read_text() == page


def test_where_no_attack_looks_for_the_nearest_nothing_is_said(tmp_path):
    x = torch.full((2, *SHAPE), 0.5)
    done = besiege.evaluate(
        BARE, x, NET(x).argmax(1), L2(2), recipes=["bpda"], steps=1, out=tmp_path / "run"
    )
    assert done.curves == ()
    assert "nearest" not in str(done)
    assert "Nearest points" not in write_report(tmp_path / "run").read_text()


@pytest.mark.parametrize("ball", [Dissimilarity(0.4), besiege.Box(), besiege.L0(16)])
def test_sizes_are_in_the_balls_own_unit(ball):
    """Guo's dissimilarity and counts of pixels are no column of their own."""
    x = torch.full((3, *SHAPE), 0.5)
    recipe = besiege.Recipe("r", attack="pgd:direction=normalised,start=clean", steps=2)
    (line,) = besiege.evaluate(BARE, x, NET(x).argmax(1), Threat(ball), recipes=[recipe]).lines
    assert 0 < line.size <= ball.eps * (1 + 1e-6)


def test_a_curve_of_targets_is_drawn_as_success(tmp_path):
    x = greys(6)
    y = NET(x).argmax(1)
    folder = tmp_path / "run"
    recipe = besiege.Recipe("near", attack="deepfool", steps=3)
    besiege.evaluate(BARE, x, y, Threat(Linf(1), targeted=True), recipes=[recipe], out=folder)
    page = write_report(folder).read_text()
    assert "Nearest points within linf 1, targeted" in page
    assert "attack success %" in page[page.index("<svg") :]
    assert "target missed % at" in page
    assert "target missed % at" in str(summarise(folder))
