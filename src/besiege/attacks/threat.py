"""What the attacker may do: a ball around the clean image, a goal, and what it may ask.

The balls have a folder of their own and are imported here too, where attacks look for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from besiege.attacks.balls.ball import Ball as Ball
from besiege.attacks.balls.ball import edge
from besiege.attacks.balls.catalog import BALLS as BALLS
from besiege.attacks.balls.euclidean import L2 as L2
from besiege.attacks.balls.euclidean import Dissimilarity as Dissimilarity
from besiege.attacks.balls.euclidean import RmsL2 as RmsL2
from besiege.attacks.balls.l0 import L0 as L0
from besiege.attacks.balls.l1 import L1 as L1
from besiege.attacks.balls.linf import Box as Box
from besiege.attacks.balls.linf import Linf as Linf
from besiege.core.batch import rows
from besiege.core.errors import BadSetting, one_of

ACCESS = ("gradients", "scores", "labels")


@dataclass(frozen=True)
class Threat:
    """A ball, a goal, and the access that the attacker has.

    targeted: the goal is a given label, not just any wrong one.
    access: "gradients" (all), "scores" (no gradients) or "labels".
    eight_bit: images are brought to 8 bit, inside the ball, before they are judged.
    passes: forward and backward passes an example that a search may spend; None for no limit.
    """

    ball: Ball
    targeted: bool = False
    access: str = "gradients"
    eight_bit: bool = False
    passes: int | None = None

    def __post_init__(self) -> None:
        one_of("access", self.access, ACCESS, "a threat")
        if self.passes is not None and self.passes < 1:
            raise BadSetting(f"a threat's limit of passes is at least 1, got {self.passes}.")

    @property
    def name(self) -> str:
        """Ball and radius.

        >>> [Threat(ball).name for ball in (Linf(8 / 255), RmsL2(0.05), L1(12), L0(10), Box())]
        ['linf 8/255', 'rms 0.05', 'l1 12', 'l0 10', 'unrestricted']
        """
        return self.ball.title

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        """The nearest admitted image."""
        return self.ball.project(x, x0)

    def submitted(self, x: Tensor, x0: Tensor) -> Tensor:
        """The images as the judge gets them: of 8 bit if the threat says so.

        A point in the ball goes to an 8-bit image in the ball, where plain rounding could leave it;
        to the clean image as it is where the ball holds none. A point outside is rounded plainly.
        """
        if not self.eight_bit:
            return x
        plain = (x * 255).round() / 255
        astray = self.admits(x, x0) & ~self.admits(plain, x0)
        return torch.where(rows(astray, x), self.ball.rounded(x, x0), plain)

    def admits(self, x: Tensor, x0: Tensor) -> Tensor:
        """Which rows are in the ball (its edge included, see `edge`) and in [0, 1], (B,) bool."""
        inside = ((x >= 0) & (x <= 1)).flatten(1).all(1)
        return inside & (self.ball.size(x.double(), x0.double()) <= edge(self.ball.eps))
