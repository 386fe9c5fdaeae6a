"""Every recipe by its name. The names are the field's; what they mean is in the arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from besiege.core.entry import Catalog, Entry
from besiege.study.recipe import ADAPTIVE, UNION, Recipe


def _preset(name: str, summary: str, source: str, **settings: Any) -> Entry[Recipe]:
    """A catalog entry whose factory is `Recipe` with other defaults."""

    def factory(**changes: Any) -> Recipe:
        return Recipe(**{"name": name, **settings, **changes})

    factory.__doc__ = summary
    own = inspect.signature(Recipe).parameters.values()
    defaults = {"name": name, **settings}
    factory.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(default=defaults.get(p.name, p.default)) for p in own]
    )
    made: Callable[..., Recipe] = factory
    return Entry(name, made, source)


VARIED = "varied:probability=0.7"
BPDA = "Athalye et al. 2018 (arXiv:1802.00420), section 4.1"
EOT = "Athalye et al. 2018 (arXiv:1707.07397)"

# The loops released with Qiu et al. 2020 (and what they inherit from obfuscated-gradients), with
# their faults. Each fault is one setting, and can be turned off alone:
#   at=clean               the gradient is taken at the clean image, never at the current point
#   view fd = "identity"   the surrogate forgets that released FD moves the image
#   links = "identity"     the identity through a warp whose exact gradient is known
#   over=abort             a step out of the ball ends the search, instead of being projected
#   step=plain, rate=0.1   the gradient's own length, so that little of the ball is used
#   believe_first          one lucky draw is a success
# Their ball is rms 0.05, their rounds 60 here (50 to 100 there); the released defense is
# "fd:form=released + rdg:limit=0.25,sampling=nearest,corner=upper-left".
LOOP = "gradient-descent:rate=0.1,over=abort"
QIU = "code released with Qiu et al. 2020 (arXiv:2005.13712)"
_AS_RELEASED: dict[str, Any] = {
    "attack": LOOP,
    "loss": "cross-entropy",
    "steps": 60,
    "believe_first": True,
}
PUBLISHED = (
    _preset(
        "published-bpda",
        "As released: identity through every link, one draw, plain steps.",
        QIU,
        **_AS_RELEASED,
        links="identity",
    ),
    _preset(
        "published-eot-1",
        "As released 12 May 2020: FD applied and taken for the identity, 30 draws.",
        QIU,
        **_AS_RELEASED,
        links="exact-or-identity",
        draws=30,
        check_whole=True,
    ),
    _preset(
        "published-eot-2",
        "As released 17 May 2020: every gradient at the clean image, without FD, 30 draws.",
        QIU,
        **{**_AS_RELEASED, "attack": f"{LOOP},at=clean"},
        links="exact-or-skip",
        draws=30,
        check_whole=True,
    ),
    _preset(
        "published-semi-brute-force",
        "As released: FD left out of the gradient, tried on the whole with one draw, 30 draws.",
        QIU,
        **_AS_RELEASED,
        links="exact-or-skip",
        draws=30,
        check_whole=True,
    ),
)

RECIPES: Catalog[Recipe] = Catalog(
    "recipe",
    [
        _preset(
            "none", "No attack: the clean figure.", "house", attack="none", links="skip", steps=0
        ),
        _preset(
            "oblivious",
            "Attacks the classifier alone, and hopes that its points survive the defense.",
            "Guo et al. 2018 (arXiv:1711.00117), section 5.2",
            links="skip",
        ),
        _preset(
            "white-box",
            "True gradients only; says at which link they stop.",
            "Madry et al. 2018 (arXiv:1706.06083)",
            links="as-is",
        ),
        _preset("bpda-identity", "Identity through every link, one draw.", BPDA, links="identity"),
        _preset("bpda", "The best surrogate of each link, one draw.", BPDA),
        _preset(
            "eot",
            "The mean over draws through exact links; identity elsewhere.",
            EOT,
            links="exact-or-identity",
            draws=8,
        ),
        _preset("bpda+eot", "The best surrogate of each link, the mean over draws.", BPDA, draws=8),
        _preset(
            "semi-brute-force",
            "Leaves out what has no gradient, and tries its points on the whole defense.",
            "Qiu et al. 2020, section 5.4",
            links="exact-or-skip",
            draws=8,
            check_whole=True,
        ),
        _preset(
            "transfer",
            "Attacks other models, `models`, and hopes that its points fool the defense.",
            "Liu et al. 2017 (arXiv:1611.02770); Dong et al. 2018 (arXiv:1710.06081)",
            attack="mi-fgsm",
            gradients=VARIED,
            links="skip",
            models=(),
        ),
        _preset(
            "spsa",
            "By scores: Adam on simultaneous perturbations, links as they are.",
            "Uesato et al. 2018 (arXiv:1802.05666), section 4.2",
            attack="adam",
            gradients="finite-differences:basis=rademacher,directions=64,step=0.01",
            loss="margin",
            links="as-is",
        ),
        _preset(
            "nes",
            "By scores: signs of a momentum of smoothed gradients, links as they are.",
            "Ilyas et al. 2018 (arXiv:1804.08598), section 2.1; code: momentum 0.9, 25 directions",
            attack="mi-fgsm:step=0.2,decay=0.9",
            gradients="finite-differences:basis=gaussian,directions=25,step=0.001",
            loss="margin",  # theirs, cross-entropy, differs by roundings where the network is sure
            links="as-is",
        ),
        _preset("frozen", "One draw is kept for the whole search.", "house", links="frozen"),
        _preset(
            "adaptive",
            "Works out by measurement what to attack with; threat.passes (3000) is its budget.",
            "house; Tramèr et al. 2020 (arXiv:2002.08347)",
            attack=ADAPTIVE,
            steps=0,
        ),
        _preset(
            "union",
            "The four searches of AutoAttack, each on what the former left; or your own.",
            "Croce & Hein 2020 (arXiv:2003.01690), section 6",
            attack=UNION,
            steps=0,
            union=(
                Recipe("apgd", attack="apgd", steps=100),
                Recipe("apgd-t", attack="apgd-t", steps=900),
                Recipe("fab-t", attack="fab-t", steps=900),
                Recipe("square", attack="square", links="as-is", steps=5000),
            ),
        ),
        *PUBLISHED,
    ],
)
