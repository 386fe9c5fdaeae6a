"""Every data set that can be named."""

from __future__ import annotations

from besiege.core.entry import Catalog, Entry
from besiege.data.digits import digits
from besiege.data.images import ImageSet
from besiege.data.nips2017 import nips2017
from besiege.data.packed import packed
from besiege.data.photo import photo

DATASETS: Catalog[ImageSet] = Catalog(
    "data set",
    [
        Entry(
            "digits",
            digits,
            "Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits",
            cases=({"part": "test"}, {"part": "train"}),
        ),
        Entry("photo", photo, "the sample photographs of scikit-learn (CC BY 2.0)"),
        Entry("packed", packed, "a NumPy file of the user", cases=()),
        Entry("nips2017", nips2017, "Kurakin et al. 2018, arXiv:1804.00097", cases=()),
    ],
)


def load_images(spec: str, catalog: Catalog[ImageSet] = DATASETS) -> ImageSet:
    """The data set that `spec` names.

    spec: "digits", "digits:part=train", "packed:path=X.npz" or "nips2017:path=FOLDER".
    Raises UnknownName, BadSetting or BadImages.

    >>> load_images("digits").shape
    (1, 32, 32)
    """
    return catalog.build(spec)
