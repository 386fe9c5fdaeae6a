"""Every wrapper by its name: "smallest:rounds=6 of pgd"."""

from __future__ import annotations

from besiege.attacks.attack import Wrapper
from besiege.attacks.wrappers.multi_targeted import multi_targeted
from besiege.attacks.wrappers.smallest import smallest
from besiege.attacks.wrappers.variance_reduced import variance_reduced
from besiege.core.entry import Catalog, Entry

WRAPPERS: Catalog[Wrapper] = Catalog(
    "wrapper",
    [
        Entry(
            "smallest",
            smallest,
            "Dziedzic & Krishnan 2020 (arXiv:2002.03080); house",
            cases=({"rounds": 2},),
        ),
        Entry(
            "multi-targeted",
            multi_targeted,
            "Gowal et al. 2019 (arXiv:1910.09338), section 3",
            cases=({"targets": 2},),
        ),
        Entry(
            "variance-reduced",
            variance_reduced,
            "Johnson & Zhang 2013 (NIPS); Xiong et al. 2022 (arXiv:2111.10752)",
            cases=({"every": 2, "draws": 2},),
        ),
    ],
)
