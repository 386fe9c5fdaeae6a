"""What a long run shows while it goes on, and that a short one in Python shows nothing."""

import io

import pytest
import torch

import besiege
from besiege.attacks.threat import Linf
from besiege.laws.problems import linear_classifier
from besiege.study.progress import Display, Event

FOUND = Event("", "FD · adaptive, planning: 54% of the pilots", 0, 0, 3.0)
DONE = Event("c", "FD · adaptive", 4, 4, 9.0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_no_terminal_is():
    out = io.StringIO()
    with Display(out) as show:
        show(FOUND)
        show(DONE._replace(done=2))  # too soon after the last line
        show(DONE)
    assert out.getvalue().splitlines() == [
        "loading ...",
        "3 s  FD · adaptive, planning: 54% of the pilots",
        "4/4  9 s  FD · adaptive",
    ]


def test_a_bar_in_a_terminal():
    for event, shown in ((FOUND, "54% of the pilots"), (DONE, "4/4")):
        out = Terminal()
        with Display(out) as show:
            show(event)
        assert shown in out.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_nothing_is_shown_in_the_quiet_time(stream):
    out = stream()
    with Display(out, quiet=1000) as show:
        show(FOUND)
        show(DONE)
    assert "FD" not in out.getvalue()
    assert "loading" not in out.getvalue()


@pytest.mark.parametrize("progress", [True, False])
def test_evaluate_shows_what_takes_long(monkeypatch, capfd, tensors, progress):
    x, y, bare = tensors
    monkeypatch.setattr("besiege.evaluation.QUIET", 0.001)
    besiege.evaluate(bare, x, y, Linf(0.5), recipes=["bpda"], steps=2, progress=progress)
    shown = capfd.readouterr().err
    assert ("none · linf 0.5 untargeted · bpda" in shown) == progress, shown


@pytest.fixture
def tensors():
    bare = besiege.Defense(besiege.Chain(), linear_classifier())
    x = torch.full((4, 1, 4, 4), 0.5)
    return x, bare.labels(x, besiege.Key.root(0, range(4))), bare
