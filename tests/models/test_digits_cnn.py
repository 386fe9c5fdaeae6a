"""The network of the demo: good, reproducible, cached, and careful with what is global."""

import hashlib

import pytest
import torch

from besiege.data.catalog import load_images
from besiege.models import digits_cnn
from besiege.models.catalog import load_model


def digest(model):
    return hashlib.sha256(
        b"".join(p.numpy().tobytes() for p in model.state_dict().values())
    ).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "besiege"


def test_trained_once_the_same_whatever_is_global(cache, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(1)  # noqa: TID251
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        with torch.no_grad():
            first = load_model("digits-cnn")
        assert torch.equal(before, torch.get_rng_state())
        assert threads == torch.get_num_threads()
    (file,) = cache.iterdir()
    assert digest(load_model("digits-cnn")) == digest(first)
    assert not any(m.training for m in first.modules())
    assert not any(p.requires_grad for p in first.parameters())

    x, y, _ = (images := load_images("digits")).take(range(len(images)))
    assert (first(x).argmax(1) == y).float().mean() > 0.97

    # A broken file is replaced; training again, from another global state, gives the same bits.
    file.write_bytes(b"broken")
    torch.rand(3)  # noqa: TID251
    assert digest(load_model("digits-cnn")) == digest(first)
    assert file.stat().st_size > 1000


def test_no_writable_cache(tmp_path, monkeypatch):
    """A file where the folder should be: works for root too, who may write anywhere."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with torch.device("meta"):
        network = digits_cnn.DigitsCNN(10)
    weights = {k: torch.zeros(t.shape) for k, t in network.state_dict().items()}
    trainings = []
    monkeypatch.setattr(digits_cnn, "trained", lambda: trainings.append(1) or weights)
    for count in (1, 2):
        assert load_model("digits-cnn")(torch.zeros(1, 1, 32, 32)).abs().sum() == 0
        assert len(trainings) == count
