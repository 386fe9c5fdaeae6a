"""Fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572, section 4)."""

from __future__ import annotations

from besiege.attacks.attack import Attack, Point, Problem


def fgsm(step: float = 1.0) -> Attack:
    """One step of `step` times eps along the steepest ascent of the ball; later steps stay there.

    Cost: one forward and one backward pass a draw.
    """

    def init(p: Problem) -> Point:
        return Point(p.x0)

    def advance(p: Problem, s: Point, t: int) -> Point:
        if t > 0:
            return s
        move = step * p.threat.ball.eps * p.threat.ball.ascent(p.slope(s.x, t))
        return Point(p.threat.project(s.x + move, p.x0))

    return Attack(init, advance)
