"""What has to be in a run so that a check can be asked of it, by its number."""

from __future__ import annotations

from collections.abc import Mapping

DOCTORS = "`besiege doctor` asks it, before any attack"
NEEDS: Mapping[int, str] = {
    2: "it needs attackers of which each takes a link as it is that lets no gradient through",
    11: "it needs examples that stand when a search ends, with its traces (keep.traces)",
    12: "it needs traces with judged points (judge.every), of a union those of its searches",
    13: "it needs an attack by gradients at linf 1 or without a bound",
    14: "it needs one attacker at two radii",
    15: "it needs two attackers that differ in their steps alone; of a union 11 asks",
    16: "it needs attackers that differ in restarts alone, or a union that restarts on survivors",
    17: "it needs three attackers that differ in the size of their step alone",
    19: "it needs an attack of one step beside one of five or more",
    20: "it needs attackers that differ in loss or goal alone, or a union that left examples to "
    "another loss with no more steps",
    22: "it needs an attack by scores or labels that got examples, beside one by gradients",
    23: "it needs transferred points, or an attack on the classifier alone that got examples",
    24: "it needs an attack by labels that got examples, beside one by gradients",
    25: "it needs attackers that differ in how they see links alone, or a union that left examples "
    "to another view with no more steps",
    26: "it needs an attack that leaves out a link, got examples, and is beside one that does not",
    28: "it needs an attacked random defense and recipe `none`",
    29: "it needs 2 to 9 draws of the judge: of more the mean is the score",
    31: "it needs two attackers of equal draws x steps",
    32: "it needs an attacked random defense, judged on a second seed",
    34: "it needs a random defense under attack",
    37: "it needs a linf threat that is saved as 8 bit; `besiege doctor` asks it of the images",
    38: "it needs recipe `none` on a defense with links",
    42: "it needs examples that stand after an attack in a norm",
    43: "it needs an attacker who makes claims of the whole defense",
    44: "it needs certificates: besiege certify --into RUN",
    45: "it needs an attacker that was worked out on some of the images",
}
