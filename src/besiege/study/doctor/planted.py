"""Check 27: does an attack find an adversarial example of which it is known that it is there?

Zimmermann et al. 2022 (arXiv:2206.13991): of each image one point on the edge of the ball is
declared adversarial. A linear head on the features before the last layer is fitted to tell it from
the image and many other points of the ball, so that the network, its links and its draws stay what
they are, and only the question is another. An attack that fails here fails for a reason of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from besiege.attacks.threat import Threat
from besiege.checks.catalog import CHECKS
from besiege.checks.finding import Finding
from besiege.checks.opponents import Planted
from besiege.core.batch import by_example, chunks
from besiege.core.key import Key
from besiege.defenses.defense import VOTE, Deployed
from besiege.models.classifier import Classifier
from besiege.study.doctor.doctor import RECIPE, THREAT
from besiege.study.judge import answers
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

INNER = 128  # points of the ball that are not adversarial, and as many tries of random search
DRAWS = 8  # of the planted point of a random defense, in fitting and in judging
LINE = 0.5  # where the decision lies on the way from the inner points to the planted one
RIDGE = 1e-4  # of the mean square of the features
STEPS = 50  # of the attack
FEWEST = 4  # images with a planted point, below which nothing is told
NUMBER = 27


def planted(
    defense: Deployed,
    x: Tensor,
    *,
    threat: Threat = THREAT,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    micro_batch: int = 32,
) -> list[Finding]:
    """What check 27 finds on `defense` attacked by `recipe`, with at least STEPS steps.

    x (B, C, H, W) in [0, 1]; 16 are enough. threat: untargeted, with a ball that has starts.
    Nothing for a defense of several models, or one whose last layer is not linear.
    Cost: about 270 forwards an image and 24 more of a random defense, STEPS steps of the attack.
    """
    evidence = evidence_of(defense, x, threat, recipe, seed, micro_batch)
    finding = None if evidence is None else CHECKS[NUMBER](evidence, defense.name)
    return [finding] if finding else []


def evidence_of(
    defense: Deployed, x: Tensor, threat: Threat, recipe: Recipe, seed: int, micro_batch: int
) -> Planted | None:
    """Who found the planted points of which images; None where none can be planted."""
    layer = None if len(defense.parts) > 1 else last_linear(defense.parts[0].classifier)
    if layer is None:
        return None
    garden = _Garden(defense, layer, threat, Key.root(seed, range(len(x)), x.device), micro_batch)
    heads, kept = garden.heads(x)
    recipe = replace(recipe, steps=max(recipe.steps, STEPS), loss=recipe.loss or RECIPE.loss)
    vote = {VOTE: "one"} if VOTE in defense.viewable else {}
    recipe = replace(recipe, view={**vote, **recipe.view})
    # Each image has a network of its own, so that no two can be in one batch.
    told = [garden.asked(heads[i], x, i, recipe) for i in kept]
    if len(told) < FEWEST:
        return None
    won, luck = torch.tensor(told).T.numpy()
    return Planted(won, luck)


def last_linear(classifier: Classifier) -> nn.Linear | None:
    """The layer that makes its logits, if it is a linear one."""
    found = [m for m in classifier.network.modules() if isinstance(m, nn.Linear)]
    fits = found and found[-1].out_features == classifier.num_classes
    return found[-1] if fits else None


class _Headed(nn.Module):
    """What a classifier hands to its last layer, (B, D), or two logits that a head makes of it."""

    def __init__(self, classifier: Classifier, layer: nn.Linear, head: Tensor | None) -> None:
        super().__init__()
        self.classifier, self.layer = classifier, layer
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) in [0, 1]."""
        seen: list[Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.classifier.unchecked(x)
        finally:
            handle.remove()
        features = seen[-1].flatten(1)
        if self.head is None:
            return features
        value = features @ self.head[:-1] + self.head[-1]
        return torch.stack([torch.zeros_like(value), value], 1)


@dataclass(frozen=True)
class _Garden:
    """Where points are planted, and found or not."""

    defense: Deployed
    layer: nn.Linear
    threat: Threat
    key: Key
    micro_batch: int

    @property
    def draws(self) -> int:
        """Of a point that is judged."""
        return max(1, DRAWS // self.defense.passes)

    def around(self, head: Tensor | None) -> Deployed:
        """The defense with a head in place of its last layer, or with its features as logits."""

        def change(own: Classifier) -> Classifier:
            module = _Headed(own, self.layer, head).eval()
            classes = self.layer.in_features if head is None else 2
            name, channels = f"{own.name}, planted", own.channels
            made = Classifier(module, classes, name=name, channels=channels, probe=False)
            return made.to(own.mean.device)

        return self.defense.with_classifiers(change)

    def features(self, points: Tensor, key: Key) -> Tensor:
        """(B, n, D) of points (B, n, C, H, W), each under a draw of its own."""
        seer, n = self.around(None), points.shape[1]
        flat, keys, found = points.flatten(0, 1), key.spread("point", n), []
        with torch.no_grad():
            for window, index in chunks(len(flat), self.micro_batch, flat.device):
                seen = seer.logits(flat[index], keys[index])
                found.append(seen[: window.stop - window.start])
        return by_example(torch.cat(found), n).double()

    def tries(self, x: Tensor, own: Key) -> Tensor:
        """(B, INNER, C, H, W): half of them anywhere in the ball, half on its edge."""
        n, keys = INNER // 2, own.spread("try", INNER)
        many = x.repeat_interleave(INNER, 0)
        inside = self.threat.ball.start(many, keys.fold("any"))
        on = by_example(self.edge(many, keys.fold("edge")), INNER)
        return torch.cat([by_example(inside, INNER)[:, :n], on[:, n:]], 1)

    def edge(self, x: Tensor, key: Key) -> Tensor:
        """A point of the edge for each x (B, C, H, W)."""
        ball = self.threat.ball
        there = key.normal(x.shape[1], x.shape[2], x.shape[3]).to(x)
        return self.threat.project(x + ball.eps * ball.ascent(there), x)

    def heads(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """(B, D + 1) weights and offset of each image, and the images of which they hold."""
        key = self.key.fold("planted")
        target = self.edge(x, key.fold("target"))[:, None]
        draws = self.draws if self.defense.is_random((x.shape[1], x.shape[2], x.shape[3])) else 1
        inner = torch.cat([x[:, None], self.tries(x, key.fold("tries"))], 1)
        low = self.features(inner, key.fold("inner"))
        high = self.features(target.expand(-1, draws, -1, -1, -1), key.fold("high"))
        middle = low.mean(1, keepdim=True)
        both = torch.cat([low, high], 1) - middle
        gram = both @ both.transpose(1, 2)
        scale = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        wanted = torch.cat([torch.zeros(low.shape[1]), torch.ones(draws)]).to(gram)
        eye = torch.eye(len(wanted)).to(gram)
        found = torch.linalg.solve(gram + (RIDGE * scale + 1e-12) * eye, wanted.expand(len(x), -1))
        weight = (both.transpose(1, 2) @ found[:, :, None])[:, :, 0]
        below = (low @ weight[:, :, None])[:, :, 0].amax(1)
        above = (high @ weight[:, :, None])[:, :, 0].mean(1)
        gap = above - below
        offset = -(below + LINE * gap)
        heads = torch.cat([weight, offset[:, None]], 1) / gap.abs().clamp_min(1e-12)[:, None]
        heads = heads.to(x)
        good = [i for i in range(len(x)) if gap[i] > 0 and self._holds(heads[i], x, target, i)]
        return heads, good

    def _holds(self, head: Tensor, x: Tensor, target: Tensor, i: int) -> bool:
        """Whether, on fresh draws, its planted point is adversarial and its image is not."""
        both = torch.stack([x[i], target[i, 0]])
        key = self.key[[i, i]].fold("planted", "holds")
        right = answers(self.around(head), both, key, self.draws, self.micro_batch)
        image, point = right.double().mean(1).tolist()
        return bool(image < 0.5 < point)

    def asked(self, head: Tensor, x: Tensor, i: int, recipe: Recipe) -> tuple[bool, bool]:
        """Whether the attack on image i finds an adversarial point, and whether luck does."""
        own, key = self.around(head), self.key[[i]]
        one, goal = x[i : i + 1], torch.zeros(1, dtype=torch.int64, device=x.device)
        siege = Siege(own, recipe, self.threat, Opponents(micro_batch=min(4, self.micro_batch)))
        found = self.threat.submitted(siege.attack(one, goal, key).x, one)
        points = torch.cat([found, self.tries(one, key.fold("luck"))[0]])
        keys = self.key[[i] * len(points)].fold("planted", "judged")
        won = answers(own, points, keys, self.draws, self.micro_batch).double().mean(1) > 0.5
        return bool(won[0]), bool(won[1:].any())
