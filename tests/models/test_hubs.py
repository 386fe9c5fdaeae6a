"""torchvision and timm: by stand-ins, since neither is a dependency."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from besiege.core.errors import BadModel, UnknownName
from besiege.core.key import Key
from besiege.models import hubs
from besiege.models.catalog import load_model

X = Key.root(0, range(2)).uniform(3, 4, 4)
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


class Net(nn.Module):
    """A linear layer; `computed` asks for a buffer that no file has."""

    def __init__(self, computed=False):
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(3 * 4 * 4, 2)
        if computed:
            self.register_buffer("index", torch.arange(2), persistent=False)

    def forward(self, x):
        return self.linear(self.flatten(x))


def weights():
    key = Key.root(3, [0])
    return {
        "linear.weight": key.fold("w").normal(2, 48)[0],
        "linear.bias": key.fold("b").normal(2)[0],
    }


def wanted():
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    tensors = weights()
    return ((X - mean) / std).flatten(1) @ tensors["linear.weight"].T + tensors["linear.bias"]


@pytest.fixture
def torchvision(tmp_path, monkeypatch):
    """A stand-in with one network, "net", and the cache of torch.hub in tmp_path."""
    default = SimpleNamespace(
        url="https://host/net-1234.pth",
        meta={"categories": ["cat", "dog"]},
        transforms=lambda: SimpleNamespace(mean=MEAN, std=STD, crop_size=[4]),
    )

    def weights_of(name):
        if name != "net":
            raise ValueError(name)
        return SimpleNamespace(DEFAULT=default)

    models = ModuleType("torchvision.models")
    models.get_model_weights = weights_of
    models.get_model = lambda name, weights: Net()
    models.list_models = lambda: ["net", "vit"]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return models, tmp_path / "checkpoints" / "net-1234.pth"


@pytest.fixture
def timm(tmp_path, monkeypatch, torchvision):
    """A stand-in with one network, "net.a1", and the cache of huggingface_hub in tmp_path."""
    config = {
        "hf_hub_id": "timm/net.a1",
        "input_size": (3, 4, 4),
        "num_classes": 2,
        "mean": MEAN,
        "std": STD,
    }
    package, hub = ModuleType("timm"), ModuleType("huggingface_hub")

    def create_model(name, pretrained):
        assert not pretrained
        if name != "net.a1":
            raise RuntimeError(name)
        network = Net()
        network.pretrained_cfg = config
        return network

    def cached(source, name):
        path = tmp_path / source.replace("/", "--") / name
        return str(path) if path.exists() else None

    package.create_model = create_model
    package.list_models = lambda pretrained: ["net.a1", "vit.b2"]
    hub.try_to_load_from_cache = cached
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    (tmp_path / "timm--net.a1").mkdir()
    return package, tmp_path / "timm--net.a1" / "model.safetensors"


def check(model, name):
    assert (model.name, model.size, model.channels) == (name, 4, 3)
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model(X), wanted())


def test_torchvision_from_the_cache(torchvision):
    torch.save(weights(), torchvision[1])
    before = torch.get_rng_state()
    model = load_model("torchvision:net")
    assert torch.equal(before, torch.get_rng_state())
    assert model.classes == ("cat", "dog")
    check(model, "net")
    check(load_model("torchvision:network=net"), "net")


def test_timm_from_the_cache(timm):
    save_file(weights(), timm[1])
    check(load_model("timm:net.a1"), "net.a1")


def test_nothing_is_downloaded(torchvision, timm):
    with pytest.raises(BadModel, match=r"torchvision:net are not in the cache \(.*net-1234\.pth\)"):
        load_model("torchvision:net")
    with pytest.raises(BadModel, match=r"timm:net\.a1 are not in the cache \(timm/net\.a1/model"):
        load_model("timm:net.a1")


def test_unknown_networks_name_the_nearest(torchvision, timm):
    with pytest.raises(UnknownName, match=r"of torchvision.*Did you mean net"):
        load_model("torchvision:nett")
    with pytest.raises(UnknownName, match=r"of timm.*Did you mean net\.a1"):
        load_model("timm:net.a2")


def test_weights_that_do_not_fit(torchvision):
    torch.save({"linear.weight": torch.zeros(2, 48)}, torchvision[1])
    with pytest.raises(BadModel, match=r'do not fit it: (?s:.*)Missing key.*"linear\.bias"'):
        load_model("torchvision:net")


def test_buffers_that_only_building_computes(torchvision):
    models, path = torchvision
    models.get_model = lambda name, weights: Net(computed=True)
    torch.save(weights(), path)
    with pytest.raises(BadModel, match="computes index when it is built"):
        load_model("torchvision:net")


@pytest.mark.parametrize(
    ("spec", "package"), [("torchvision:net", "torchvision"), ("timm:net", "timm")]
)
def test_without_the_package(spec, package, torchvision, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.models", None)
    with pytest.raises(BadModel, match=rf'package {package}.*pip install "besiege\[timm\]"'):
        load_model(spec)


def test_operations_are_declared_only_where_the_import_dies_for_want_of_them(
    torchvision, monkeypatch
):
    """The build of torchvision on PyPI beside a CPU build of torch."""
    declared, tried = [], []

    def dying(module, model, extra):
        tried.append(module)
        if len(declared) < 2:
            raise BadModel("no") from RuntimeError("operator torchvision::nms does not exist")
        return torchvision[0]

    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append(name))
    torch.save(weights(), torchvision[1])
    check(load_model("torchvision:net"), "net")
    assert declared == []
    monkeypatch.setattr(hubs, "optional", dying)
    check(load_model("torchvision:net"), "net")
    assert declared == ["torchvision::nms", "torchvision::qnms"]
    assert len(tried) == 2
