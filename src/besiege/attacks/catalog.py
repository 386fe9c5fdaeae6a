"""Every attack by its name, and every source of gradients."""

from __future__ import annotations

from besiege.attacks.adam import adam
from besiege.attacks.apgd import apgd, apgd_dlr, apgd_t
from besiege.attacks.attack import Attack, Backward, Gradients
from besiege.attacks.bim import bim
from besiege.attacks.boundary import boundary
from besiege.attacks.bridge import foreign_attack
from besiege.attacks.corruption import corruption
from besiege.attacks.cw import cw
from besiege.attacks.cw_linf import cw_linf
from besiege.attacks.ddn import ddn
from besiege.attacks.deepfool import deepfool
from besiege.attacks.fab import fab, fab_t
from besiege.attacks.fgsm import fgsm
from besiege.attacks.finite_differences import FiniteDifferences
from besiege.attacks.fmn import fmn
from besiege.attacks.genattack import genattack
from besiege.attacks.gradient_descent import gradient_descent
from besiege.attacks.hop_skip_jump import hop_skip_jump
from besiege.attacks.jsma import jsma
from besiege.attacks.l_bfgs import l_bfgs
from besiege.attacks.local_search import local_search
from besiege.attacks.mi_fgsm import mi_fgsm
from besiege.attacks.none import none
from besiege.attacks.one_pixel import one_pixel
from besiege.attacks.pgd import pgd
from besiege.attacks.spatial import spatial
from besiege.attacks.square import square
from besiege.attacks.surfree import surfree
from besiege.attacks.varied import Varied
from besiege.attacks.wrappers.catalog import WRAPPERS
from besiege.core.entry import Catalog, Entry
from besiege.core.errors import BadSetting

APGD = "Croce & Hein 2020 (arXiv:2003.01690), algorithm 1; l1: 2021 (arXiv:2103.01208)"
FAB = "Croce & Hein 2020 (arXiv:1907.02044), algorithm 1"

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
        Entry("adam", adam, "Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1, projected"),
        Entry(
            "gradient-descent",
            gradient_descent,
            "Qiu et al. 2020, section 4; Athalye et al. 2018 (arXiv:1802.00420), section 5",
            cases=({}, {"over": "abort"}),
        ),
        # Budgets without settings: auto-PGD, Square, FAB.
        Entry("apgd", apgd, APGD),
        Entry("apgd-dlr", apgd_dlr, APGD),
        Entry("apgd-t", apgd_t, APGD, cases=({"targets": 2},)),
        Entry(
            "square",
            square,
            "Andriushchenko et al. 2020 (arXiv:1912.00049), algorithms 1 to 3",
            cases=({}, {"area": 0.2}),
        ),
        Entry("fab", fab, FAB, cases=({"classes": 2, "start": "random"},)),
        Entry("fab-t", fab_t, FAB, cases=({"targets": 2},)),
        # Minimum-norm gradient attacks.
        Entry(
            "deepfool",
            deepfool,
            "Moosavi-Dezfooli et al. 2016 (arXiv:1511.04599), algorithm 2",
            cases=({}, {"candidates": 1, "sure": 1}),
        ),
        Entry(
            "cw",
            cw,
            "Carlini & Wagner 2017 (arXiv:1608.04644), section VI A",
            cases=({}, {"searches": 1, "c": 10.0, "form": "pixels", "rival": "clean"}),
        ),
        Entry("cw-linf", cw_linf, "Carlini & Wagner 2017 (arXiv:1608.04644), section VI C"),
        Entry("ddn", ddn, "Rony et al. 2019 (arXiv:1811.09600), algorithm 1"),
        Entry("l-bfgs", l_bfgs, "Szegedy et al. 2014 (arXiv:1312.6199), section 4.1"),
        Entry("fmn", fmn, "Pintor et al. 2021 (arXiv:2102.12827), algorithm 1"),
        # By scores, or on few pixels.
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
        Entry("backward", Backward, "house"),
        Entry(
            "finite-differences",
            FiniteDifferences,
            "Ilyas et al. 2018 (arXiv:1804.08598); Uesato et al. 2018 (arXiv:1802.05666); Chen et "
            "al. 2017 (arXiv:1708.03999)",
            cases=({}, {"directions": 64, "basis": "rademacher"}, {"basis": "coordinates"}),
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

    "WRAPPER of ATTACK" makes another of it: "smallest:rounds=6 of multi-targeted of pgd".
    Raises UnknownName or BadSetting.
    """
    outer, wrapped, inner = spec.partition(" of ")
    if not wrapped:
        return foreign_attack(spec) or catalog.build(spec)
    wrapper, attack = WRAPPERS.build(outer), load_attack(inner, catalog)
    if attack.whole is not None:
        raise BadSetting(
            f'"{spec}": an attack of another library runs to its end by itself, and nothing can be '
            "wrapped around it."
        )
    return wrapper(attack)
