"""Each cell stands beside the control of its own defense, threat and goal, image by image."""

import pytest

from besiege.report.cells import answered, beside_control, stands, with_clean

PLACE = {"defense": "bare", "threat": "l2 0.5", "targeted": False}


def record(cell, attack="pgd", **place):
    return {"cell": cell, "recipe_settings": {"attack": attack}, **PLACE, **place}


def row(i, *predicted, label=0, target=1):
    return {"id": i, "predicted": list(predicted), "label": label, "target": target}


@pytest.mark.parametrize("other", [{"defense": "x"}, {"threat": "x"}, {"targeted": True}])
def test_the_control_is_of_the_same_defense_threat_and_goal(other):
    records = [
        record("clean", "none"),
        record("elsewhere", "none", **other),
        record("attacked"),
        record("waiting"),
    ]
    by_cell = {r["cell"]: [r["cell"]] for r in records} | {"waiting": []}
    found = {r["cell"]: (rows, clean) for r, rows, clean in beside_control(records, by_cell)}
    assert found.keys() == {"clean", "elsewhere", "attacked"}
    assert found["attacked"] == (["attacked"], ["clean"])
    alone = [record("attacked"), record("elsewhere", "none", **other)]
    assert [clean for *_, clean in beside_control(alone, by_cell)] == [(), ["elsewhere"]]


def test_rows_meet_the_clean_ones_of_their_images():
    rows = [row(3, 1, 0), row(1, 0, 0), row(2, 1, 1)]
    own, after, before = with_clean(rows, [row(1, 0, 0), row(9, 0, 0), row(3, 1, 1)], False)
    assert [r["id"] for r in own] == [3, 1]
    assert after.tolist() == [[False, True], [True, True]]
    assert before.tolist() == [[False, False], [True, True]]
    own, after, before = with_clean(rows, [row(9, 1, 1)], False)
    assert (list(own), before.all(), before.shape) == (rows, True, after.shape)


def test_an_abstention_is_neither_label_nor_target():
    rows = [row(0, -1, 0, 1)]
    assert answered(rows, "label").tolist() == [[False, True, False]]
    assert stands(rows, targeted=False).tolist() == [[False, True, False]]
    assert stands(rows, targeted=True).tolist() == [[True, True, False]]
