"""Every attack by its name, and every source of gradients."""

from __future__ import annotations

from besiege.attacks.attack import Attack, Gradients, backward
from besiege.attacks.bim import bim
from besiege.attacks.boundary import boundary
from besiege.attacks.corruption import corruption
from besiege.attacks.fgsm import fgsm
from besiege.attacks.finite_differences import FiniteDifferences
from besiege.attacks.gradient_descent import gradient_descent
from besiege.attacks.hop_skip_jump import hop_skip_jump
from besiege.attacks.mi_fgsm import mi_fgsm
from besiege.attacks.none import none
from besiege.attacks.pgd import pgd
from besiege.attacks.spatial import spatial
from besiege.attacks.surfree import surfree
from besiege.core.entry import Catalog, Entry

ATTACKS: Catalog[Attack] = Catalog(
    "attack",
    [
        Entry("none", none, "house: the control"),
        Entry("fgsm", fgsm, "Goodfellow et al. 2015 (arXiv:1412.6572), section 4"),
        Entry("bim", bim, "Kurakin et al. 2017 (arXiv:1607.02533), section 2.2"),
        Entry("mi-fgsm", mi_fgsm, "Dong et al. 2018 (arXiv:1710.06081), algorithm 1"),
        Entry(
            "pgd",
            pgd,
            "Madry et al. 2018 (arXiv:1706.06083), section 2.1",
            cases=({}, {"decay": "cosine", "direction": "normalised"}, {"start": "clean"}),
        ),
        Entry(
            "gradient-descent",
            gradient_descent,
            "Qiu et al. 2020, section 4; Athalye et al. 2018 (arXiv:1802.00420), section 5",
            cases=({}, {"over": "abort"}),
        ),
        # By labels alone.
        Entry(
            "hop-skip-jump",
            hop_skip_jump,
            "Chen et al. 2020 (arXiv:1904.02144), algorithm 2",
            cases=({"directions": 2, "rounds": 1, "halvings": 1, "images": 1},),
        ),
        Entry(
            "boundary",
            boundary,
            "Brendel et al. 2018 (arXiv:1712.04248), algorithm 1",
            cases=({"tries": 1, "rounds": 1, "images": 1},),
        ),
        Entry(
            "surfree",
            surfree,
            "Maho et al. 2021 (arXiv:2011.12807), algorithm 1",
            cases=({"levels": 1, "rounds": 1, "images": 1},),
        ),
        Entry(
            "corruption",
            corruption,
            "Rauber et al. 2017 (arXiv:1707.04131); Hendrycks & Dietterich 2019 (arXiv:1903.12261)",
            cases=({"kind": "blur", "points": 1},),
        ),
        Entry(
            "spatial",
            spatial,
            "Engstrom et al. 2019 (arXiv:1712.02779), section 3",
            cases=({"angles": 2, "shifts": 1, "search": "random"},),
        ),
    ],
)

GRADIENTS: Catalog[Gradients] = Catalog(
    "gradients",
    [
        Entry("backward", backward, "house"),
        Entry(
            "finite-differences",
            FiniteDifferences,
            "Ilyas et al. 2018 (arXiv:1804.08598); Chen et al. 2017 (arXiv:1708.03999)",
            cases=({}, {"directions": 16, "basis": "coordinates"}),
        ),
    ],
)
