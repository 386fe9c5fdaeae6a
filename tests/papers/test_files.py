"""Files of published tables: those that are shipped, and what is said of wrong ones."""

import tomllib
from pathlib import Path

import pytest

from besiege.core.errors import BesiegeError
from besiege.papers.load import load_paper, shipped
from besiege.papers.schema import COLUMNS

SMALL = (Path(__file__).parent / "small.toml").read_text("utf-8")

# As the released notebook's saved output has them; from the authors' notes on that code.
TABLE_ONE = {"FD": (0.1343, 0.431), "bit depth": (0.0709, None), "pixel deflection": (None, 0.988)}


def small(tmp_path, old="", new=""):
    assert old in SMALL
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace(old, new, 1))
    return str(path)


def test_what_is_shipped():
    assert set(shipped()) == {"p0-fig3", "p0-table1", "p0-table2", "p0-table4"}


@pytest.mark.parametrize("name", sorted(shipped()))
@pytest.mark.parametrize("quick", [False, True])
def test_shipped_files_build(name, quick):
    """Every link, recipe and measure; without images of the user's own only when quick."""
    paper = load_paper(name, quick=quick)
    if quick:
        assert all(paper.experiment(which).data.source == "digits" for which in COLUMNS)
        return
    with pytest.raises(BesiegeError, match=r"needs --images and --model: photographs.*--quick"):
        paper.experiment(COLUMNS[0])
    assert paper.file.as_published.faults
    assert any(row.published for row in paper.file.row)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_published_values_are_possible(name):
    file = load_paper(name).file
    units = {q.name: q.scale for q in file.quantity}
    for row in file.row:
        for quantity, value in row.published.items():
            assert 0 <= value <= units[quantity], (row.name, quantity)
    assert not any(word in shipped()[name].read_text() for word in ("LEDGER", "shared/"))


def test_values_of_the_ledger(shared):
    """Where the authors' notes have a figure, the files have it too."""
    notes = (shared / "LEDGER-P0.md").read_text("utf-8")
    assert "l2 .1343, SSIM .431" in notes
    assert "SSIM .988" in notes
    assert "Table I's .0709" in notes
    rows = {row.name: row.published for row in load_paper("p0-table1").file.row}
    for name, (change, similarity) in TABLE_ONE.items():
        assert change is None or rows[name]["change"] == change
        assert similarity is None or rows[name]["similarity"] == similarity
    assert "FD+RDG 41 % against 5 %" in notes
    assert "FD+Rand 67 %" in notes
    repeated = {row.name: row.published for row in load_paper("p0-table2").file.row}
    assert repeated["FD+RDG"]["targets hit"] == 41
    assert repeated["FD+Rand"]["targets hit"] == 67


def test_a_strangers_file(tmp_path):
    paper = load_paper(small(tmp_path), ["data.n=3", "correct.threat.passes=77"], only=["bare"])
    assert paper.name == "small"
    assert [row.name for row in paper.rows] == ["bare"]
    theirs, right = (paper.experiment(which) for which in COLUMNS)
    assert [d.name for d in theirs.defense] == [d.name for d in right.defense] == ["bare"]
    assert theirs.data.n == right.data.n == 3
    assert (theirs.threat[0].passes, right.threat[0].passes) == (None, 77)
    assert (theirs.judge.draws, right.judge.draws) == (1, 4)
    assert tomllib.loads(right.text)["recipe"][0]["steps"] == 12


def test_only_what_the_rows_ask_is_run():
    paper = load_paper("p0-table4", only=["BPDA+EOT, 17 May"], quick=True)
    theirs, right = (paper.experiment(which) for which in COLUMNS)
    assert [r.kind for r in theirs.recipe] == ["published-eot-2"]
    assert [d.name for d in theirs.defense] == ["FD+RDG, any corner"]
    assert [(r.kind, r.defenses) for r in right.recipe] == [("adaptive", ("FD+RDG, any corner",))]


def test_paths_count_from_the_file(tmp_path):
    path = small(tmp_path, 'source = "digits"', 'source = "packed:path=mine.npz"')
    found = load_paper(path).experiment(COLUMNS[0]).data.source
    assert found == f"packed:path={tmp_path / 'mine.npz'}"


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("steps = 12", "stepz = 12", "stepz.*steps"),
        ('kind = "bpda+eot"', 'kind = "bpda+eto"', 'correct.*"bpda\\+eto".*"bpda\\+eot"'),
        ("noise:scale=0.1", "nois:scale=0.1", 'as_published.*"nois".*"noise"'),
        ('as_published = "claimed"', 'as_published = "claim"', 'measure.*"claim".*"claimed"'),
        ('row = "noise"', 'row = "noize"', 'row.*"noize".*"noise"'),
        ('quantity = "accuracy"', 'quantity = "acuracy"', '"acuracy".*"accuracy"'),
        ("hit = 10", "hits = 10", 'quantity.*"hits".*"hit"'),
        ('than = "bare"', 'than = "bear"', '"bear".*"bare"'),
        ('sense = ">="', 'sense = ">"', "sense.*expected '>=' or '<='.*got '>'"),
        ('name = "bare"\nchain', 'name = "bear"\nchain', 'defense.*row "bare".*"bare".*"bear"'),
        ('[[row]]\nname = "bare"', '[[row]]\nname = "noise"', '"noise" is there twice'),
        ('[[row]]\nname = "bare"', '[[row]]\nname = "empty"', 'defense.*"empty"'),
        ('heading = "right"', "", r"correct.heading is missing"),
        ("value = 90", 'value = "much"', "value.*number"),
    ],
)
def test_wrong_files(tmp_path, old, new, said):
    with pytest.raises(BesiegeError, match=f"(?s){said}"):
        load_paper(small(tmp_path, old, new))


def test_a_row_that_two_recipes_answer(tmp_path):
    two = '[[correct.recipe]]\nkind = "bpda"\n\n[[correct.recipe]]\nkind = "bpda+eot"'
    path = small(tmp_path, '[[correct.recipe]]\nkind = "bpda+eot"', two)
    with pytest.raises(BesiegeError, match=r'row "noise": correct has 2 recipes.*bpda, bpda\+eot'):
        load_paper(path)


@pytest.mark.parametrize(
    "name, said", [("p0-tabel1", '"p0-table1"'), ("no/such.toml", 'no folder "no"')]
)
def test_no_such_file(name, said):
    with pytest.raises(BesiegeError, match=said):
        load_paper(name)


def test_no_such_row():
    with pytest.raises(BesiegeError, match=r'row.*"FD\+RGD".*"FD\+RDG"'):
        load_paper("p0-fig3", only=["FD+RGD"])
