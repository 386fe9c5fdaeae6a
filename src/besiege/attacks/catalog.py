"""Every attack by its name, and every source of gradients."""

from __future__ import annotations

from besiege.attacks.attack import Attack, Backward, Gradients
from besiege.attacks.bim import bim
from besiege.attacks.bridge import foreign_attack
from besiege.attacks.fgsm import fgsm
from besiege.attacks.finite_differences import FiniteDifferences
from besiege.attacks.gradient_descent import gradient_descent
from besiege.attacks.mi_fgsm import mi_fgsm
from besiege.attacks.none import none
from besiege.attacks.pgd import pgd
from besiege.attacks.varied import Varied
from besiege.core.entry import Catalog, Entry

ATTACKS: Catalog[Attack] = Catalog(
    "attack",
    [
        Entry("none", none, "house: the control"),
        Entry("fgsm", fgsm, "Goodfellow et al. 2015 (arXiv:1412.6572), section 4"),
        Entry("bim", bim, "Kurakin et al. 2017 (arXiv:1607.02533), section 2.2"),
        Entry(
            "mi-fgsm",
            mi_fgsm,
            "Dong et al. 2018 (arXiv:1710.06081), algorithm 1",
            cases=({}, {"nesterov": True}),
        ),
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
        Entry("backward", Backward, "house"),
        Entry(
            "finite-differences",
            FiniteDifferences,
            "Ilyas et al. 2018 (arXiv:1804.08598); Chen et al. 2017 (arXiv:1708.03999)",
            cases=({}, {"directions": 16, "basis": "coordinates"}),
        ),
        # Transfer.
        Entry(
            "varied",
            Varied,
            "Xie et al. 2019 (arXiv:1803.06978); Dong et al. 2019 (arXiv:1904.02884); "
            "Lin et al. 2020 (arXiv:1908.06281)",
            cases=({}, {"probability": 0, "kernel": 3, "copies": 3}),
        ),
    ],
)


def load_attack(spec: str, catalog: Catalog[Attack] = ATTACKS) -> Attack:
    """The attack that `spec` names, "pgd:step=0.1" or "foolbox:L2DeepFoolAttack(steps=50)".

    Raises UnknownName or BadSetting.
    """
    return foreign_attack(spec) or catalog.build(spec)
