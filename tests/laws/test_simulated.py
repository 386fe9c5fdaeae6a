"""Checks on simulated evidence: what is sound is left alone, what is at fault is named."""

import pytest

from besiege.laws.simulated import BLIND, CASES

TIMES = 200  # 2,000 in docs/checks.md


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check} {case.name}")
def test_at_most_one_in_twenty_is_a_false_alarm_and_one_in_five_a_miss(case):
    rate = case.rate(TIMES)
    assert rate.estimate >= 0.8 if case.fault else rate.estimate <= 0.05, rate


@pytest.mark.parametrize("case", BLIND, ids=lambda case: f"{case.check} {case.name}")
def test_what_is_said_to_be_missed_is(case):
    assert case.rate(TIMES).high < 0.8


def test_cases_are_drawn_anew_for_every_seed_and_alike_for_one():
    case = next(case for case in CASES if case.check == 30 and case.fault)
    rates = [case.rate(TIMES, seed).estimate for seed in range(4)]
    assert len(set(rates)) > 1
    assert case.rate(TIMES, 3).estimate == rates[3]
