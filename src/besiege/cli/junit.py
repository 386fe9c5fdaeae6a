"""A gate's verdicts as JUnit XML, which most continuous integration shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as xml

if TYPE_CHECKING:
    from besiege.study.gate.gate import Defended, Gate, Judged

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0


def junit(gate: Gate) -> bytes:
    """One test suite a defense, one test case a requirement and threat; UTF-8."""
    suites = [_suite(gate, defense) for defense in gate.defenses]
    whole = xml.Element("testsuites", name=_clean(f"besiege gate {gate.run}"))
    for count in ("tests", "failures", "errors", "skipped"):
        whole.set(count, str(sum(int(suite.get(count, 0)) for suite in suites)))
    whole.set("time", _seconds(gate.judged))
    whole.extend(suites)
    xml.indent(whole)
    return bytes(xml.tostring(whole, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(gate: Gate, defense: Defended) -> xml.Element:
    cases = [_case(gate, defense.name, one) for one in defense.judged]
    suite = xml.Element(
        "testsuite",
        name=_clean(defense.name),
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors="0",
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time=_seconds(defense.judged),
    )
    suite.extend(cases)
    xml.SubElement(suite, "system-out").text = _clean(
        "\n".join([*map(str, defense.product), *defense.context])
    )
    return suite


def _case(gate: Gate, defense: str, one: Judged) -> xml.Element:
    name, figure = f"{one.requirement} ({one.about})", f"{one.shown}, n = {one.measured.n}"
    case = xml.Element(
        "testcase", classname=_clean(defense), name=_clean(name), time=_seconds([one])
    )
    if one.fails(gate.allow_undecided):
        message = f"{one.verdict}: {one.shown}"
        found = xml.SubElement(case, "failure", type=str(one.verdict), message=_clean(message))
        found.text = _clean(". ".join(filter(None, (f"{name}: {figure}", one.sentence))))
    elif one.undecided:
        xml.SubElement(case, "skipped", message=_clean(f"{one.verdict}: {one.sentence}"))
    else:
        xml.SubElement(case, "system-out").text = _clean(figure)
    return case


def _seconds(judged: tuple[Judged, ...] | list[Judged]) -> str:
    return f"{sum(one.seconds for one in judged):.3f}"


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return ILLEGAL.sub("?", text)
