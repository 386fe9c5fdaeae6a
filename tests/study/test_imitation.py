"""Learned surrogates: known answers, the descent test, the laws, and the same bits again."""

import pickle
import random  # noqa: TID251 - looked at, never drawn from
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import besiege
from besiege.core.entry import Entry
from besiege.core.errors import BadImages, BadSetting
from besiege.core.key import Key
from besiege.defenses.adversarial_transformation import AdversarialTransformation
from besiege.defenses.bit_depth import BitDepth
from besiege.defenses.crop import Crop
from besiege.defenses.noise import Noise
from besiege.defenses.transform import Chain, Graft, Transform, contents, surrogate_of
from besiege.laws.transforms import check
from besiege.study.adaptive.descent import RANDOM
from besiege.study.adaptive.imitation import imitate
from besiege.study.content import content

N = 24
QUICK = {"width": 16, "blocks": 1, "steps": 100, "rate": 1e-2, "eps": 0.2}


@dataclass(frozen=True)
class Moved(Transform):
    """Two pixels down and to the right, in 8 bit: no gradient."""

    name: str = "moved"

    def forward(self, x, draw):
        return (F.pad(x, (2, 0, 2, 0))[..., :-2, :-2].detach() * 255).round() / 255


@pytest.fixture(scope="module")
def digits():
    """The network, images to attack with labels, and others to learn from."""
    x, y, _ = besiege.load_images("digits").take(range(N))
    others, _, _ = besiege.load_images("digits:part=train").take(range(64))
    return besiege.load_model("digits-cnn"), x, y, others


def learned(link, others, **more):
    return imitate(link, others, Key.root(0, range(len(others))), **{**QUICK, **more})


@pytest.fixture(scope="module")
def moved(digits):
    return learned(Moved(), digits[3])


def cosine(a, b):
    return float(F.cosine_similarity(a.flatten(1), b.flatten(1)).mean())


def test_a_hidden_shift_is_found(digits, moved):
    """The gradient through "learned" is that at the output, moved back; "identity" leaves it."""
    net, x, y, _ = digits

    def slope(point, f):
        leaf = point.detach().clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(net(f(leaf)), y, reduction="sum"), leaf)[0]

    at_output = slope(Moved().forward(x, None), lambda v: v)
    wanted = F.pad(at_output, (0, 2, 0, 2))[..., 2:, 2:]
    assert cosine(slope(x, lambda v: Graft(moved, "learned").forward(v, None)), wanted) > 0.8
    assert cosine(slope(x, lambda v: Graft(moved, "identity").forward(v, None)), wanted) < 0.5


def test_an_adversarial_transformation_is_imitated(digits):
    net, x, y, others = digits
    link = learned(AdversarialTransformation(net, delta=0.1, steps=2), others, copies=2)
    defense = besiege.Defense(Chain((link,)), net)
    key = Key.root(3, range(N))
    names = ["identity", "learned"]
    found = besiege.descent(
        defense, link.name, x, y, key, surrogates=names, sizes=[0.05], draws=2, fresh=2
    )
    assert found.ranking.index("learned") < found.ranking.index(RANDOM)
    assert all(step.leads for step in found.steps if step.surrogate == "learned")


def generators():
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002, TID251
    return random.getstate(), repr(numpys), torch.get_rng_state().tolist()


def test_the_same_bits_twice_and_no_global_generator(digits):
    others, before = digits[3][:8], generators()
    one, two = (learned(Noise(), others, steps=5) for _ in range(2))
    assert generators() == before
    assert content(one) == content(two)
    other = imitate(Noise(), others, Key.root(1, range(8)), **{**QUICK, "steps": 5})
    assert content(other) != content(one)


