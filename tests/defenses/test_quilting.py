"""Quilting: goldens of the released code, seams by brute force, search against NumPy."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.quilting import Quilting
from besiege.defenses.transform import Graft, contents, surrogate_of
from besiege.ops import neighbours, patches, quilting, seams
from besiege.ops.soft_patches import soft_patches

Golden = dict[str, NDArray[Any]]


def levels(seed: int, *shape: int, high: int = 256) -> Tensor:
    return Key.root(seed, range(shape[0])).integers(high, *shape[1:]).to(torch.uint8)


def images(count: int, *shape: int) -> tuple[Tensor, Key]:
    key = Key.root(4, range(count))
    return key.fold("image").uniform(*shape), key


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    with np.load(shared / "golden" / "p1p3p4" / "quilting.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def photo(shared: Path) -> Tensor:
    with np.load(shared / "golden" / "p1p3p4" / "inputs.npz") as file:
        return torch.from_numpy(file["imgs32"][0].transpose(2, 0, 1).copy())[None].float() / 255


@pytest.mark.shared
@pytest.mark.parametrize("k", [1, 10])
def test_the_released_quilting(golden: Golden, photo: Tensor, tmp_path: Path, k: int) -> None:
    np.save(tmp_path / "db.npy", golden["db"])
    link = Quilting(str(tmp_path / "db.npy"), k=k, seam="overwrite", cover="released")
    draw = None if k == 1 else torch.from_numpy(golden["pick"]).long().reshape(1, 9, 9)
    out = (link.forward(photo, draw) * 255).round().to(torch.uint8)[0]
    np.testing.assert_array_equal(out, golden[f"out_k{k}"])


@pytest.mark.shared
def test_the_released_neighbours(golden: Golden, photo: Tensor) -> None:
    grid = quilting.grid_of(32, 32, 5, 2, full=False)
    squares = quilting.cut_out(photo, grid).flatten(3).flatten(0, 2)
    found = neighbours.nearest(torch.from_numpy(golden["db"]), squares, 10)
    np.testing.assert_array_equal(found, golden["nn10"])
    np.testing.assert_array_equal(found[:, 0], golden["choice_k1"])
    picked = found.gather(1, torch.from_numpy(golden["pick"]).long()[:, None])[:, 0]
    np.testing.assert_array_equal(picked, golden["choice_k10"])


@pytest.mark.shared
def test_shortest_paths_are_those_of_enumeration(golden: Golden) -> None:
    names = ("path_err", "path_hw", "path_min", "path_nopt", "path_best")
    for err, (h, w), least, ways, best in zip(*(golden[n] for n in names), strict=True):
        total, columns = seams.shortest_path(torch.from_numpy(err)[:h, :w])
        assert float(total) == least
        if ways == 1:
            np.testing.assert_array_equal(columns, best[:h])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("weigh", "name"), [(seams.symmetric, "cut_min_sym"), (seams.directed, "cut_min_directed")]
)
def test_smallest_cuts_are_those_of_enumeration(
    golden: Golden, weigh: Callable[..., seams.Weights], name: str
) -> None:
    old, new = (torch.from_numpy(golden[n]).float() for n in ("cut_A", "cut_B"))
    fixed = seams.pinned(5, torch.tensor(2), torch.tensor(2))
    total, _ = seams.smallest_cut(old, new, fixed, weigh)
    np.testing.assert_array_equal(total, golden[name])


def cost_of(labels: NDArray[Any], old: NDArray[Any], new: NDArray[Any], directed: bool) -> int:
    """What a labelling costs, edge by edge."""
    total, side = 0, len(labels)
    gap = np.abs(old - new).sum(0)
    for r, c, (dr, dc) in itertools.product(range(side), range(side), [(1, 0), (0, 1)]):
        a, b = (r, c), (r + dr, c + dc)
        if max(b) == side or labels[a] == labels[b]:
            continue
        s, t = (b, a) if labels[a] else (a, b)  # from the old pixel to the new one
        here, there = old[:, *s], new[:, *t]
        total += int(np.abs(there - here).sum() if directed else gap[a] + gap[b])
    return total


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize(("down", "right"), [(0, 2), (2, 0), (2, 1), (1, 2), (3, 3)])
def test_a_cut_is_a_smallest_one_of_its_cost(down: int, right: int, directed: bool) -> None:
    """Patches of 4 x 4 pixels, at borders and in corners, against all labellings."""
    old, new = (levels(s, 3, 2, 4, 4, high=5).float() for s in (1, 2))
    fixed = seams.pinned(4, torch.tensor(down), torch.tensor(right))
    weigh = seams.directed if directed else seams.symmetric
    totals, shown = seams.smallest_cut(old, new, fixed, weigh)
    free = (fixed < 0).nonzero().tolist()
    for o, n, total, label in zip(old.numpy(), new.numpy(), totals, shown.numpy(), strict=True):
        assert cost_of(label, o, n, directed) == total
        assert (label == fixed.numpy())[fixed.numpy() >= 0].all()
        costs = []
        for bits in itertools.product([False, True], repeat=len(free)):
            trial = fixed.numpy() == 1
            for (r, c), bit in zip(free, bits, strict=True):
                trial[r, c] = bit
            costs.append(cost_of(trial, o, n, directed))
        assert min(costs) == total


def test_a_path_shows_the_new_patch_on_it_and_beyond() -> None:
    old, new = torch.zeros(2, 1, 1, 5, 5)
    new[0, 0, :, 0], new[0, 0, :, 1] = 1, 9
    new[0, 0, 2, 0], new[0, 0, 2, 1] = 9, 1  # the boundary steps aside in the middle row
    taken = seams.path(old, new, torch.tensor([0]), torch.tensor([2]))[0]
    assert taken[:, 1:].all()
    assert taken[:, 0].tolist() == [True, True, False, True, True]
    turned = seams.path(old.mT, new.mT, torch.tensor([2]), torch.tensor([0]))[0]
    assert torch.equal(turned, taken.mT)


def by_hand(laid: Tensor, grid: quilting.Grid, seam: seams.Seam) -> Tensor:
    """Patches laid one after another on a canvas, against what is covered already."""
    size = grid.size
    down, right = (
        [sum(at < before + size for at in range(start, start + size)) for before, start in pairs]
        for pairs in (itertools.pairwise((-size, *starts)) for starts in grid[:2])
    )
    canvas = laid.new_zeros(len(laid), laid.shape[3], grid.height, grid.width)
    for (i, top), (j, left) in itertools.product(enumerate(grid.rows), enumerate(grid.columns)):
        window = canvas[:, :, top : top + size, left : left + size]
        overlaps = (torch.full((len(laid),), n) for n in (down[i], right[j]))
        taken = seam(window.clone(), laid[:, i, j], *overlaps)
        window.copy_(torch.where(taken[:, None], laid[:, i, j], window))
    return canvas


@pytest.mark.parametrize("seam", [*seams.SEAMS, "overwrite"])
@pytest.mark.parametrize("shape", [(18, 13), (9, 20)], ids=str)
@pytest.mark.parametrize(("size", "overlap"), [(5, 2), (4, 2), (2, 1), (3, 0)])
def test_fronts_lay_as_a_loop_does(
    seam: str, shape: tuple[int, int], size: int, overlap: int
) -> None:
    """Also where the last column is moved back and overlaps the one before by more."""
    grid = quilting.grid_of(*shape, size, overlap, full=True)
    laid = levels(3, 2, *grid.shape, 2, size, size, high=9).float()
    if seam == "overwrite":
        owner = quilting.last_on_top(grid, laid.device)[None]
        rule = lambda old, new, *_: torch.ones_like(new[:, 0], dtype=torch.bool)  # noqa: E731
    else:
        rule = seams.SEAMS[seam]
        owner = quilting.laid(laid, grid, rule)
    assert bool((owner >= 0).all())
    assert torch.equal(quilting.shown(laid, owner, grid), by_hand(laid, grid, rule))


def test_cover_reaches_the_border_or_stops_as_released() -> None:
    for side in range(6, 40):
        grid = quilting.grid_of(side, side, 5, 2, full=True)
        assert grid.rows[-1] + 5 == side
        bare = quilting.last_on_top(
            quilting.grid_of(side, side, 5, 2, full=False), torch.device("cpu")
        )
        assert int((bare[0] < 0).sum()) in (1, 2, 3)
    assert quilting.grid_of(224, 224, 5, 2, full=False).rows[-1] == 216


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(300, 75), (40, 4), (9, 25), (1000, 12), (8, 243)]),
    st.integers(1, 9),
    st.sampled_from([2, 256]),
)
def test_neighbours_are_numpys_ties_by_index(
    seed: int, shape: tuple[int, int], k: int, high: int
) -> None:
    """With two grey levels nearly all distances are tied."""
    base, queries = levels(seed, *shape, high=high), levels(seed + 1, 20, shape[1], high=high)
    k = min(k, len(base))
    gaps = queries.numpy()[:, None].astype(np.int64) - base.numpy()[None]
    want = np.argsort((gaps**2).sum(2), axis=1, kind="stable")[:, :k]
    found = neighbours.nearest(base, queries.float() / 255, k)
    np.testing.assert_array_equal(found, want)


def test_neighbours_over_several_pieces_and_blocks() -> None:
    """More patches and queries than are worked on at once, in float64, alone and together."""
    base = levels(5, 2 * neighbours.PIECE + 77, 4, high=32)
    queries, _ = images(neighbours.BLOCK + 9, 4)
    queries = queries.double() / 8
    steps = neighbours.fineness(4)
    rounded = (queries * 255 * steps).round() / steps
    order = (rounded[:, None] - base.double()).square().sum(2).argsort(dim=1, stable=True)
    found = neighbours.nearest(base, queries, 3)
    assert torch.equal(found, order[:, :3])
    assert torch.equal(neighbours.nearest(base, queries[7:8], 3), found[7:8])


def test_sums_stay_whole_at_the_extremes() -> None:
    """The largest distances that there are, one grey level apart in one of 243 values."""
    base = torch.zeros(3, 243, dtype=torch.uint8)
    base[1, 0], base[2, :2] = 1, 1
    found = neighbours.nearest(base, torch.ones(1, 243), 3)
    assert found.tolist() == [[2, 1, 0]]


def test_lists_find_most_neighbours_of_real_patches() -> None:
    pytest.importorskip("faiss", reason="needs the extra `quilting`")
    base = patches.built_in(5).pixels
    queries = base[::20].float() / 255 + 0.01
    lists = neighbours.Lists(base)
    exact = neighbours.nearest(base, queries, 10)
    found = lists.nearest(queries, 10, probes=4)
    recall = (found[:, :, None] == exact[:, None]).any(2).float().mean()
    assert 0.8 < recall < 1
    assert torch.equal(lists.nearest(queries[3:4], 10, probes=4), found[3:4])
    every = lists.nearest(queries, 10, probes=len(lists.centres))
    grey = (queries.clamp(0, 1) * 2040).round()[:, None] / 8
    gaps = [(grey - base[n].float()).square().sum(2) for n in (every, exact)]
    assert torch.equal(*gaps)  # of those as far as the tenth it may take any
    alone = lists.nearest(queries, 300, probes=1)  # more than a list holds: searched exactly
    assert int(alone.min()) >= 0


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = neighbours.import_module

    def absent(name: str) -> Any:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return real(name)

    monkeypatch.setattr(neighbours, "import_module", absent)
    x, key = images(1, 3, 9, 9)
    link = Quilting(index="faiss", size=3, overlap=1)
    with pytest.raises(BadSetting, match=r'pip install "besiege\[quilting\]"'):
        link.forward(x, link.draw(key, (3, 9, 9)))


def test_soft_patches_are_softmax_means_and_have_their_gradient() -> None:
    base = levels(6, 30, 12)
    queries, _ = images(5, 12)
    near = neighbours.nearest(base, queries, 7)
    q = queries.double()
    d = base[near].double() / 255
    distance = (q[:, None] - d).square().sum(2)
    t = distance.mean(1, keepdim=True)
    leaf = q.clone().requires_grad_()
    weights = (-(leaf[:, None] - d).square().sum(2) / t).softmax(1)
    want = (weights[..., None] * d).sum(1)
    other = q.clone().requires_grad_()
    got = soft_patches(other, base, near)
    torch.testing.assert_close(got, want)
    weight = Key.root(1, range(5)).uniform(12).double()
    (a,) = torch.autograd.grad((want * weight).sum(), leaf)
    (b,) = torch.autograd.grad((got * weight).sum(), other)
    torch.testing.assert_close(a, b)


def test_a_soft_gradient_does_not_see_its_batch() -> None:
    x, key = images(3, 3, 17, 12)
    link = Quilting(seam="path")
    draw = link.draw(key, (3, 17, 12))

    def slope(rows: slice) -> Tensor:
        leaf = x[rows].clone().requires_grad_()
        out = Graft(link, "soft").forward(leaf, draw[rows])
        return torch.autograd.grad((out * x[rows]).sum(), leaf)[0]

    assert torch.equal(slope(slice(0, 3))[1:2], slope(slice(1, 2)))


@pytest.mark.parametrize("seam", ["overwrite", "path", "cut", "directed"])
def test_an_image_made_of_patches_stays(seam: str, tmp_path: Path) -> None:
    """Its own squares are the database, and the nearest: no seam shows, whoever wins."""
    x = levels(8, 1, 3, 21, 26).float() / 255
    grid = quilting.grid_of(21, 26, 5, 2, full=True)
    squares = quilting.cut_out((x * 255).round().to(torch.uint8), grid).flatten(3).flatten(0, 2)
    np.save(tmp_path / "own.npy", squares.numpy())
    link = Quilting(str(tmp_path / "own.npy"), k=1, seam=seam)
    assert torch.equal(link.forward(x, None), x)


def test_each_of_the_k_is_chosen_alike() -> None:
    draw = Quilting(k=4).draw(Key.root(0, range(40)), (3, 32, 32))
    share = draw.flatten().bincount(minlength=4) / draw.numel()
    assert draw.shape == (40, 10, 10)
    assert float((share - 0.25).abs().max()) < 4 * (0.25 * 0.75 / draw.numel()) ** 0.5


def test_channels_are_converted(tmp_path: Path) -> None:
    colour = torch.tensor([[0, 1, 255, 255], [0, 1, 0, 10], [1, 1, 0, 255]], dtype=torch.uint8)
    np.save(tmp_path / "c.npy", colour.reshape(1, 12).numpy())
    grey = Quilting(str(tmp_path / "c.npy"), size=2, overlap=0, k=1)
    x = torch.zeros(1, 1, 2, 2)
    assert (grey.forward(x, None) * 255).round().flatten().tolist() == [0, 1, 85, 173]
    np.save(tmp_path / "g.npy", colour[:1].numpy())
    both = Quilting(str(tmp_path / "g.npy"), size=2, overlap=0, k=1)
    out = both.forward(torch.zeros(1, 3, 2, 2), None) * 255
    assert out.round().int().flatten(2)[0].tolist() == [[0, 1, 255, 255]] * 3
    with pytest.raises(BadImages, match=r"3 channels .* not of 4"):
        grey.forward(torch.zeros(1, 4, 2, 2), None)


def test_a_changed_database_has_another_name(tmp_path: Path) -> None:
    path = tmp_path / "db.npy"
    names = []
    for seed in (1, 2, 1):
        np.save(path, levels(seed, 50, 75).numpy())
        names.append(contents(parse_chain(f"bits + again=quilt:patches={path}")))
    assert names[0] != names[1]
    assert names[0] == names[2]
    assert contents(parse_chain("bits + fd")) == ""
    assert contents(Graft(Quilting())) == Quilting().digest


WRONG = [
    ({"size": 10}, "from 2 to 9"),
    ({"overlap": 3}, "at most half of size, 0 to 2"),
    ({"k": 0}, "k is 1 to 4096"),
    ({"k": 9000}, "k is 1 to 4096"),
    ({"probes": 0}, "probes"),
]


@pytest.mark.parametrize(("given", "says"), WRONG, ids=str)
def test_wrong_settings(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        Quilting(**given)


@pytest.mark.parametrize("key", ["seam", "cover", "index"])
def test_an_unknown_name_names_the_nearest(key: str) -> None:
    valid = {"seam": "overwrite", "cover": "released", "index": "exact"}[key]
    with pytest.raises(UnknownName, match=f'Did you mean "{valid}"'):
        Quilting(**{key: valid[:-1]})


def test_wrong_databases(tmp_path: Path) -> None:
    path = tmp_path / "db.npy"
    np.save(path, levels(1, 4, 27).numpy())
    with pytest.raises(BadSetting, match=r"uint8 \(4, 27\).* 5 x 5 is uint8 \(N, 25 or 75\)"):
        Quilting(str(path))
    assert Quilting(str(path), size=3, overlap=1, k=1).digest
    path.write_bytes(b"no array")
    with pytest.raises(BadSetting, match="is no patch database"):
        Quilting(str(path))
    with pytest.raises(BadSetting, match="No patch database at"):
        Quilting(str(tmp_path / "no.npy"))


def test_images_smaller_than_a_patch() -> None:
    with pytest.raises(BadImages, match="4 x 9 pixels are smaller than 5 x 5"):
        Quilting(k=1).forward(torch.zeros(1, 1, 4, 9), None)
    with pytest.raises(BadImages, match="smaller than 6 x 6"):
        Quilting(k=1, cover="released").forward(torch.zeros(1, 1, 5, 9), None)


def test_surrogates_by_name() -> None:
    x, _ = images(1, 3, 9, 9)
    link = Quilting(k=1, seam="overwrite")
    soft = surrogate_of(link, "soft")(x, None)
    assert soft.shape == x.shape
    assert float((soft - x).abs().mean()) < float((link.forward(x, None) - x).abs().mean())


@pytest.mark.parametrize("seam", ["overwrite", "path", "cut"])
def test_a_single_column_of_patches(seam: str) -> None:
    """Its wavefronts have gaps: a row begins three steps after the one before."""
    x, _ = images(2, 1, 7, 5)
    tall, turned = (
        Quilting(k=1, seam=seam).forward(y, None) for y in (x, x.transpose(2, 3).contiguous())
    )
    assert tall.shape == x.shape
    assert turned.shape == (2, 1, 5, 7)
    assert not torch.equal(tall, x)
