"""What is besieged as a torch module, and the attacks of other libraries on it."""

from __future__ import annotations

import ast
import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from besiege.attacks.attack import EUCLIDEAN, Ask, Attack, Point, Problem
from besiege.core.entry import parse_value
from besiege.core.errors import BadSetting, BesiegeError, unknown
from besiege.core.generators import seeded
from besiege.core.key import Key

_SPEC = re.compile(r"\s*(?P<package>\w+):(?P<name>[A-Za-z_]\w*)\s*(\((?P<settings>.*)\))?\s*")


class _Asked(torch.autograd.Function):
    """Mean logits of an oracle; backward asks it again, under the same draws."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ask: Ask, goal: Tensor, key: Key) -> Tensor:
        scores = ask(x, goal, key, gradient=False).scores
        if scores is None:
            raise BadSetting(
                "other libraries ask for logits, but here are labels only: grant scores, or choose "
                "an attack that needs no more (`besiege list attacks`)."
            )
        ctx.asked = (x.detach(), ask, goal, key)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, ask, goal, key = ctx.asked
        with torch.enable_grad():  # which a backward pass switches off
            return ask(x, goal, key, weights=weights).gradient, None, None, None


class Bridge(nn.Module):
    """An oracle as a module: x (B, C, H, W) in [0, 1] -> mean logits over its draws (B, K).

    Call n draws afresh from keys.fold("call", n), by example where it brings as many images as
    there are keys, else by row from the first key. The gradient is that of the attacker's view, of
    the mean, at the same draws; there is no second one. It is always in evaluation mode.
    Cost: the oracle's forwards a call, once more with as many backwards for a gradient; its meter
    counts them.
    """

    def __init__(self, ask: Ask, keys: Key) -> None:
        super().__init__()
        self.ask, self.keys, self.calls = ask, keys, 0
        # Other libraries look where the parameters are to know the device.
        nothing = torch.empty(0, device=keys.device)
        self.place = nn.Parameter(nothing, requires_grad=False)
        self.eval()

    def train(self, mode: bool = True) -> Bridge:
        """Stays as it is: dropout or batch statistics would attack something else."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits (B, K)."""
        own = len(x) == len(self.keys)
        keys = self.keys if own else self.keys[:1].spread("row", len(x))
        key = keys.fold("call", self.calls)
        self.calls += 1
        goal = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # of losses nobody reads
        found: Tensor = _Asked.apply(x, self.ask, goal, key)  # type: ignore[no-untyped-call]
        return found


def foreign_attack(spec: str) -> Attack | None:
    """The attack of another library that "PACKAGE:NAME(setting=value, ...)" names; None for others.

    Settings are those of the library. Radius, norm and target are the threat's where the library
    takes them and the spec does not give them. It runs to its end by itself, so `steps` and
    `restarts` of the recipe: only the latter count. It draws from the global generators, seeded for
    it by the key of its first example and restored afterwards: its rows depend on their batch.

    Raises BadSetting where the package is not installed or the settings are none; UnknownName.

    >>> foreign_attack("pgd:step=0.1") is None
    True
    """
    if spec.partition(":")[0].strip() not in PACKAGES:
        return None
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise BadSetting(f'"{spec}" is not PACKAGE:NAME(setting=value, ...).')
    package, name = found["package"], found["name"]
    home, call = PACKAGES[package]
    made = _member(_imported(home, package), name, spec)
    run = partial(_run, partial(call, made, _settings(found["settings"] or "", spec)), spec)
    return Attack(lambda p: Point(p.x0), lambda p, s, t: s, whole=run)


def _run(call: Callable[[nn.Module, Problem], Tensor], spec: str, p: Problem) -> Tensor:
    """Its points, (B, C, H, W), wherever they are."""
    seed = int(p.key.fold("foreign").integers(2**31 - 1)[0])
    try:
        with warnings.catch_warnings(), seeded(seed, p.x0.device):
            warnings.simplefilter("ignore")  # of what they import and call, not of ours
            return call(Bridge(p.oracle, p.key.fold("bridge")), p).detach().to(p.x0)
    except BesiegeError:
        raise
    except Exception as error:
        raise BadSetting(f'attack "{spec}" fails: {type(error).__name__}: {error}') from error


