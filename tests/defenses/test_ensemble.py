"""Ensembles, barrages and grouped majorities: known answers, views, files and attackers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from besiege.attacks.threat import Linf
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.barrage import Barrage
from besiege.defenses.catalog import parse_chain
from besiege.defenses.defense import ABSTAIN, STAGES, Defense, Majority, Mean
from besiege.defenses.ensemble import Ensemble, Member
from besiege.defenses.noise import Noise
from besiege.defenses.transform import Chain, Graft
from besiege.evaluation import evaluate
from besiege.laws.problems import coin_defense, linear_classifier
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.models.stages import Noise as StageNoise
from besiege.report.tables import summarise
from besiege.study.adaptive.descent import descent
from besiege.study.experiment.experiment import experiment_from
from besiege.study.prepared import prepare
from besiege.study.recipes import RECIPES
from besiege.study.rejudge import rejudge
from besiege.study.run import run_experiment

SHAPE = (1, 8, 8)
KEY = Key.root(2, range(6))
X = KEY.fold("x").uniform(*SHAPE)
ONE, OTHER = (linear_classifier(3, SHAPE, seed=seed) for seed in (0, 1))
NOISY = Defense(parse_chain("noise:scale=0.2 + fd"), OTHER, Mean(10, "logits"))


def of(average: str, *weights: float) -> Ensemble:
    plain = Defense(parse_chain("fd"), ONE)
    return Ensemble(tuple(map(Member, (plain, NOISY), weights)), average)


def own(part: Defense, i: int) -> Tensor:
    return part.each(X, KEY.fold("member", i))


def test_logits_are_the_weighted_mean_of_the_means_over_passes() -> None:
    """P3 as realised: the mean over defenses of the mean over passes of logits."""
    whole = of("logits", 1, 3)
    first, second = (own(part, i).mean(1) for i, part in enumerate(whole.parts))
    torch.testing.assert_close(whole.logits(X, KEY), 0.25 * first + 0.75 * second)
    assert torch.equal(whole.labels(X, KEY), whole.logits(X, KEY).argmax(1))
    assert whole.passes == 11
    assert whole.is_random(SHAPE)


def test_probabilities_are_averaged_within_members_and_between() -> None:
    parts = (Defense(Chain(), ONE), Defense(NOISY.chain, OTHER, Mean(4)))
    whole = Ensemble((Member(parts[0], 0.2), Member(parts[1], 0.8)), "probabilities")
    first, second = (own(part, i).softmax(-1).mean(1) for i, part in enumerate(parts))
    torch.testing.assert_close(whole.logits(X, KEY).exp(), 0.2 * first + 0.8 * second)


def spelling(label: int) -> Defense:
    """Always answers `label`."""
    bare = linear_classifier(3, SHAPE)
    with torch.no_grad():
        bare.network[1].weight.zero_()  # type: ignore[index]
        bare.network[1].bias.copy_(3 * torch.eye(3)[label])  # type: ignore[index]
    return Defense(Chain(), bare)


@pytest.mark.parametrize(
    ("weights", "label"), [((1, 1, 1), 1), ((3, 1, 1), 2), ((2, 1, 1), 1), ((1, 0.5, 0.6), 1)]
)
def test_a_ballot_counts_weights(weights: tuple[float, ...], label: int) -> None:
    members = map(Member, (spelling(2), spelling(1), spelling(1)), weights)
    whole = Ensemble(tuple(members), "labels")
    assert whole.labels(X, KEY).tolist() == [label] * 6


def test_a_member_without_an_answer_has_no_vote_and_silences_a_mean() -> None:
    dumb = spelling(0)
    with torch.no_grad():
        dumb.classifier.network[1].bias.fill_(torch.nan)  # type: ignore[index]
    members = (Member(dumb, 9), Member(spelling(1)))
    assert Ensemble(members, "labels").labels(X, KEY).tolist() == [1] * 6
    assert Ensemble(members).labels(X, KEY).tolist() == [ABSTAIN] * 6
    assert Ensemble(members[:1], "labels").labels(X, KEY).tolist() == [ABSTAIN] * 6


def test_members_draw_independently_and_rows_alone() -> None:
    noise = Defense(parse_chain("noise:scale=0.2"), ONE)
    twice = Ensemble((Member(noise), Member(noise)))
    alone = twice.logits(X[2:3], KEY[2:3])
    torch.testing.assert_close(alone, twice.logits(X, KEY)[2:3])
    first, second = (noise.logits(X, KEY.fold("member", i)) for i in range(2))
    assert not torch.equal(first, second)


def test_a_view_reaches_every_member_that_has_the_link() -> None:
    whole = of("logits", 1, 1)
    assert [link.name for link in whole.links] == ["fd", "noise"]
    seen = whole.seen_through({"fd": "identity", "noise": "skip"})
    names = [[link.name for link in part.links] for part in seen.parts]
    assert names == [["fd"], ["fd"]]
    assert all(isinstance(part.links[0], Graft) for part in seen.parts)
    assert RECIPES.build("white-box").stops_at(whole) == "fd"
    with pytest.raises(UnknownName, match='Did you mean "noise"'):
        whole.seen_through({"nose": "skip"})


def test_members_that_do_not_fit_are_refused() -> None:
    plain = Defense(Chain(), ONE)
    with pytest.raises(BadSetting, match="agree in num_classes"):
        Ensemble((Member(plain), Member(Defense(Chain(), linear_classifier(4, SHAPE)))))
    with pytest.raises(BadSetting, match="weights above 0"):
        Ensemble((Member(plain, 0),))
    with pytest.raises(BadSetting, match='different links named "fd"'):
        Ensemble(
            (Member(Defense(parse_chain("fd"), ONE)), Member(Defense(parse_chain("fd=noise"), ONE)))
        )
    with pytest.raises(UnknownName, match='Did you mean "logits"'):
        Ensemble((Member(plain),), "logit")


def test_it_is_besieged_from_python() -> None:
    """Without links the ensemble is linear: a large ball breaks it, none leaves it."""
    whole = Ensemble((Member(Defense(Chain(), ONE)), Member(Defense(Chain(), OTHER))))
    y = whole.labels(X, KEY)
    broken = evaluate(whole, X, y, Linf(0.5), recipes=["none", "bpda+eot"], steps=5)
    assert [line.accuracy.estimate for line in broken.lines] == [1.0, 0.0]


FILE = {
    "data": "digits",
    "model": "digits-cnn",
    "defense": [
        {
            "name": "pair",
            "of": "probabilities",
            "member": [
                {"chain": "noise:scale=0.1 + fd", "vote": "mean:draws=2", "weight": 0.5},
                {"chain": "bits:bits=3", "model": "digits-cnn"},
            ],
        },
        {"name": "choice", "chain": "(bits:bits=3 + noise) | median + fd"},
    ],
    "threat": [{"eps": 0.1}],
    "recipe": [{"kind": "bpda+eot", "steps": 2, "draws": 2}],
}
SMALL = ["data.n=3", "judge.draws=3"]


def test_it_runs_from_a_file_and_is_judged_again(tmp_path: Path) -> None:
    experiment = experiment_from(FILE, [*SMALL, "keep.images=all"])
    folder = run_experiment(experiment, tmp_path / "run")
    assert [line.defense for line in summarise(folder).lines] == ["pair", "choice"]
    assert rejudge(folder).confirmed


def test_every_setting_of_a_member_is_recorded() -> None:
    """And so names another cell; a plain defense is recorded as it always was."""
    changes = (
        "defense[0].member[0].weight=0.4",
        "defense[0].member[1].model=other",
        "defense[0].member[1].vote=mean",
        "defense[0].of=logits",
        "defense[0].name=pair",
    )
    records = [str(experiment_from(FILE, [c]).defense[0].record()) for c in changes]
    assert len(set(records)) == len(changes)
    plain = experiment_from(FILE).defense[1]
    assert plain.record() == {"chain": plain.chain, "vote": "one"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("defense[0].chain=fd", "belong to the members"),
        ("defense[0].member[0].weight=0", "defense[0].member[0].weight"),
        ("defense[0].member[1].chain=bitts", 'member[1].chain: Unknown transform: "bitts"'),
        ("defense[0].member[1].vote=men", 'member[1].vote: Unknown vote: "men"'),
        ("defense[0].of=logit", "defense[0].of: expected"),
        ("defense[1].chain=(fd | jpeg", "brackets"),
    ],
)
def test_a_wrong_key_is_named(change: str, says: str) -> None:
    with pytest.raises(Exception, match=says.replace("[", r"\[")):
        experiment_from(FILE, [change])


def test_weights_inside_a_chain_count_from_the_folder_of_the_file(tmp_path: Path) -> None:
    chain = "denoiser:network=own.py:f + pixel-defend:density=own.py:g"
    (tmp_path / "own.py").write_text("f = len\n\n\ndef g(x, c, i, j):\n    return x\n")
    found = experiment_from({**FILE, "defense": [{"name": "a", "chain": chain}]}, home=tmp_path)
    assert found.files() == [tmp_path / "own.py"] * 2
    bad = {"name": "b", "chain": "adversarial:delta=0.1,model=file:no.safetensors"}
    with pytest.raises(Exception, match=str(tmp_path / "no.safetensors")):
        experiment_from({**FILE, "defense": [bad]}, home=tmp_path)


MOVED = {
    "chain": "(own.py:f|adversarial:model=file:net.safetensors,steps=1) + quilt:patches=p.npy",
    "model": "file:net.safetensors",
}


@pytest.mark.parametrize("changed", ["net.safetensors", "own.py", "p.npy", ""])
def test_members_are_named_by_what_their_files_hold(tmp_path: Path, changed: str) -> None:
    """Not by where they lie, with links, barrages, weights and models of members."""
    network = load_model("digits-cnn").network
    cells = []
    for folder, other in ((tmp_path / "a", False), (tmp_path / "b", True)):
        folder.mkdir()
        new = [name == changed and other for name in ("net.safetensors", "own.py", "p.npy")]
        weights = {k: v * (1 + new[0]) for k, v in network.state_dict().items()}
        save_file(weights, folder / "net.safetensors")
        (folder / "own.py").write_text(f"f = {'len' if new[1] else 'abs'}\n")
        patches = np.arange(20 * 5 * 5, dtype=np.uint8).reshape(20, 25) + np.uint8(new[2])
        np.save(folder / "p.npy", patches)
        guards = [{"name": "a", "member": [MOVED, {"chain": "fd"}]}, {"name": "b", **MOVED}]
        found = experiment_from({**FILE, "defense": guards}, home=folder)
        cells.append(list(prepare(found).sieges))
    same = [one == another for one, another in zip(*cells, strict=True)]
    assert same == [changed == ""] * 2


def test_models_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    network = load_model("digits-cnn").network
    names = []
    for swapped in (False, True):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            factor = 2 if (folder == "b") != swapped else 1
            weights = {k: v * factor for k, v in network.state_dict().items()}
            save_file(weights, tmp_path / folder / "net.safetensors")
        members = [{"model": f"file:{folder}/net.safetensors"} for folder in ("a", "b")]
        table = {"name": "pair", "member": members}
        found = experiment_from({**FILE, "defense": [table]}, home=tmp_path)
        names += prepare(found).sieges
    assert len(set(names)) == 2


def test_random_stages_of_members_are_frozen_by_a_view_and_keyed_by_member() -> None:
    noisy = Classifier(nn.Sequential(StageNoise(0.5), ONE.network).eval(), 3, channels=1)
    part = Defense(Chain(), noisy)
    whole = Ensemble((Member(part), Member(part), Member(Defense(parse_chain("fd"), OTHER))))
    assert whole.is_random(SHAPE)
    assert whole.viewable == (STAGES, "fd")
    first, second = (own(part, i)[:, 0] for i in (0, 1))
    assert not torch.allclose(first, second)
    third = own(whole.parts[2], 2)[:, 0]
    torch.testing.assert_close(whole.logits(X, KEY), (first + second + third) / 3)
    recipe = RECIPES.build("frozen")
    assert recipe.view_of(whole) == {STAGES: "frozen", "fd": "frozen"}
    view = recipe.seen(whole)
    assert torch.equal(view.logits(X, KEY), view.logits(X, KEY.fold("another")))
    assert not torch.equal(whole.logits(X, KEY), whole.logits(X, KEY.fold("another")))
    with pytest.raises(UnknownName, match=STAGES):
        of("logits", 1, 1).seen_through({STAGES: "frozen"})


def test_links_look_at_the_classifier_of_their_member_also_inside_barrages() -> None:
    chain = parse_chain("deflection | fd")
    whole = Ensemble((Member(Defense(chain, ONE)), Member(Defense(chain, OTHER))))
    for part, classifier in zip(whole.parts, (ONE, OTHER), strict=True):
        barrage = part.links[0]
        assert isinstance(barrage, Barrage)
        assert getattr(barrage.chains[0], "classifier", None) is classifier


def test_a_descent_test_finds_links_of_any_member() -> None:
    found = descent(of("logits", 1, 1), "noise", X, KEY.fold("y").integers(3), KEY, draws=2)
    assert set(found.ranking) == {"exact", "identity", "random"}


def test_a_barrage_sends_each_row_through_the_chain_it_drew() -> None:
    chains = (parse_chain("contrast"), parse_chain("bits:bits=1"), Noise())
    link = Barrage(chains)
    key = Key.root(7, range(300))
    x = key.fold("x").uniform(1, 3, 3)
    draw = link.draw(key, (1, 3, 3))
    out = link.forward(x, draw)
    for b in range(0, 300, 17):
        i = int(draw.chain[b])
        own_draw = chains[i].draw(key[b : b + 1].fold("chain", i), (1, 3, 3))
        assert torch.equal(out[b : b + 1], chains[i].forward(x[b : b + 1], own_draw))
    counts = draw.chain.bincount(minlength=3)
    assert counts.min() > 70  # binomial(300, 1/3): 3.7 standard deviations below 100


def test_barrages_in_text() -> None:
    chain = parse_chain("(bits:bits=3 + noise) | median | fd + rdg:limit=1e-1")
    barrage = chain.links[0]
    assert isinstance(barrage, Barrage)
    assert [inner.name for inner in barrage.chains] == ["bits + noise", "median", "fd"]
    assert chain.name == "barrage + rdg"
    assert parse_chain("(fd + jpeg) + bits").name == "fd + jpeg + bits"
    assert parse_chain("mine=(fd | jpeg) + fd | jpeg").name == "mine + barrage"
    assert RECIPES.build("bpda+eot").view_of(Defense(chain, ONE))["barrage"] == "best"
    assert "exact" in parse_chain("noise | contrast").links[0].surrogates
    for text in ("barrage:chains=fd", "fd |", "fd) + (jpeg"):
        with pytest.raises(BadSetting):
            parse_chain(text)
    with pytest.raises(BadSetting, match="different shapes"):
        parse_chain("fd | pad:back=false").out_shape((3, 32, 32))


VOTES = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 2, 0], [2, 2, 1, 1, 0, 0, 0, 1, 2]])


def test_a_majority_in_groups_is_that_of_the_groups_winners() -> None:
    """Winners 0, 1, 0 in row 1, where 1 has as many votes as 0; 2, 0 and 0, a tie, in row 2."""
    logits = torch.nn.functional.one_hot(VOTES, 3).float()
    assert Majority(9, groups=3).labels(logits).tolist() == [0, 0]
    assert Majority(9).labels(logits[1:]).tolist() == [0]
    mixed = logits[:, [2, 3, 0, 4, 5, 1, 6, 7, 8]]
    assert Majority(9, groups=3).labels(mixed).tolist() == [1, 0]
    assert Majority(9, quorum=0.7, groups=3).labels(mixed).tolist() == [ABSTAIN, ABSTAIN]
    with pytest.raises(BadSetting, match="divisor of draws=9"):
        Majority(9, groups=2)


def test_many_trials_are_right_where_one_is_not() -> None:
    """As `simulated` by NumPy: 8 groups of 16 coins of 0.7."""
    label = torch.arange(60) % 10
    x = (label.float()[:, None, None, None] + 0.5).div(10).expand(-1, 1, 4, 4)
    alone = coin_defense(0.7)
    voted = Defense(alone.chain, alone.classifier, Majority(128, groups=8))
    assert voted.passes == 128
    assert (voted.labels(x, Key.root(0, range(60))) == label).double().mean() > 0.97
