"""Tables that ship with the package; origin and licence of each are in README.md."""

from __future__ import annotations

import json
from importlib.resources import files

# The names of the 1000 ImageNet classes, in the usual order.
IMAGENET = tuple(json.loads((files(__name__) / "imagenet_classes.json").read_text("utf-8")))

# Those of CIFAR-10, in the order of its labels.
CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
