"""Every transform by its name, and chains written as text."""

from __future__ import annotations

import re

from besiege.core.entry import Catalog, Entry
from besiege.core.errors import BadSetting
from besiege.core.foreign import foreign_in
from besiege.defenses.adversarial_transformation import AdversarialTransformation
from besiege.defenses.barrage import Barrage
from besiege.defenses.bit_depth import BitDepth
from besiege.defenses.brightness import Brightness
from besiege.defenses.contrast import Contrast
from besiege.defenses.crop import Crop
from besiege.defenses.deflection import Deflection
from besiege.defenses.denoiser import Denoiser
from besiege.defenses.feature_distillation import FeatureDistillation
from besiege.defenses.fft import FrequencyCompression
from besiege.defenses.identity import Identity
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.median import Median
from besiege.defenses.menet import MENet
from besiege.defenses.noise import Noise
from besiege.defenses.opaque import own_link
from besiege.defenses.pixel_defend import PixelDefend
from besiege.defenses.quilting import Quilting
from besiege.defenses.random_distortion import RandomDistortion
from besiege.defenses.resize_pad import ResizePad
from besiege.defenses.salt_pepper import SaltPepper
from besiege.defenses.shield import Shield
from besiege.defenses.svd import LowRank
from besiege.defenses.total_variation import TotalVariation
from besiege.defenses.transform import Chain, Named, Transform
from besiege.models.toy import Toy, ToyDensity, ToyFilter

TRANSFORMS: Catalog[Transform] = Catalog(
    "transform",
    [
        Entry(
            "identity",
            Identity,
            "house: the control",
            known_failures={"it_changes_every_image": "it is what others are compared with."},
        ),
        Entry(
            "fd",
            FeatureDistillation,
            "Liu et al. 2019 (arXiv:1803.05787); displacement as released by Qiu et al. 2020",
            cases=({}, {"form": "released"}, {"low": 10, "high": 90, "low_size": 1}),
        ),
        Entry(
            "rdg",
            RandomDistortion,
            "Qiu et al. 2020, algorithm 1",
            cases=(
                {},
                {"cells": 4},
                {"limit": 0.25, "sampling": "nearest", "corner": "upper-left"},
            ),
        ),
        Entry(
            "jpeg",
            Jpeg,
            "ITU T.81; Dziugaite et al. 2016 (arXiv:1608.00853)",
            cases=(
                {},
                {"rounding": "truncate"},
                {"quality": 20, "subsampling": "4:4:4"},
                {"quality": 10, "highest": 80, "order": "bgr"},
            ),
        ),
        Entry(
            "shield",
            Shield,
            "Das et al. 2018 (arXiv:1802.06816), section 3",
            cases=({}, {"lowest": 10, "step": 70, "rounding": "truncate", "subsampling": "4:4:4"}),
        ),
        Entry(
            "bits",
            BitDepth,
            "Xu et al. 2018 (arXiv:1704.01155), section 3.1",
            cases=({}, {"rounding": "floor"}, {"bits": 1, "rounding": "multiple"}),
        ),
        Entry(
            "pad",
            ResizePad,
            "Xie et al. 2018 (arXiv:1711.01991); Qiu et al. 2020 and its code",
            cases=(
                {},
                {"form": "bpda"},
                {"form": "eot", "fill": 1},
                {"form": "xie", "back": False},
                {"form": "obfuscated"},
                {"form": "cifar"},
                {"canvas": 331, "fill": 0.5},
            ),
        ),
        Entry(
            "crop",
            Crop,
            "Guo et al. 2018 (arXiv:1711.00117), section 3.1",
            cases=(
                {},
                {"form": "released", "place": "sliding"},
                {"place": 4, "share": 0.8},
                {"form": "obfuscated"},
            ),
        ),
        Entry(
            "deflection",
            Deflection,
            "Prakash et al. 2018 (arXiv:1801.08926), algorithm 1",
            cases=(
                {},
                {"form": "released", "deflections": 100, "map": False, "sigma": 0},
                {"deflections": 30, "convention": "rescaled", "wavelet": "db2"},
            ),
        ),
        Entry(
            "noise",
            Noise,
            "Dziedzic and Krishnan 2020 (arXiv:2002.03080)",
            cases=({}, {"kind": "uniform"}, {"kind": "laplace", "convention": "released"}),
        ),
        Entry(
            "salt-pepper",
            SaltPepper,
            "house",
            cases=({}, {"share": 0.3, "salt": 0, "of": "values"}),
        ),
        Entry(
            "median",
            Median,
            "Xu et al. 2018 (arXiv:1704.01155), section 3.2",
            cases=({}, {"size": 3}),
        ),
        Entry(
            "brightness",
            Brightness,
            "Dziedzic and Krishnan 2020 (arXiv:2002.03080)",
            cases=({}, {"levels": -16, "rounded": True}),
        ),
        Entry(
            "fft",
            FrequencyCompression,
            "Dziedzic and Krishnan 2020 (arXiv:2002.03080), section 3",
            cases=(
                {},
                {"percent": 60, "form": "released", "pad": True},
                {"form": "squared"},
                {"percent": 95, "highpass": True},
            ),
        ),
        Entry(
            "svd",
            LowRank,
            "Dziedzic and Krishnan 2020 (arXiv:2002.03080), section 3",
            cases=({}, {"percent": 80, "rule": "storage"}, {"rank": 2}),
        ),
        Entry(
            "menet",
            MENet,
            "Yang et al. 2019 (arXiv:1905.11971), sections 3 and 4",
            cases=(
                {},
                {"matrix": "separate", "keep": 0.9},
                {"method": "soft-impute"},
                {"method": "nuclear", "matrix": "separate"},
            ),
        ),
        Entry(
            "tvm",
            TotalVariation,
            "Guo et al. 2018 (arXiv:1711.00117), equations 6 and 7; its code and two others",
            cases=(
                {},
                {"kind": "isotropic", "of": "pixels", "tol": 0.05},
                {"kind": "anisotropic", "drop": 0, "tol": 0.05},
                {"form": "released", "tol": 0.2},
                {"form": "obfuscated", "tol": 0.2},
            ),
        ),
        Entry(
            "quilt",
            Quilting,
            "Guo et al. 2018 (arXiv:1711.00117), section 4.4, and its code",
            cases=(
                {},
                {"k": 1, "seam": "path"},
                {"seam": "overwrite", "cover": "released"},
            ),
        ),
        Entry("contrast", Contrast, "Rauber et al. 2017 (arXiv:1707.04131)"),
        Entry(
            "adversarial",
            AdversarialTransformation,
            "Xiao and Zheng 2020, and the code released with it",
            cases=(
                {"model": Toy(), "steps": 2},
                {"model": (Toy(), Toy(seed=1)), "steps": 1, "form": "adv"},
                {"model": Toy(), "steps": 1, "form": "ll"},
            ),
        ),
        Entry(
            "denoiser",
            Denoiser,
            "Liao et al. 2018 (arXiv:1712.02976)",
            cases=({"network": ToyFilter()}, {"network": ToyFilter(), "form": "noise"}),
        ),
        Entry(
            "pixel-defend",
            PixelDefend,
            "Song et al. 2018 (arXiv:1710.10766), algorithm 1",
            cases=({"density": ToyDensity()},),
        ),
        Entry(
            "barrage",
            Barrage,
            "house; after Raff et al. 2019 (CVPR), barrage of random transforms",
            cases=(
                {"chains": (Median(), Chain((BitDepth(), Noise())), Contrast())},
                {"chains": (Noise(), Contrast())},
            ),
        ),
    ],
)


