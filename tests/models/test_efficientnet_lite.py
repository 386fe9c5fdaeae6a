"""The extra `imagenet`: absent, or quiet and careful."""

import sys

import pytest
import torch

from besiege.core.errors import BadModel
from besiege.data.catalog import load_images
from besiege.models.catalog import load_model


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(BadModel, match=r'pip install "besiege\[imagenet\]"'):
        load_model("efficientnet-lite0")


def test_a_real_photograph(capsys):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `imagenet`")
    before = torch.get_rng_state()
    model = load_model("efficientnet-lite0")
    images = load_images("photo")
    x, y, _ = images.take([0, 1])
    assert torch.equal(model(x).argmax(1), y)
    assert [model.classes[i] for i in y] == ["palace", "daisy"]
    assert torch.equal(before, torch.get_rng_state())
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    assert capsys.readouterr() == ("", "")
