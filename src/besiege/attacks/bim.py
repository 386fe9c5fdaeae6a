"""Basic iterative method (Kurakin et al. 2017, arXiv:1607.02533, section 2.2)."""

from __future__ import annotations

from besiege.attacks.attack import Attack, Point, Problem


def bim(step: float = 0.1) -> Attack:
    """Steps of `step` times eps from the clean image, projected after each.

    Cost: one forward and one backward pass a draw and step.
    """

    def init(p: Problem) -> Point:
        return Point(p.x0)

    def advance(p: Problem, s: Point, t: int) -> Point:
        move = step * p.threat.ball.eps * p.threat.ball.ascent(p.slope(s.x, t))
        return Point(p.threat.project(s.x + move, p.x0))

    return Attack(init, advance)
