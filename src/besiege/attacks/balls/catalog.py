"""Every ball by its name."""

from __future__ import annotations

from besiege.attacks.balls.ball import Ball
from besiege.attacks.balls.euclidean import L2, Dissimilarity, RmsL2
from besiege.attacks.balls.l0 import L0
from besiege.attacks.balls.l1 import L1
from besiege.attacks.balls.linf import Box, Linf
from besiege.core.entry import Catalog, Entry

BALLS: Catalog[Ball] = Catalog(
    "ball",
    [
        Entry("linf", Linf, "Goodfellow et al. 2015 (arXiv:1412.6572)", cases=({"eps": 0.03},)),
        Entry("rms", RmsL2, "Qiu et al. 2020, equation 2", cases=({"eps": 0.05},)),
        Entry(
            "l2",
            L2,
            "Szegedy et al. 2014 (arXiv:1312.6199)",
            cases=({"eps": 0.2}, {"eps": 2.0}),
        ),
        Entry(
            "l1",
            L1,
            "Chen et al. 2018 (arXiv:1709.04114); Tramèr & Boneh 2019 (arXiv:1904.13000)",
            cases=({"eps": 0.5}, {"eps": 6.0}),
        ),
        Entry(
            "l0",
            L0,
            "Su et al. 2019 (arXiv:1710.08864); Croce & Hein 2019 (arXiv:1909.05040)",
            cases=({"eps": 1}, {"eps": 9}),
        ),
        Entry(
            "box",
            Box,
            "house; unrestricted: Brown et al. 2018 (arXiv:1809.08352)",
            cases=({"eps": 1.0}, {"eps": 0.3, "low": 0.2, "high": 0.8}),
        ),
        Entry(
            "dissimilarity",
            Dissimilarity,
            "Guo et al. 2018 (arXiv:1711.00117)",
            cases=({"eps": 0.06}, {"eps": 0.5}),
        ),
    ],
)