def test_untrained_it_is_the_identity_or_a_resize(digits):
    x = digits[3][:3]
    key = Key.root(0, range(3))
    start = imitate(Noise(), x, key, steps=1, rate=1e-30).surrogates["learned"]
    torch.testing.assert_close(start(x, None), x, atol=1e-6, rtol=0)
    crop = imitate(Crop(form="obfuscated"), x, key, steps=1, rate=1e-30)
    got = crop.surrogates["learned"](x, None)
    assert tuple(got.shape[1:]) == crop.out_shape((1, 32, 32)) == (1, 10, 10)
    torch.testing.assert_close(got, F.interpolate(x, (10, 10), mode="bilinear"))


def test_it_learns_the_mean_over_draws():
    """Of two shifts, half each, h is the mean, which no single draw is."""

    @dataclass(frozen=True)
    class Either(Transform):
        name: str = "either"

        def draw(self, key, shape):
            return key.bernoulli(0.5)

        def forward(self, x, draw):
            return torch.where(draw[:, None, None, None], x, 1 - x)

    x = Key.root(5, range(32)).uniform(1, 8, 8)
    h = learned(Either(), x, copies=8, steps=200).surrogates["learned"]
    before, after = ((f(x, None) - 0.5).square().mean() for f in (lambda x, _: x, h))
    assert after < 0.1 * before


def test_it_keeps_the_laws(digits, moved):
    colours = Key.root(2, range(8)).uniform(3, 32, 32)
    links = [moved, learned(Crop(form="obfuscated"), colours, steps=3)]
    for link in links:
        check(Entry(link.name, lambda link=link: link, "house", cases=({},)))


def test_all_but_the_surrogate_is_the_links(digits):
    x = digits[3][:8]
    key = Key.root(0, range(8))
    link = BitDepth(bits=2)
    known = learned(link, x, steps=2)
    assert list(known.surrogates) == [*link.surrogates, "learned"]
    assert surrogate_of(known, "best") == surrogate_of(link, "best")
    assert torch.equal(known.forward(x, None), link.forward(x, None))
    chain = Chain((Noise(), known))
    copy = pickle.loads(pickle.dumps(chain))
    draw = chain.draw(key, (1, 32, 32))
    assert torch.equal(copy.forward(x, draw), chain.forward(x, draw))
    h, again = (surrogate_of(c.links[1], "learned") for c in (chain, copy))
    assert torch.equal(h(x, None), again(x, None))
    assert contents(copy) == contents(chain) != contents(Chain((learned(link, x, steps=3),)))
    assert content(copy) == content(chain)


def test_it_tells_how_far_it_is_and_errs_less(digits):
    told = []
    learned(Moved(), digits[3], steps=40, told=lambda *event: told.append(event))
    assert [event[:2] for event in told] == [(i + 1, 40) for i in range(40)]
    assert told[-1][2] < 0.2 * told[0][2]


def test_channels_that_change():
    @dataclass(frozen=True)
    class Grey(Transform):
        name: str = "grey"

        def forward(self, x, draw):
            return x.mean(1, keepdim=True)

        def out_shape(self, shape):
            return (1, *shape[1:])

    x = Key.root(2, range(4)).uniform(3, 9, 8)
    h = learned(Grey(), x, steps=1, rate=1e-30).surrogates["learned"]
    torch.testing.assert_close(h(x, None), x.mean(1, keepdim=True))
    assert h(x.double(), None).dtype == torch.float64
    assert h(x[:0], None).shape == (0, 1, 9, 8)


@pytest.mark.parametrize("more", [{"steps": 0}, {"eps": 2}, {"blocks": -1}, {"batch": 0}])
def test_bad_settings(more):
    with pytest.raises(BadSetting, match=f"imitate: .*{next(iter(more))}"):
        imitate(Noise(), torch.zeros(2, 1, 8, 8), Key.root(0, range(2)), **more)


def test_bad_images():
    with pytest.raises(BadImages, match="a key of 3 came"):
        imitate(Noise(), torch.zeros(2, 1, 8, 8), Key.root(0, range(3)))
