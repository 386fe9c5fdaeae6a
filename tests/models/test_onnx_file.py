"""ONNX files: by a stand-in for onnxruntime everywhere, and by itself where it is installed."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import besiege
from besiege.core.errors import BadModel, BadSetting
from besiege.core.key import Key
from besiege.defenses.transform import Chain
from besiege.models.catalog import load_model
from besiege.models.sources import weights_hash

W = Key.root(1, [0]).normal(3, 12)[0].numpy()
X = Key.root(0, range(5)).uniform(3, 2, 2)
WANTED = X.flatten(1) @ torch.from_numpy(W).T


def end(name, shape, kind="tensor(float)"):
    return SimpleNamespace(name=name, shape=shape, type=kind)


class Session:
    """A linear classifier with the interface of onnxruntime's sessions."""

    takes = (end("image", ["n", 3, 2, 2]),)
    gives = (end("logits", ["n", 3]),)
    metadata = {}  # noqa: RUF012

    def __init__(self, path, options, providers):
        assert providers == ["CPUExecutionProvider"]
        assert options.intra_op_num_threads == 1
        self.sizes = []

    def get_inputs(self):
        return list(self.takes)

    def get_outputs(self):
        return list(self.gives)

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map=self.metadata)

    def run(self, names, feed):
        (x,) = feed.values()
        assert [*feed] == ["image"]
        self.sizes.append((len(x), x.dtype))
        return [x.reshape(len(x), -1).astype(np.float32) @ W.T]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a file that the stand-in takes for a network with these ends."""

    def write(content=b"weights", name="net.onnx", **changed):
        runtime = ModuleType("onnxruntime")
        runtime.SessionOptions = SimpleNamespace
        runtime.InferenceSession = type("Changed", (Session,), changed)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def test_logits_and_access(file):
    model = load_model(f"onnx:{file()}")
    torch.testing.assert_close(model(X), WANTED)
    assert (model.name, model.access, model.num_classes, model.size) == ("net", "scores", 3, 2)
    assert not any(module.training for module in model.modules())
    assert model(X[:0]).shape == (0, 3)


def test_any_character_in_a_path(file):
    assert load_model(f"onnx:{file(name='a=b, c:d.onnx')}").num_classes == 3
    assert load_model(f"onnx:weights={file()}").num_classes == 3


def test_metadata_names_classes_and_preprocessing(file):
    said = {"classes": ["a", "b", "c"], "mean": 0.5, "std": [0.1, 0.2, 0.4], "other": "x"}
    model = load_model(f"onnx:{file(metadata={k: json.dumps(v) for k, v in said.items()})}")
    assert model.classes == ("a", "b", "c")
    std = torch.tensor([0.1, 0.2, 0.4])[:, None, None]
    wanted = ((X - 0.5) / std).flatten(1) @ torch.from_numpy(W).T
    torch.testing.assert_close(model(X), wanted)


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_a_batch_of_fixed_size_is_filled_up(file, kind, dtype):
    takes = (end("image", [2, 3, 2, 2], f"tensor({kind})"),)
    model = load_model(f"onnx:{file(takes=takes)}")
    torch.testing.assert_close(model(X), WANTED, atol=1e-2, rtol=1e-2)
    assert model.network.session.sizes == [(2, dtype)] * 3
    assert model(X).dtype == torch.float32


def test_gradients_are_refused_and_the_clean_figure_is_given(file):
    model = load_model(f"onnx:{file()}")
    defense = besiege.Defense(Chain(), model)
    labels = WANTED.argmax(1)
    with pytest.raises(BadModel, match=r"net gives no gradient.*access = \"scores\""):
        model(X.clone().requires_grad_())
    with pytest.raises(BadSetting, match="net can tell scores only"):
        besiege.evaluate(defense, X, labels, besiege.Linf(0.1), recipes=["bpda"], steps=1)
    found = besiege.evaluate(defense, X, labels, besiege.Linf(0.1), recipes=["none"])
    assert found.lines[0].accuracy.estimate == 1.0


def test_a_run_folder_tells_files_apart(file):
    hashes = {weights_hash(load_model(f"onnx:{file(c)}")) for c in (b"one", b"two", b"one")}
    assert len(hashes) == 2
    path = file(b"one")
    path.with_name("net.onnx.data").write_bytes(b"weights beside it")
    assert weights_hash(load_model(f"onnx:{path}")) not in hashes


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"takes": (end("i", ["n", "h", "w", 3]),)},
            r"has inputs i tensor\(float\) \['n', 'h'",
        ),
        ({"takes": (end("i", [1, 32, 32, 3]),)}, r"takes \[1, 32, 32, 3\], .* channels come last"),
        ({"takes": (end("i", ["n", 3, 2, 2], "tensor(uint8)"),)}, r"inputs i tensor\(uint8\)"),
        ({"takes": Session.takes * 2}, "must have one input"),
        ({"gives": Session.gives * 2}, "must have one input, .* and one output"),
        ({"gives": (end("o", ["n", 3, 1, 1]),)}, r"outputs o tensor\(float\) \['n', 3, 1, 1\]"),
        ({"takes": (end("i", ["n", 3, 2, 4]),)}, r"takes \['n', 3, 2, 4\], where"),
        ({"metadata": {"mean": "half"}}, "must be JSON"),
    ],
)
def test_networks_that_do_not_fit(file, changed, says):
    with pytest.raises(BadModel, match=says):
        load_model(f"onnx:{file(**changed)}")


def test_without_the_package(file, monkeypatch):
    path = file()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadModel, match=r'onnxruntime.*pip install "besiege\[onnx\]"'):
        load_model(f"onnx:{path}")


def test_a_missing_file_names_the_nearest(file):
    path = file()
    with pytest.raises(BadModel, match=r'No ONNX file at .* Did you mean ".*net\.onnx"'):
        load_model(f"onnx:{path.with_name('nt.onnx')}")


def test_the_real_runtime(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the package onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1),
        ],
        "net",
        [helper.make_tensor_value_info("image", kind, ["n", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", kind, ["n", 3])],
        [onnx.numpy_helper.from_array(W, "w")],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(network, tmp_path / "net.onnx")
    model = load_model(f"onnx:{tmp_path / 'net.onnx'}")
    torch.testing.assert_close(model(X), WANTED)
    with pytest.raises(BadModel, match="gives no gradient"):
        model(X.clone().requires_grad_())
    (tmp_path / "bad.onnx").write_text("no protobuf")
    with pytest.raises(BadModel, match="no ONNX file that onnxruntime can run"):
        load_model(f"onnx:{tmp_path / 'bad.onnx'}")
