"""Movements that are known are found, and noise is none."""

import pytest
import torch
import torch.nn.functional as F

import besiege
from besiege.core.key import Key
from besiege.defenses.opaque import Opaque
from besiege.defenses.transform import Graft, Named, surrogate_of
from besiege.ops.registration import moved, movement

X, _, _ = besiege.load_images("digits").take(range(10))
KEY = Key.root(0, range(10))


def off(x, y):
    """Root mean square difference of each image but for its margin, where shifts let in, (B,)."""
    return ((x - y) ** 2)[..., 4:-4, 4:-4].flatten(1).mean(1).sqrt()


MOVES = {
    "still": lambda x: x,
    "mirrored": lambda x: x.flip(-1),
    "upside down": lambda x: x.flip(-2),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "shifted": lambda x: torch.roll(x, (2, -3), (2, 3)),
    "mirrored and shifted": lambda x: torch.roll(x.flip(-1), (-1, 2), (2, 3)),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=list(MOVES))
def test_turns_and_shifts_are_found(move):
    y = move(X)
    assert float(off(moved(X, movement(X, y)), y).max()) < 0.03


def test_a_smooth_warp_is_followed():
    link = besiege.parse_chain("rdg:limit=0.2")
    y = link.forward(X, link.draw(KEY, (1, 32, 32)))
    before, after = off(X, y), off(moved(X, movement(X, y)), y)
    assert float((after / before).median()) < 0.5
    assert bool((after <= before + 1e-6).all())


@pytest.mark.parametrize("chain", ["noise:scale=0.1", "jpeg:quality=30", "bits:bits=3"])
def test_what_moves_nothing_is_the_identity(chain):
    link = besiege.parse_chain(chain)
    y = link.forward(X, link.draw(KEY, (1, 32, 32)))
    found = movement(X, y)
    assert not bool(found.turn.any())
    assert torch.allclose(moved(X, found), X, atol=1e-5)


def test_other_sizes_and_channels_are_met():
    y = F.interpolate(X, (20, 36), mode="bilinear").expand(-1, 3, -1, -1)
    found = movement(X, y)
    assert moved(X, found).shape == (10, 1, 20, 36)
    assert float(off(moved(X, found), y[:, :1]).max()) < 1e-3


def test_its_gradient_lands_where_the_pixel_came_from():
    x = X[:1].clone().requires_grad_()
    y = torch.roll(x.detach().flip(-1), (0, 2), (2, 3))
    moved(x, movement(x.detach(), y))[0, 0, 10, 12].backward()
    assert x.grad[0, 0].argmax().item() == 10 * 32 + (31 - 10)  # the mirror of column 12 - 2


def test_every_link_has_it_as_a_surrogate_by_name():
    link = Named(besiege.parse_chain("rdg"), "other")
    draw = link.draw(KEY, (1, 32, 32))
    y = surrogate_of(link, "moved")(X, draw)
    assert float(off(y, link.forward(X, draw)).median()) < float(off(X, y).median())


def test_a_graft_asks_the_link_once_and_follows_that_very_answer():
    """Also one with a generator of its own, whose second answer would be another movement."""
    asked = []

    def wandering(image):
        asked.append(1)
        return image.roll(len(asked), -1)

    graft = Graft(Opaque(wandering, is_random=False), "moved")
    x = X[:1].clone().requires_grad_()
    y = graft.forward(x, None)
    assert len(asked) == 1
    y[0, 0, 10, 12].backward()
    assert x.grad[0, 0].argmax().item() == 10 * 32 + 11


def test_rows_do_not_see_their_batch():
    link = besiege.parse_chain("rdg:limit=0.2")
    y, rows = link.forward(X, link.draw(KEY, (1, 32, 32))), torch.tensor([4, 1])
    whole, some = movement(X, y), movement(X[rows], y[rows])
    assert torch.equal(whole.turn[rows], some.turn)
    assert torch.equal(whole.grid[rows], some.grid)
