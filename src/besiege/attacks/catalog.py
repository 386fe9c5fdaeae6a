"""Every attack by its name, and every source of gradients."""

from __future__ import annotations

from besiege.attacks.adam import adam
from besiege.attacks.attack import Attack, Gradients, backward
from besiege.attacks.bim import bim
from besiege.attacks.fgsm import fgsm
from besiege.attacks.finite_differences import FiniteDifferences
from besiege.attacks.genattack import genattack
from besiege.attacks.gradient_descent import gradient_descent
from besiege.attacks.jsma import jsma
from besiege.attacks.local_search import local_search
from besiege.attacks.mi_fgsm import mi_fgsm
from besiege.attacks.none import none
from besiege.attacks.one_pixel import one_pixel
from besiege.attacks.pgd import pgd
from besiege.core.entry import Catalog, Entry

ATTACKS: Catalog[Attack] = Catalog(
    "attack",
    [
        Entry("none", none, "house: the control"),
        # by scores, or on few pixels
        Entry(
            "one-pixel",
            one_pixel,
            "Su et al. 2019 (arXiv:1710.08864)",
            cases=({"population": 6}, {"population": 5, "again": True}),
        ),
        Entry(
            "local-search",
            local_search,
            "Narodytska & Kasiviswanathan 2017 (arXiv:1612.06299), algorithm LocSearchAdv",
            cases=({"best": 2, "radius": 1}, {"candidates": 5, "move": "tried"}),
        ),
        Entry(
            "genattack",
            genattack,
            "Alzantot et al. 2019 (arXiv:1805.11090), algorithm 1",
            cases=({}, {"side": 2, "patience": 1}),
        ),
        Entry(
            "jsma",
            jsma,
            "Papernot et al. 2016 (arXiv:1511.07528), algorithms 1 and 3",
            cases=(
                {"candidates": 8},
                {"theta": 0.1, "direction": "either", "pairs": False},
            ),
        ),
        Entry("adam", adam, "Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1, projected"),
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
    ],
)

GRADIENTS: Catalog[Gradients] = Catalog(
    "gradients",
    [
        Entry("backward", backward, "house"),
        Entry(
            "finite-differences",
            FiniteDifferences,
            "Ilyas et al. 2018 (arXiv:1804.08598); Uesato et al. 2018 (arXiv:1802.05666); Chen et "
            "al. 2017 (arXiv:1708.03999)",
            cases=({}, {"directions": 64, "basis": "rademacher"}, {"basis": "coordinates"}),
        ),
    ],
)