def parse_chain(text: str, catalog: Catalog[Transform] = TRANSFORMS) -> Chain:
    """The chain that `text` describes: "name:key=value,key=value + name"; "" or "none" is empty.

    "other=fd" gives a link another name, which a chain with the same link twice needs.
    "fd | jpeg | median" is one link, a barrage: one of them at each draw. Brackets hold several
    links together: "(fd + jpeg) | median + noise" ends with noise in both cases.
    "path.py:NAME" is a link of your own, see `defenses.opaque.own_link`.
    Raises UnknownName for a name or parameter, BadSetting for a value or an empty link.

    >>> parse_chain("bits | (jpeg + median) + fd").name
    'barrage + fd'
    >>> parse_chain("fd:form=released + rdg:limit=0.15,cells=4 + again=fd").name
    'fd + rdg + again'
    """
    if text.strip() in ("", "none"):
        return Chain()
    parsed = (_parse_link(part, text, catalog) for part in split_chain(text))
    # Brackets around no choice mean nothing.
    return Chain(tuple(x for p in parsed for x in (p.links if isinstance(p, Chain) else (p,))))


def split_chain(text: str) -> list[str]:
    """The texts of the links of a chain.

    >>> split_chain("fd + rdg:limit=1e+3")
    ['fd', 'rdg:limit=1e+3']
    """
    return _split(text, "+")


def _split(text: str, sign: str) -> list[str]:
    """The parts of `text` between signs that stand outside all brackets."""
    parts, depth = [""], 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        exponent = re.search(r"\d[eE]$", text[:i])  # as in 1e+3
        if letter == sign and depth == 0 and not exponent:
            parts.append("")
        else:
            parts[-1] += letter
        if depth < 0:
            break
    if depth:
        raise BadSetting(f'The brackets in "{text}" do not match.')
    return [part.strip() for part in parts]


def _parse_link(part: str, text: str, catalog: Catalog[Transform]) -> Transform:
    if not part:
        raise BadSetting(
            f'The chain "{text}" has an empty link: write the links as "fd + rdg:limit=0.15", or '
            '"none" for no link at all.'
        )
    if len(choices := _split(part, "|")) > 1:
        return Barrage(tuple(_parse_link(choice, text, catalog) for choice in choices))
    if part.startswith("(") and part.endswith(")"):
        inner = parse_chain(part[1:-1], catalog)
        return inner.links[0] if len(inner.links) == 1 else inner
    # A setting of a link may itself name an own file: adversarial:model=mine.py:make.
    known = part.partition(":")[0].strip() in catalog
    if not known and (own := foreign_in(part)) is not None:
        return own_link(own)
    alias = re.match(r"([^:=]+)=(.*)", part)
    if alias is None:
        return catalog.build(part)
    return Named(_parse_link(alias[2].strip(), text, catalog), alias[1].strip())
