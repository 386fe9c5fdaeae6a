"""Paths inside the specs of an experiment: which there are, and the same specs with other paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from besiege.core.foreign import paths_in, with_paths

PLACES = ("file", "onnx", "learned")  # kinds of source that are followed by a path

# Weights of a network inside a link, as in adversarial:model=file:PATH, and patches of quilting.
_NAMED = re.compile(
    r"(?P<key>\b(?:(?:file|onnx):(?:weights=)?|weights=|patches=))"
    r"(?P<path>(?:[^,;+|()]|\([^()]*\))+?)(?=\s*(?:[,;+|)]|$))"
)


def respelled(source: str, change: Callable[[str], str]) -> str:
    """The source of a model or of data, or a view of a link, with every path in it changed.

    >>> respelled("file:a/w.safetensors", "../".__add__), respelled("zip:path=a,size=8", str.upper)
    ('file:../a/w.safetensors', 'zip:path=A,size=8')
    >>> respelled("frozen:learned:plans/a.safetensors", "run/".__add__)
    'frozen:learned:run/plans/a.safetensors'
    """
    kind, _, rest = source.partition(":")
    if kind == "frozen" and rest:
        return f"{kind}:{respelled(rest, change)}"
    if kind in PLACES and rest and not rest.startswith("weights="):
        return f"{kind}:{change(rest)}"
    if paths_in(source):
        return with_paths(source, change)
    return re.sub(r"\b(path|weights)=([^,]+)", lambda m: f"{m[1]}={change(m[2])}", source)


def respelled_chain(text: str, change: Callable[[str], str]) -> str:
    """A chain with every path in it changed.

    >>> respelled_chain("mine.py:f + quilt:patches=a.npy,k=1", "../".__add__)
    '../mine.py:f + quilt:patches=../a.npy,k=1'
    >>> respelled_chain("(adversarial:model=file:w.st;file:v.st | fd) + bits", "../".__add__)
    '(adversarial:model=file:../w.st;file:../v.st | fd) + bits'
    >>> respelled_chain("(fd | quilt:patches=my (1)/a.npy )", "../".__add__)
    '(fd | quilt:patches=../my (1)/a.npy )'
    """
    found = with_paths(text, change)
    return _NAMED.sub(lambda m: m["key"] + change(m["path"]), found)


def weights_in(chain: str) -> list[Path]:
    """Files of weights that the links of a chain name.

    >>> weights_in("adversarial:model=file:w.st,steps=2 + quilt:patches=a.npy")
    [PosixPath('w.st')]
    """
    found = _NAMED.finditer(chain)
    return [Path(m["path"]) for m in found if m["key"] != "patches="]
