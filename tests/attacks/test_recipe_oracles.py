"""A recipe's settings reach its oracle: source of gradients, draws by cosine, precision."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from besiege.attacks.loss import margin
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import Linf, RmsL2, Threat
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain, Transform
from besiege.laws.problems import largest_gain, linear_classifier
from besiege.models.callable import from_callable
from besiege.models.classifier import Classifier
from besiege.models.precision import in_precision
from besiege.study.judge import answers
from besiege.study.recipe import Recipe
from besiege.study.siege import Opponents, Siege

SHAPE = (1, 4, 4)
MODEL = linear_classifier(2, SHAPE, dtype=torch.float64)
BARE = Defense(Chain(), MODEL)
KEY = Key.root(7, range(5))
X = 0.4 + 0.2 * KEY.uniform(*SHAPE, dtype=torch.float64)  # [0, 1] never binds at these radii
OWN = BARE.labels(X, KEY)
DIFFERENCES = "finite-differences:directions="


@dataclass(frozen=True)
class Noise(Transform):
    """Keyed noise in proportion to the image."""

    size: float = 0.3
    name: str = "noise"

    def draw(self, key, shape):
        return key.normal(*shape)

    def forward(self, x, draw):
        return x + self.size * draw.to(x.dtype) * x

    @property
    def surrogates(self):
        return {"exact": self.forward}


NOISY = Defense(Chain((Noise(),)), MODEL)


def found(recipe, defense=BARE, threat=None, rows=slice(None), micro_batch=8, x=X, goal=OWN):
    siege = Siege(defense, recipe, threat or Threat(Linf(0.05)), Opponents(micro_batch=micro_batch))
    return siege.attack(x[rows], goal[rows], KEY[rows])


# Gradients from scores


@pytest.mark.parametrize("ball", [Linf(0.05), RmsL2(0.05)], ids=lambda b: b.name)
@pytest.mark.parametrize(
    ("gradients", "steps", "tolerance"),
    [
        (DIFFERENCES + "16,basis=coordinates", 20, 1e-5),
        (DIFFERENCES + "128,step=0.01", 10, 0.06),
    ],
)
def test_the_optimum_of_a_linear_model_is_reached_by_scores(ball, gradients, steps, tolerance):
    attack = "pgd:start=clean,decay=cosine"
    recipe = Recipe("r", attack, loss="margin", steps=steps, gradients=gradients)
    end = found(recipe, threat=Threat(ball, access="scores"))
    with torch.no_grad():
        change = MODEL(end.x) - MODEL(X)
    reached = (change.gather(1, 1 - OWN[:, None]) - change.gather(1, OWN[:, None]))[:, 0]
    possible = largest_gain(MODEL, ball, OWN, 1 - OWN)
    lost = end.claim >= 1
    assert int(lost.sum()) < 5
    assert bool((reached <= possible * (1 + 1e-9)).all())
    assert bool((reached >= possible * (1 - tolerance))[~lost].all())
    assert not end.backwards.any()


def test_estimates_run_on_a_model_that_tells_scores_and_find_what_gradients_find():
    weight = MODEL.network[1].weight.detach()
    bias = MODEL.network[1].bias.detach()
    told = from_callable(
        lambda x: x.reshape(len(x), -1) @ weight.numpy().T + bias.numpy(),
        2,
        "scores",
        channels=1,
        layout="array",
    ).double()
    assert told.access == "scores"
    with torch.no_grad():
        short = (MODEL(X)[:, 0] - MODEL(X)[:, 1]).abs().max()
    eps = 1.01 * float(short / largest_gain(MODEL, Linf(1.0), OWN[:1], 1 - OWN[:1]))
    threat = Threat(Linf(eps))
    plain = found(Recipe("r", steps=20), threat=threat)
    recipe = Recipe("r", steps=20, gradients=DIFFERENCES + "16,basis=coordinates")
    by_scores = found(recipe, Defense(Chain(), told), threat)
    assert plain.claim.tolist() == by_scores.claim.tolist() == [1.0] * 5
    with pytest.raises(BadSetting, match=r"can tell scores only: estimate them"):
        found(Recipe("r"), Defense(Chain(), told))


def test_every_query_is_counted_heard_and_limited():
    recipe = Recipe("r", steps=3, gradients=DIFFERENCES + "4", draws=2, confirm=3)
    threat = Threat(Linf(0.05), access="scores")
    free = found(recipe, NOISY, threat)
    assert free.forwards.tolist() == [3 * 2 * 9 + 3 * 3] * 5
    assert not free.loss.isnan().any()  # the reading at the point itself is the trace
    step = found(replace(recipe, steps=1), NOISY, threat)
    assert bool(((step.won[:, 0] * 2) % 1 == 0).all())
    for limit in (1, 17, 18, 35, 36, 53):
        held = found(recipe, NOISY, replace(threat, passes=limit))
        assert bool(held.spent.all())
        assert (held.forwards - 9).max() <= limit
        assert bool(threat.admits(held.x, X).all())


def test_gradients_without_the_right_are_refused_by_the_name_of_the_setting():
    with pytest.raises(BadSetting, match="the threat grants scores only") as caught:
        found(Recipe("r"), threat=Threat(Linf(0.05), access="scores"))
    assert '`gradients = "finite-differences"` in the recipe' in str(caught.value)
    with pytest.raises(BadSetting, match="the threat grants labels only") as caught:
        found(Recipe("r"), threat=Threat(Linf(0.05), access="labels"))
    assert "finite-differences" not in str(caught.value)  # which need scores
    with pytest.raises(BadSetting, match="need scores, but the threat grants labels only"):
        found(
            Recipe("r", gradients="finite-differences"), threat=Threat(Linf(0.1), access="labels")
        )


def test_no_gradient_is_stopped_where_none_is_sent():
    @dataclass(frozen=True)
    class Step(Transform):
        name: str = "step"

        def forward(self, x, draw):
            return x.round()

    defense = Defense(Chain((Step(),)), MODEL)
    recipe = Recipe("r", links="as-is")
    assert recipe.stops_at(defense) == "step"
    assert replace(recipe, gradients="finite-differences").stops_at(defense) is None


# Draws by a target cosine


def sized(cosine=0.9, **settings):
    return Recipe("r", steps=3, cosine=cosine, confirm=2, **settings)


def test_draws_are_those_that_the_pilots_ask_for_and_paid_for():
    end = found(sized(), NOISY)
    assert end.draws is not None
    assert set(end.draws.tolist()) <= {1, 2, 4, 8, 16, 32, 64}
    assert int(end.draws.max()) > 1
    assert end.forwards.tolist() == [8 + 3 * n + 3 * 2 for n in end.draws.tolist()]
    assert end.backwards.tolist() == [8 + 3 * n for n in end.draws.tolist()]
    more = found(sized(0.99), NOISY).draws
    assert bool((more >= end.draws).all())
    assert int(more.sum()) > int(end.draws.sum())
    assert found(sized(0.99, most_draws=5), NOISY).draws.max() == 5


def test_a_view_that_draws_nothing_needs_one_draw_and_no_pilots():
    end = found(sized())
    assert end.draws is None
    assert end.backwards.max() <= 3


def test_what_is_chosen_does_not_depend_on_the_batch():
    whole = found(sized(), NOISY)
    assert len(set(whole.draws.tolist())) > 1, "one group only: the test shows nothing"
    for rows in ([0], [1, 4], [3, 2]):
        part = found(sized(), NOISY, rows=torch.tensor(rows))
        for name, got, wanted in zip(part._fields, part, whole, strict=True):
            assert (got is wanted is None) or torch.equal(got, wanted[rows]), name


def test_the_limit_holds_with_pilots_or_is_refused():
    for limit in (17, 40):
        end = found(sized(), NOISY, Threat(Linf(0.05), passes=limit))
        assert ((end.forwards + end.backwards - 6) <= limit).all()
        assert bool(end.spent.any())
    with pytest.raises(BadSetting, match="limit of 15 passes an image is used up by the pilots"):
        found(sized(), NOISY, Threat(Linf(0.05), passes=15))


# Frozen draws


def test_frozen_draws_are_the_same_at_every_step_and_restart():
    recipe = Recipe("r", links="frozen", steps=4, restarts=2, draws=3)
    seen = _seen_draws(recipe)
    assert len(seen) > 8
    for i in range(5):
        mine = torch.cat([image[owner == i] for owner, image in seen])
        assert bool((mine == mine[:1]).all())
    fresh = _seen_draws(replace(recipe, links="best"))
    mine = torch.cat([image[owner == 0] for owner, image in fresh])
    assert len(mine.flatten(1).unique(dim=0)) >= 2 * 4 * 3


def _seen_draws(recipe):
    """(which example, its draw) of every full window that the search puts through the link."""
    seen, origins = [], KEY.fold("attack", recipe.name).values

    @dataclass(frozen=True)
    class Spy(Noise):
        def draw(self, key, shape):
            made = super().draw(key, shape)
            if len(key) == 8:  # no question whether anything is drawn at all
                seen.append(((key.origins[:, None] == origins).long().argmax(1), made))
            return made

    found(recipe, Defense(Chain((Spy(),)), MODEL))
    return seen


# Precision


class Recorded(nn.Module):
    """A linear network that notes the precision of what it computes."""

    def __init__(self):
        super().__init__()
        self.inner = linear_classifier(3, SHAPE).network
        self.seen = []

    def forward(self, x):
        out = self.inner(x)
        self.seen.append(out.dtype)
        return out


def recorded():
    network = Recorded().eval()
    return network, Classifier(network, 3, name="recorded", channels=1).eval()


def test_the_search_is_in_bfloat16_and_its_end_and_the_judge_in_float32():
    network, model = recorded()
    x = X.float()
    defense = Defense(Chain((Noise(),)), model)
    goal = defense.labels(x, KEY)
    network.seen.clear()
    recipe = Recipe("r", steps=4, draws=2, confirm=3, precision="bfloat16")
    found(recipe, defense, x=x, goal=goal, micro_batch=10)
    assert network.seen == [torch.bfloat16] * 4 + [torch.float32] * 6  # 3 x 15 rows in tens
    network.seen.clear()
    assert defense.logits(x, KEY).dtype == torch.float32
    answers(defense, x, KEY, 2, 10)
    assert set(network.seen) == {torch.float32}


def test_a_claim_of_bfloat16_that_float32_does_not_confirm_is_none():
    """Two logits that bfloat16 cannot tell apart, so that the wrong one comes first."""
    weight = torch.zeros(2, 16)
    weight[:, 0] = torch.tensor([4.0, 4.004])
    layer = nn.Linear(16, 2, bias=False, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(weight)
    model = Classifier(nn.Sequential(nn.Flatten(), layer), 2, name="near", channels=1).eval()
    x, goal = torch.full((5, *SHAPE), 0.5), torch.ones(5, dtype=torch.int64)
    defense = Defense(Chain(), model)
    assert defense.labels(x, KEY).tolist() == [1] * 5
    assert in_precision(model, "bfloat16")(x).argmax(1).tolist() == [0] * 5
    low = found(Recipe("r", steps=3, precision="bfloat16"), defense, x=x, goal=goal)
    assert bool((low.won == 1).all())  # what the search believes
    assert low.claim.tolist() == [0.0] * 5
    assert low.backwards.tolist() == [3] * 5  # and no reason to stop
    high = found(Recipe("r", steps=3), defense, x=x, goal=goal)
    assert not high.won.any()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bfloat16_is_near_float32(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = linear_classifier(3, SHAPE).to(device)
    x = X.float().to(device)
    low = in_precision(model, "bfloat16")(x).detach()
    assert low.dtype == torch.float32
    assert 0 < float((low - model(x).detach()).abs().max()) < 0.1
    assert in_precision(model, "float32") is model
    key = KEY.to(device)
    sieges = [
        Siege(
            Defense(Chain(), model),
            Recipe("r", steps=10, loss="margin", attack="bim:step=0.2", precision=p),
            Threat(Linf(0.02)),
            Opponents(micro_batch=8),
        )
        for p in ("float32", "bfloat16")
    ]
    goal = model(x).argmax(1)
    one, other = (s.attack(x, goal, key).x for s in sieges)
    gain = [margin()(model(p), goal, False) - margin()(model(x), goal, False) for p in (one, other)]
    assert torch.allclose(gain[0], gain[1], rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"gradients": "finite-diferences"}, UnknownName, 'Did you mean "finite-differences"?'),
        ({"gradients": "finite-differences:width=1"}, UnknownName, '"width"'),
        ({"gradients": "finite-differences:step=0"}, BadSetting, "step > 0, got 20 and 0"),
        ({"precision": "float16"}, UnknownName, 'precision in recipe "r": "float16"'),
        ({"cosine": 1.0}, BadSetting, 'recipe "r": cosine lies between 0 and 1'),
        ({"most_draws": 0}, BadSetting, "most_draws is at least 1, got 0"),
        ({"cosine": 0.9, "gradients": "finite-differences"}, BadSetting, "give `draws` instead"),
        (
            {"precision": "bfloat16", "gradients": "finite-differences"},
            BadSetting,
            "rounding error",
        ),
    ],
)
def test_bad_settings_say_what_is_wrong(settings, error, says):
    with pytest.raises(error) as caught:
        Recipe("r", **settings)
    assert says in str(caught.value)


# However a reading is cut up


@pytest.fixture(scope="module")
def convolved():
    """A view with convolutions, whose rounding depends on how many rows are seen at once."""
    key = Key.root(3, [0])
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 3))
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(0.3 * key.fold(name).normal(*p.shape)[0])
    return Classifier(network.eval(), 3, name="convolved", channels=1).eval()


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
@pytest.mark.parametrize("average", ["loss", "probabilities", "logits"])
def test_at_one_micro_batch_a_reading_does_not_depend_on_how_the_batch_is_cut(
    convolved, average, micro_batch
):
    x, view = X.float(), Defense(Chain((Noise(),)), convolved)
    ask = Oracle(view, margin(), Threat(Linf(0.1)), Meter(None), 5, average, micro_batch)
    whole = ask(x, OWN, KEY)
    for rows in ([0], [4, 1], [2, 3, 0]):
        part = ask(x[rows], OWN[rows], KEY[rows])
        for name, got, wanted in zip(part._fields, part, whole, strict=True):
            assert torch.equal(got, wanted[rows]), name


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_at_one_micro_batch_a_draw_is_the_same_among_more_draws(convolved, micro_batch):
    x, view = X.float(), Defense(Chain((Noise(),)), convolved)
    ask = Oracle(view, margin(), Threat(Linf(0.1)), Meter(None), micro_batch=micro_batch)
    many = ask._logits(x, 6, KEY.spread("draw", 6))
    few = ask._logits(x, 2, KEY.spread("draw", 2))
    assert torch.equal(many[:, :2], few)
    # Without a link that draws, four equal gradients of a quarter each are that of one draw.
    ask = replace(ask, view=Defense(Chain(), convolved))
    assert torch.equal(ask(x, OWN, KEY, draws=4).gradient, ask(x, OWN, KEY, draws=1).gradient)
