"""The judge: draws afresh, counts, and believes nobody.

Its stream of random numbers is derived from seed and id under a name that attackers are cut off
from: `Siege.attack` hands them a key whose origin lies below its own fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from besiege.attacks.threat import Threat
from besiege.core.batch import by_example, chunks, l2, linf, row_sum
from besiege.core.errors import BadImages, BadSetting, OutsideThreat
from besiege.core.key import Key
from besiege.defenses.defense import Deployed


class Verdict(NamedTuple):
    """What the judge saw; right and wrong follow from the labels."""

    predicted: Tensor  # (B, draws) int64, ABSTAIN where the defense gave no answer
    linf: Tensor  # (B,) float64 distances from the clean image in [0, 1] units
    l2: Tensor
    rms: Tensor
    l1: Tensor
    l0: Tensor  # share of the entries that changed
    size: Tensor  # distance in the threat's own ball


@dataclass(frozen=True)
class Judging:
    """draws: fresh draws an example; every, step_draws: likewise for the points of a search."""

    draws: int = 20
    every: int = 0
    step_draws: int = 4
    micro_batch: int = 32

    def __post_init__(self) -> None:
        if min(self.draws, self.step_draws, self.micro_batch) < 1 or self.every < 0:
            raise BadSetting(
                f"a judge takes draws, step_draws and micro_batch >= 1, every >= 0: {self}."
            )


def answers(defense: Deployed, x: Tensor, key: Key, draws: int, micro_batch: int) -> Tensor:
    """Labels of `draws` answers of the defense to each image, (B, C, H, W) -> (B, draws) int64.

    Cost: draws x defense.passes forwards an example.
    """
    keys = key.spread("draw", draws)
    labels = []
    for window, index in chunks(len(keys), micro_batch, x.device):
        found = defense.labels(x[index // draws], keys[index])
        labels.append(found[: window.stop - window.start])
    return by_example(torch.cat(labels), draws)


def judge(
    defense: Deployed, threat: Threat, x: Tensor, x0: Tensor, key: Key, judging: Judging
) -> Verdict:
    """Score points on draws that no attacker has seen.

    x, x0: (B, C, H, W) in [0, 1], the points and the clean images; key: the examples' root.
    Returns the verdict; a deterministic defense is asked once, whatever judging.draws.
    Raises OutsideThreat, naming the first row, its size and eps; BadImages for NaN.
    Cost: judging.draws x defense.passes forwards an example.

    >>> from besiege.attacks.threat import Linf
    >>> from besiege.defenses.defense import Defense
    >>> from besiege.defenses.transform import Chain
    >>> from besiege.laws.problems import linear_classifier
    >>> x0 = torch.full((2, 1, 4, 4), 0.5)
    >>> key = Key.root(0, [0, 1])
    >>> bare = Defense(Chain(), linear_classifier())
    >>> judge(bare, Threat(Linf(0.1)), x0, x0, key, Judging(draws=5)).predicted.shape
    torch.Size([2, 1])
    """
    x = threat.submitted(x, x0)
    if not bool(x.isfinite().all()):
        raise BadImages("a point to judge has pixels that are NaN or infinite; nothing was scored.")
    inside = threat.admits(x, x0)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0, 0])
        size = float(threat.ball.size(x[row : row + 1].double(), x0[row : row + 1].double()))
        low, high = float(x[row].min()), float(x[row].max())
        raise OutsideThreat(
            f"row {row} is outside the threat {threat.name}: its size is {size:.6g} where at most "
            f"{threat.ball.eps:.6g} is admitted, its pixels are in [{low:.4g}, {high:.4g}] where "
            "[0, 1] is. Project it (threat.project) before it is judged."
        )
    shape = (x.shape[1], x.shape[2], x.shape[3])
    draws = judging.draws if defense.is_random(shape) else 1
    shift = x.double() - x0.double()
    distance = l2(shift)
    entries = x0[0].numel()
    return Verdict(
        predicted=answers(defense, x, key.fold("judge"), draws, judging.micro_batch),
        linf=linf(shift),
        l2=distance,
        rms=distance / entries**0.5,
        l1=row_sum(shift.abs()),
        l0=(shift != 0).flatten(1).double().mean(1),
        size=threat.ball.size(x.double(), x0.double()),
    )


def check_images(x: Tensor, y: Tensor, classes: int, channels: int, ids: Sequence[int]) -> None:
    """Refuse images and labels that no score could mean anything for.

    Raises BadImages, naming the first example: wrong shape, NaN, out of [0, 1], label out of range.
    """
    if x.ndim != 4 or x.shape[1] != channels:
        raise BadImages(
            f"images have shape {tuple(x.shape)}, but the classifier takes (B, {channels}, H, W) "
            "float in [0, 1]: give NCHW with its number of channels."
        )
    for what, bad in (
        ("pixels that are NaN or infinite", ~x.isfinite()),
        (
            "pixels outside [0, 1]; divide 8-bit images by 255, and leave normalisation to the "
            "Classifier",
            (x < 0) | (x > 1),
        ),
        (
            f"a label outside 0..{classes - 1}, the classes of the model",
            ((y < 0) | (y >= classes))[:, None, None, None],
        ),
    ):
        rows = bad.flatten(1).any(1)
        if bool(rows.any()):
            i = int(rows.nonzero()[0, 0])
            seen = f"pixels {float(x[i].min()):.4g} to {float(x[i].max()):.4g}, label {int(y[i])}"
            raise BadImages(f"image with id {ids[i]} has {what} (it has {seen}).")