def _imported(home: str, package: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(home)
    except ImportError as error:
        raise BadSetting(
            f"attacks of {package} need that package, which cannot be imported ({error}): "
            'pip install "besiege[bridge]" brings Foolbox; the others come from their authors.'
        ) from error


def _member(home: ModuleType, name: str, spec: str) -> Any:
    known = [n for n, v in vars(home).items() if callable(v) and not n.startswith("_")]
    if name not in known:
        raise unknown("attack", name, known, where=f'"{spec}"')
    return getattr(home, name)


def _settings(text: str, spec: str) -> dict[str, Any]:
    """What stands between the parentheses: Python literals, fractions, or plain words."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(k.arg is None for k in call.keywords):
            raise BadSetting(f'"{spec}": settings are name=value, separated by commas.')
        return {str(k.arg): _value(k.value) for k in call.keywords}
    except SyntaxError as error:
        raise BadSetting(f'"{spec}": settings are name=value, separated by commas.') from error


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return parse_value(ast.unparse(node).replace(" ", ""))


# Balls whose plain norm is none of l2 and linf.
NORMS = {**dict.fromkeys(EUCLIDEAN, 2.0), "l1": 1.0}


def _norm(p: Problem) -> float:
    """Of the ball: 1, 2 or infinity."""
    return NORMS.get(p.threat.ball.name.split()[0], math.inf)


def _radius(p: Problem) -> float:
    """Of the ball in its plain norm; the largest of the batch where it differs by image."""
    if _norm(p) != 2:
        return p.threat.ball.eps
    short = torch.full_like(p.x0, p.x0[0].numel() ** -0.5)  # of l2 length 1
    return float((p.threat.ball.eps / p.threat.ball.size(p.x0 + short, p.x0)).max())


def _filled(made: Any, given: Mapping[str, Any], **offers: Any) -> dict[str, Any]:
    """The settings given, and those of `offers` that `made` takes."""
    takes = inspect.signature(made).parameters
    return {**{k: v for k, v in offers.items() if k in takes}, **given}


def _foolbox(made: Any, given: Mapping[str, Any], model: nn.Module, p: Problem) -> Tensor:
    foolbox = import_module("foolbox")
    seen = foolbox.PyTorchModel(model, bounds=(0, 1), device=p.x0.device)
    kind = "TargetedMisclassification" if p.threat.targeted else "Misclassification"
    goal = getattr(foolbox.criteria, kind)(p.goal)
    attack = made(**given)
    nearest = isinstance(attack, foolbox.attacks.base.MinimizationAttack)
    found: Tensor = attack(seen, p.x0, goal, epsilons=None if nearest else _radius(p))[0]
    return found


def _torchattacks(made: Any, given: Mapping[str, Any], model: nn.Module, p: Problem) -> Tensor:
    attack = made(model, **_filled(made, given, eps=_radius(p)))
    if p.threat.targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    found: Tensor = attack(p.x0, p.goal)
    return found


def _art(made: Any, given: Mapping[str, Any], model: nn.Module, p: Problem) -> Tensor:
    estimators = import_module("art.estimators.classification")
    classes = model(p.x0[:1]).shape[1]
    seen = estimators.PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        tuple(p.x0.shape[1:]),
        classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if p.x0.device.type == "cpu" else "gpu",
    )
    offers = {"eps": _radius(p), "norm": _norm(p), "targeted": p.threat.targeted}
    settings = _filled(made, given, **offers, batch_size=len(p.x0), verbose=False)
    goal = nn.functional.one_hot(p.goal, classes).cpu().numpy()
    points = made(seen, **settings).generate(x=p.x0.cpu().numpy(), y=goal)
    return torch.from_numpy(points)


def _adv_lib(made: Any, given: Mapping[str, Any], model: nn.Module, p: Problem) -> Tensor:
    offers = {"ε": _radius(p), "eps": _radius(p), "norm": _norm(p), "targeted": p.threat.targeted}
    found: Tensor = made(model, p.x0, p.goal, **_filled(made, given, **offers))
    return found


# Name in specs -> where its attacks are, and how one is run.
PACKAGES: Mapping[str, tuple[str, Callable[..., Tensor]]] = {
    "foolbox": ("foolbox.attacks", _foolbox),
    "torchattacks": ("torchattacks", _torchattacks),
    "art": ("art.attacks.evasion", _art),
    "adv_lib": ("adv_lib.attacks", _adv_lib),
}
