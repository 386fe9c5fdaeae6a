"""besiege lays siege to an image classifier that is guarded by input transformations.

>>> import besiege
>>> besiege.Linf(8 / 255).name
'linf'

Names are loaded when first used, so that `besiege --help` does not wait for torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from besiege.attacks.attack import Attack as Attack
    from besiege.attacks.catalog import ATTACKS as ATTACKS
    from besiege.attacks.threat import L0 as L0
    from besiege.attacks.threat import L1 as L1
    from besiege.attacks.threat import L2 as L2
    from besiege.attacks.threat import Box as Box
    from besiege.attacks.threat import Dissimilarity as Dissimilarity
    from besiege.attacks.threat import Linf as Linf
    from besiege.attacks.threat import RmsL2 as RmsL2
    from besiege.attacks.threat import Threat as Threat
    from besiege.core.bootstrap import two_level as two_level
    from besiege.core.entry import Entry as Entry
    from besiege.core.errors import BesiegeError as BesiegeError
    from besiege.core.key import Key as Key
    from besiege.core.power import images_for as images_for
    from besiege.core.power import images_to_tell as images_to_tell
    from besiege.core.sequential import confidence_sequence as confidence_sequence
    from besiege.data.catalog import load_images as load_images
    from besiege.data.images import ImageSet as ImageSet
    from besiege.data.images import audit as audit
    from besiege.data.iterable import from_iterable as from_iterable
    from besiege.defenses.catalog import TRANSFORMS as TRANSFORMS
    from besiege.defenses.catalog import parse_chain as parse_chain
    from besiege.defenses.defense import Defense as Defense
    from besiege.defenses.defense import Majority as Majority
    from besiege.defenses.defense import Mean as Mean
    from besiege.defenses.ensemble import Ensemble as Ensemble
    from besiege.defenses.ensemble import Member as Member
    from besiege.defenses.opaque import Opaque as Opaque
    from besiege.defenses.transform import Chain as Chain
    from besiege.defenses.transform import Graft as Graft
    from besiege.defenses.transform import Transform as Transform
    from besiege.defenses.transform import module as module
    from besiege.evaluation import evaluate as evaluate
    from besiege.evaluation import judge_images as judge_images
    from besiege.models.callable import from_callable as from_callable
    from besiege.models.catalog import load_model as load_model
    from besiege.models.classifier import Classifier as Classifier
    from besiege.study.adaptive.descent import descent as descent
    from besiege.study.adaptive.imitation import imitate as imitate
    from besiege.study.adaptive.planner import plan as plan
    from besiege.study.bridge import bridge as bridge
    from besiege.study.certify import certify as certify
    from besiege.study.certify import predict as predict
    from besiege.study.doctor.doctor import doctor as doctor
    from besiege.study.experiment.written import load_recipes as load_recipes
    from besiege.study.gate.gate import gate as gate
    from besiege.study.judge import judge as judge
    from besiege.study.recipe import Recipe as Recipe
    from besiege.study.recipes import RECIPES as RECIPES

# Products by MKL round a row by its place among the others, so that its last bits depend on them;
# in this mode they do not, at the same speed. Read by MKL once, at its first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_HOMES = {
    "ATTACKS": "attacks.catalog",
    "Attack": "attacks.attack",
    "BesiegeError": "core.errors",
    "Box": "attacks.threat",
    "Chain": "defenses.transform",
    "Classifier": "models.classifier",
    "Defense": "defenses.defense",
    "Dissimilarity": "attacks.threat",
    "Ensemble": "defenses.ensemble",
    "Entry": "core.entry",
    "Graft": "defenses.transform",
    "ImageSet": "data.images",
    "Key": "core.key",
    "L0": "attacks.threat",
    "L1": "attacks.threat",
    "L2": "attacks.threat",
    "Linf": "attacks.threat",
    "Majority": "defenses.defense",
    "Member": "defenses.ensemble",
    "Mean": "defenses.defense",
    "Opaque": "defenses.opaque",
    "RECIPES": "study.recipes",
    "Recipe": "study.recipe",
    "RmsL2": "attacks.threat",
    "TRANSFORMS": "defenses.catalog",
    "Threat": "attacks.threat",
    "Transform": "defenses.transform",
    "bridge": "study.bridge",
    "certify": "study.certify",
    "confidence_sequence": "core.sequential",
    "descent": "study.adaptive.descent",
    "doctor": "study.doctor.doctor",
    "evaluate": "evaluation",
    "from_callable": "models.callable",
    "gate": "study.gate.gate",
    "audit": "data.images",
    "from_iterable": "data.iterable",
    "images_for": "core.power",
    "images_to_tell": "core.power",
    "imitate": "study.adaptive.imitation",
    "judge": "study.judge",
    "judge_images": "evaluation",
    "load_images": "data.catalog",
    "load_model": "models.catalog",
    "load_recipes": "study.experiment.written",
    "module": "defenses.transform",
    "parse_chain": "defenses.catalog",
    "plan": "study.adaptive.planner",
    "predict": "study.certify",
    "two_level": "core.bootstrap",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'besiege' has no attribute {name!r}")
    found = getattr(import_module(f"besiege.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(_HOMES)
