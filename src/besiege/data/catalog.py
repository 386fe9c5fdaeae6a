"""Every data set that can be named."""

from __future__ import annotations

from besiege.core.entry import Catalog, Entry
from besiege.data.cifar import cifar10, cifar100
from besiege.data.digits import digits
from besiege.data.folder import folder, zipped
from besiege.data.imagenet import imagenet
from besiege.data.images import ImageSet
from besiege.data.mnist import mnist
from besiege.data.nips2017 import nips2017
from besiege.data.packed import packed
from besiege.data.photo import photo
from besiege.data.tiny_imagenet import tiny_imagenet

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
        Entry("folder", folder, "image files of the user", cases=()),
        Entry("zip", zipped, "an archive of image files of the user", cases=()),
        Entry("nips2017", nips2017, "Kurakin et al. 2018, arXiv:1804.00097", cases=()),
        Entry("cifar10", cifar10, "Krizhevsky 2009, Learning Multiple Layers", cases=()),
        Entry("cifar100", cifar100, "Krizhevsky 2009, Learning Multiple Layers", cases=()),
        Entry("mnist", mnist, "LeCun et al. 1998; Xiao et al. 2017, arXiv:1708.07747", cases=()),
        Entry("tiny-imagenet", tiny_imagenet, "Stanford CS231N; Le and Yang 2015", cases=()),
        Entry("imagenet", imagenet, "Russakovsky et al. 2015, arXiv:1409.0575", cases=()),
    ],
)


def load_images(spec: str, catalog: Catalog[ImageSet] = DATASETS) -> ImageSet:
    """The data set that `spec` names.

    spec: "digits", "digits:part=train", "packed:path=X.npz" or "cifar10:path=FOLDER,part=test".
    Raises UnknownName, BadSetting or BadImages.

    >>> load_images("digits").shape
    (1, 32, 32)
    """
    return catalog.build(spec)
