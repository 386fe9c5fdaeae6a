"""Latency by a clock of the test's own."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.defenses.defense import Defense, Majority
from besiege.defenses.transform import Chain, Transform, identity
from besiege.laws.problems import linear_classifier
from besiege.study.gate.latency import WARM, latency


@dataclass
class Clock:
    """Seconds that only what is measured lets pass."""

    now: float = 0.0
    seen: list = field(default_factory=list)

    def __call__(self):
        return self.now


@dataclass(frozen=True, eq=False)
class Slow(Transform):
    """Takes `drawing` seconds to draw, and `working` an image and once `first` more."""

    clock: Clock
    drawing: float = 0.0
    working: float = 0.0
    first: float = 0.0
    name: str = "slow"

    def draw(self, key, shape):
        self.clock.now += self.drawing
        return key.uniform()

    def forward(self, x, draw):
        late = len(self.clock.seen) < WARM
        self.clock.seen.append(draw)
        self.clock.now += self.working * len(x) + self.first * late
        return x

    @property
    def surrogates(self):
        return {"exact": identity}


X = torch.linspace(0, 1, 5 * 16).reshape(5, 1, 4, 4)
KEY = Key.root(0, range(5))


def measured(link, vote=None, **settings):
    bare = Defense(Chain((replace(link, drawing=0, working=0.001, first=0),)), linear_classifier())
    vote = {} if vote is None else {"vote": vote}
    slow = Defense(Chain((link,)), linear_classifier(), **vote)
    return latency(slow, bare, X, KEY, clock=link.clock, calls=20, **settings)


def test_draws_and_links_count_and_the_first_calls_do_not():
    found = measured(Slow(Clock(), drawing=0.002, working=0.003, first=9))
    assert found.defended == pytest.approx((0.005,) * 3)
    assert found.bare == pytest.approx((0.001,) * 3)
    assert found.overhead == pytest.approx((5,) * 3)


def test_it_is_for_one_image_of_a_batch():
    found = measured(Slow(Clock(), drawing=0.008, working=0.003), batch=8)
    assert found.defended.estimate == pytest.approx(0.004)
    assert found.batch == 8


def test_votes_take_their_draws():
    found = measured(Slow(Clock(), working=0.003), Majority(draws=4))
    assert found.defended.estimate == pytest.approx(0.012)


def test_every_call_draws_afresh():
    link = Slow(Clock(), working=0.001)
    measured(link, batch=2)
    drawn = torch.cat(link.clock.seen)
    assert len(drawn.unique()) == len(drawn) // 2  # the bare one got the same


def test_the_median_and_its_interval_are_of_the_calls():
    @dataclass(frozen=True, eq=False)
    class Uneven(Slow):
        def forward(self, x, draw):
            self.clock.seen.append(draw)
            self.clock.now += len(self.clock.seen) / 1000
            return x

    link = Uneven(Clock())
    bare = Defense(Chain(), linear_classifier())
    found = latency(
        Defense(Chain((link,)), linear_classifier()), bare, X, KEY, clock=link.clock, calls=19
    )
    # 19 calls of 4, 5, ... 22 ms: the sign test's limits are the 5th and the 15th.
    assert found.defended == pytest.approx((0.013, 0.008, 0.018))


def test_it_says_where_it_was_measured():
    text = str(measured(Slow(Clock(), working=0.003)))
    threads = torch.get_num_threads()
    assert text.startswith("latency at batch 1: 3 ms an image, bare 1 ms (3x); median of 20 calls")
    assert f"{threads} thread" in text
    assert text.endswith("cpu")


def test_a_real_clock_runs():
    bare = Defense(Chain(), linear_classifier())
    found = latency(bare, bare, X, KEY, calls=6)
    assert 0 < found.defended.estimate < 60


@pytest.mark.parametrize("settings", [{"calls": 5}, {"batch": 0}])
def test_too_few_calls_or_images_are_refused(settings):
    bare = Defense(Chain(), linear_classifier())
    with pytest.raises(BadSetting, match="at least 6 calls"):
        latency(bare, bare, X, KEY, **settings)
