"""No attack: the control that every evaluation needs."""

from __future__ import annotations

from besiege.attacks.attack import Attack, Point, Problem


def none() -> Attack:
    """The clean image, handed to the judge like any other point.

    Cost: nothing.
    """

    def init(p: Problem) -> Point:
        return Point(p.x0)

    def advance(p: Problem, s: Point, t: int) -> Point:
        return s

    return Attack(init, advance, access="labels")
