"""Weight files: recognised by keys and shapes, or refused with a reason."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from besiege.core.errors import BadModel, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.models.catalog import LAYOUTS, MODELS, load_model
from besiege.models.cifar_resnet import RESNET18_64, RESNET20, RESNET20_PNI, RESNET56
from besiege.models.sources import load, read_weights


def tensors(layout, classes=10):
    """Keyed weights under the layout's own keys."""
    with torch.device("meta"):
        network = layout.network(classes)
    key = Key.root(0, [0])
    return {
        layout.rename(k): key.fold(k).uniform(*t.shape)[0] * 0.1 + 0.01
        for k, t in network.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }


@pytest.fixture
def weights(tmp_path):
    def write(content, name="w.safetensors", **metadata):
        save_file(content, tmp_path / name, metadata or None)
        return tmp_path / name

    return write


TWINS = {"resnet18-64", "resnet18-64-pool"}  # a pool has no weights


def spec(layout, path):
    """What names the network in the file."""
    return f"{layout.name}:weights={path}" if layout.name in TWINS else f"file:{path}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_each_architecture_is_recognised(layout, weights):
    path = weights(tensors(layout, classes=7))
    before = torch.get_rng_state()
    model = load_model(spec(layout, path))
    assert model.name == layout.name
    assert model.num_classes == 7
    assert not any(m.training for m in model.modules())
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    assert torch.equal(before, torch.get_rng_state())
    assert model(torch.full((1, layout.channels, 32, 32), 0.5)).shape == (1, 7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_logits_agree_on_an_accelerator(layout, weights):
    path = weights(tensors(layout))
    x = Key.root(1, [0, 1]).uniform(layout.channels, 32, 32)
    here = load_model(spec(layout, path))(x)
    there = load_model(spec(layout, path), device="cuda")(x.cuda()).cpu()
    torch.testing.assert_close(there, here, rtol=1e-2, atol=1e-2 * float(here.abs().max()))


def test_the_paddings_of_the_two_layouts_differ(weights):
    """The same numbers under both sets of keys give different networks, as the releases have it."""
    ours = replace(RESNET20, mean=0.0, std=1.0)
    x = Key.root(1, [0]).uniform(3, 32, 32)
    one = load(ours, weights(tensors(ours), "one.safetensors"))(x)
    other = load(RESNET20_PNI, weights(tensors(RESNET20_PNI), "other.safetensors"))(x)
    assert not torch.allclose(one, other)


def test_any_character_in_a_path(weights, tmp_path):
    (tmp_path / "a=b, c:d").mkdir()
    path = weights(tensors(RESNET20), "a=b, c:d/w=1.safetensors")
    assert load_model(f"file:{path}").name == "resnet20"


def test_named_parameter_form_and_names_of_classes(weights):
    path = weights(
        tensors(RESNET20, 2), classes='["cat", "dog"]', mean="0.5", std="[0.1, 0.2, 0.3]"
    )
    model = load_model(f"file:weights={path}")
    assert model.classes == ("cat", "dog")
    assert model.mean.flatten().tolist() == [0.5]
    assert model.std.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert load_model(f"resnet20:weights={path}").classes == ("cat", "dog")


def test_half_precision_and_data_parallel_prefix(weights):
    halved = {f"module.{k}": t.half() for k, t in tensors(RESNET20).items()}
    read = read_weights(weights(halved)).tensors
    assert set(read) == set(tensors(RESNET20))
    assert {t.dtype for t in read.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bn1.bias"), '"bn1.bias" is missing'),
        (lambda t: t.update(extra=torch.zeros(1)), '"extra" has no place in it'),
        (
            lambda t: t.update({"conv1.weight": torch.zeros(16, 3, 5, 5)}),
            r'"conv1.weight" is \(16, 3, 5, 5\), not \(16, 3, 3, 3\)',
        ),
    ],
)
def test_weights_that_do_not_fit(weights, change, message):
    content = tensors(RESNET20)
    change(content)
    path = weights(content)
    with pytest.raises(BadModel, match=f"do not fit resnet20: {message}"):
        load(RESNET20, path)
    with pytest.raises(BadModel, match=f"Nearest is resnet20, but {message}"):
        load_model(f"file:{path}")


def test_the_wrong_depth(weights):
    with pytest.raises(BadModel, match=r'resnet20: "layer1.3.bn1.bias" has no place'):
        load(RESNET20, weights(dict(sorted(tensors(RESNET56).items()))))


def test_weights_of_two_networks_are_not_guessed(weights):
    content = tensors(RESNET18_64)
    path = weights(content)
    with pytest.raises(BadModel, match="fit resnet18-64 and resnet18-64-pool, which differ in"):
        load_model(f"file:{path}")
    plain, pooled = (load_model(f"{name}:weights={path}") for name in sorted(TWINS))
    x = Key.root(1, [0]).uniform(3, 64, 64)
    y = F.relu(pooled.network.bn1(pooled.network.conv1((x - pooled.mean) / pooled.std)))
    y = F.max_pool2d(y, 3, 2, 1)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        y = plain.network.get_submodule(stage)(y)
    assert torch.equal(pooled(x), plain.network.linear(y.mean((2, 3))))
    assert not torch.allclose(pooled(x), plain(x))


def test_weights_for_imagenet_are_refused_with_what_to_do(weights):
    """torchvision's own resnet18 has the same keys, and a first convolution of 7 x 7."""
    content = tensors(RESNET18_64, 1000) | {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    says = r'Nearest is resnet18-64, but "conv1.weight" is \(64, 3, 7, 7\).*torchvision:NAME or'
    with pytest.raises(BadModel, match=says):
        load_model(f"file:{weights(content)}")


def test_missing_file_names_the_nearest(weights):
    path = weights(tensors(RESNET20), "resnet20.safetensors")
    with pytest.raises(BadModel, match=r'Did you mean ".*resnet20\.safetensors"'):
        load_model(f"file:{path.parent}/resnet2.safetensors")
    with pytest.raises(BadModel, match="there is no folder"):
        load_model("resnet20:weights=/no/such/place.safetensors")


def test_not_safetensors(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1)}, path)
    for wrong in (path, tmp_path):
        with pytest.raises(BadModel, match="not a readable safetensors file"):
            read_weights(wrong)


def test_metadata_that_contradicts(weights):
    with pytest.raises(BadModel, match="names 2 classes for 10 logits"):
        load(RESNET20, weights(tensors(RESNET20), classes='["cat", "dog"]'))
    with pytest.raises(BadModel, match="must be JSON"):
        load(RESNET20, weights(tensors(RESNET20), mean="half"))


@pytest.mark.parametrize("name", ["resnet18", "resnet18-64", "resnet18-64-pool", "vgg16-bn"])
def test_weights_of_raw_pixels(weights, name):
    (layout,) = (a for a in LAYOUTS if a.name == name)
    path = weights(tensors(layout))
    assert load_model(f"{name}:weights={path}").mean.shape == (1, 3, 1, 1)
    raw = load_model(f"{name}:weights={path},normalised=false")
    assert (raw.mean.tolist(), raw.std.tolist()) == ([[[[0.0]]]], [[[[1.0]]]])


def test_names_and_parameters():
    with pytest.raises(UnknownName, match='Did you mean "resnet20"'):
        load_model("resnet2")
    with pytest.raises(UnknownName, match='Did you mean "weights"'):
        load_model("resnet20:weight=x")
    with pytest.raises(BadSetting, match="weights"):
        load_model("resnet20")
    assert all(entry.summary for entry in MODELS.values())
