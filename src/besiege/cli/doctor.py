"""`besiege doctor`: a model and a defense looked over before any attack."""

from __future__ import annotations

from typing import Annotated

import typer

from besiege.cli import options


def doctor(
    model: options.Network,
    data: Annotated[str, typer.Option(help="Images with labels; see `besiege list data`.")],
    defense: options.Chain = "none",
    vote: Annotated[str, typer.Option(help='How draws become one answer: "majority:draws=16".')] = (
        "one"
    ),
    threat: options.Goal = "linf:eps=8/255",
    attack: Annotated[str, typer.Option(help="Whose first steps are looked at.")] = "pgd",
    n: Annotated[int, typer.Option(help="How many images.", min=2)] = 16,
    draws: Annotated[int, typer.Option(help="Of each gradient.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    plant: Annotated[
        bool, typer.Option("--planted", help="Has the attack find planted points (27); slow.")
    ] = False,
) -> None:
    """Look a defense over: range, modes, logits, gradients, surrogates, draws, batches, codec.

    Prints what was asked, with the figure of what passed and why the rest was not asked, then what
    was found. Exit 1 where a check says STOP.
    """
    from dataclasses import replace

    from besiege.attacks.threat import BALLS, Threat
    from besiege.cli.findings import show, show_answers
    from besiege.data.catalog import load_images
    from besiege.defenses.catalog import parse_chain
    from besiege.defenses.defense import VOTES, Defense
    from besiege.models.catalog import load_model
    from besiege.study.doctor.doctor import RECIPE, diagnose
    from besiege.study.doctor.planted import planted

    images = load_images(data)
    x, y, _ = images.take(range(min(n, len(images))))
    whole = Defense(parse_chain(defense), load_model(model, shape=images.shape), VOTES.build(vote))
    recipe = replace(RECIPE, attack=attack, draws=draws)
    goal = Threat(BALLS.build(threat))
    found = diagnose(whole, x, y, threat=goal, recipe=recipe, seed=seed)
    show_answers(found.answers)
    extra = planted(whole, x, threat=goal, recipe=recipe, seed=seed) if plant else []
    if show([*found.findings, *extra], whole.name):
        raise typer.Exit(1)
