"""The scripts that make pictures and tables from the catalog, on little."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from besiege.core.entry import Catalog, Entry
from besiege.defenses.catalog import TRANSFORMS
from besiege.defenses.identity import Identity
from besiege.defenses.salt_pepper import SaltPepper

ROOT = Path(__file__).parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def absent(file="weights"):
    """Needs a file that is not there."""
    raise OSError(f"no {file}")


SMALL = Catalog(
    "transform",
    [
        Entry("identity", Identity, "house"),
        Entry("salt-pepper", SaltPepper, "house", cases=({}, {"share": 0.3})),
        Entry("absent", absent, "house"),
    ],
)


def test_a_page_of_operations(tmp_path):
    operations = load("operations")
    (tmp_path / "operations-7.png").write_bytes(b"of an older catalog")
    assert operations.write(tmp_path, SMALL) == ["absent: no weights"]
    assert [p.name for p in tmp_path.iterdir()] == ["operations.png"]
    with Image.open(tmp_path / "operations.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    step = operations.SIDE + 8
    assert sheet.shape[1] == 8 + 5 * step
    first, same, difference = (sheet[30:160, 8 + k * step : 150 + k * step] for k in range(3))
    assert np.abs(first - same).mean() < 3  # but for the palette
    assert np.abs(difference - 128).max() < 9


def test_every_operation_has_a_place():
    """The pictures of docs/images are of this catalog, or `examples/operations.py` is to be run."""
    operations = load("operations")
    cases = sum(len(entry.cases) for entry in TRANSFORMS.values())
    pages = list((ROOT / "docs" / "images").glob("operations*.png"))
    assert len(pages) == -(-cases // (operations.ACROSS * operations.LINES))


def test_every_surrogate_is_in_the_table():
    """Else run `python examples/surrogates.py NAME`."""
    surrogates = load("surrogates")
    page = surrogates.PAGE.read_text("utf-8")
    rows = [r for r in page.splitlines() if r.startswith("| `")]
    for entry in TRANSFORMS.values():
        own = [r for r in rows if surrogates.owner(r) == entry.name]
        for spec, case in zip(entry.specs, entry.cases, strict=True):
            cells = [r.split(" | ")[1].strip("`*") for r in own if r.startswith(f"| `{spec}` |")]
            assert cells, f"{spec} is not in docs/surrogates.md"
            if not cells[0].startswith("left out"):
                assert set(entry.factory(**case).surrogates) <= set(cells), spec
                assert "random" in cells


def test_rows_of_the_table_are_replaced_by_transform(tmp_path):
    surrogates = load("surrogates")
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{surrogates.START}\n{surrogates.END}\nafter\n")
    old = ["| `salt-pepper:share=0.3` | `exact` |", "| `gone` | `exact` |"]
    surrogates.write(page, SMALL, old)
    surrogates.write(page, SMALL, ["| `identity` | `exact` |"])
    surrogates.write(page, SMALL, ["| `salt-pepper` | `identity` |"])
    text = page.read_text()
    assert re.findall(r"^\| `.*$", text, re.MULTILINE) == [
        "| `identity` | `exact` |",
        "| `salt-pepper` | `identity` |",
    ]
    assert text.startswith("before\n")
    assert text.endswith(f"{surrogates.END}\nafter\n")


def test_rows_of_one_transform(shared):
    surrogates = load("surrogates")
    surrogates.N = 8
    images = surrogates.load_images(f"packed:path={surrogates.DATA / 'cifar10_test_subset.npz'}")
    net = surrogates.load_model(f"file:{surrogates.DATA / 'cifar10_resnet20.safetensors'}")
    first, _, last = surrogates.measured(SMALL["identity"], images, net)
    assert first.startswith("| `identity` | `exact` | ")
    assert last.startswith("| `identity` | random | - | - | ")
    (lacking,) = surrogates.measured(SMALL["absent"], images, net)
    assert "left out: no weights" in lacking


def test_standard_attacks_on_digits():
    """Points are made once on the bare network; those of one step are handed over as they are."""
    standard = load("standard_attacks")
    threat = standard.Threat(standard.Linf(0.2))
    step = standard.Attacker("FGSM", "fgsm", threat, 1, last=True)
    study = standard.CHANNELS._replace(
        images="digits",
        net="digits-cnn",
        n=6,
        attackers=[standard.CLEAN, step._replace(n=4)],
        guards=[
            standard.Guard("none", ("none",), "- 42/0"),
            standard.Guard("grey", ("brightness:levels=255",), besieged=True),
        ],
        insiders=[step],
        n_insiders=3,
        batch=4,
    )
    found = standard.measured(study)
    rows = {(row.guard, row.attack): row for row in found.oblivious}
    assert rows["none", "clean"].right.estimate == 1  # they are chosen so
    assert rows["grey", "clean"].right.estimate < 0.6  # one grey for all digits
    assert [rows["none", name].n for name in ("clean", "FGSM")] == [6, 4]
    net = standard.load_model(study.net)
    some = standard.first(standard.chosen(study, net), 4)
    leaf = some.x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(net(leaf), some.y, reduction="sum")
    by_hand = (some.x + 0.2 * torch.autograd.grad(loss, leaf)[0].sign()).clamp(0, 1)
    made = standard.blind(step, net, some, study.batch)
    assert torch.allclose(made, by_hand, atol=1e-6)
    right = float((net(by_hand).argmax(1) == some.y).double().mean())
    assert rows["none", "FGSM"].right.estimate == right
    assert [(row.guard, row.attack, row.n) for row in found.informed] == [("grey", "FGSM", 3)]
    assert f"| none | FGSM | 42/0 | {100 * right:.1f} [" in standard.report(study, found)
