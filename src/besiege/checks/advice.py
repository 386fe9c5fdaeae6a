"""What to do next, by the number of the check that found something."""

from __future__ import annotations

from collections.abc import Mapping

ADVICE: Mapping[int, str] = {
    1: (
        "Graft a surrogate onto the link that rounds or takes signs; attack by margin and by "
        "scores too."
    ),
    2: "Give the link a surrogate (identity, soft, moved), or attack by scores or labels.",
    3: "Mend the backward pass of the link, or offer it as a surrogate under another name.",
    4: "Raise `draws`, or let `cosine = 0.5` choose them by example.",
    5: 'Ascend loss = "margin" or "dlr".',
    6: 'Take loss = "dlr" without `published`, or "margin".',
    7: (
        "See the link through another surrogate: the rival that is named, `moved`, one trained "
        "on the spot; or attack by scores."
    ),
    8: "See the link through `moved`, or move the surrogate by as much.",
    9: 'Leave the softmax out, or wrap with from_callable(f, classes, kind="probabilities").',
    10: "Call .eval() on the network and its parts.",
    11: "Give the search more steps (ten times), or a larger step that decays.",
    12: "Keep the best point of the search, not its last.",
    13: "The gradient is masked: graft, expect over draws, or attack by scores.",
    14: (
        "Steps that fit the small ball do not fit the large one: let the step scale with eps, "
        "keep the best point, and start the large ball from the small one's points."
    ),
    15: "Report the longer search, and raise the steps until nothing changes.",
    16: "Report the one with more, and let further restarts go on survivors.",
    17: "Try steps beyond that edge.",
    18: "The gradient leads nowhere: check the surrogates (7, 8) and where it is taken (21).",
    19: "The loss surface is masked: expect over draws, change the surrogate, attack by scores.",
    20: "Unite both (`union`), or ascend that loss; cross-entropy may be saturated (5).",
    21: "Take it at the point that is moved: an attack that never does cannot adapt.",
    22: "The gradient is masked: change surrogates, draws or loss, and report the lower figure.",
    23: (
        "The attack on the whole is weaker than one that ignores the defense: start from its "
        "points, change the surrogates, draw more."
    ),
    24: "Robustness by gradients is not what it says: report the worst of all attackers.",
    25: "Report the stronger; try further surrogates of that link.",
    26: "The surrogate of that link does harm: replace it (moved, soft, trained), keep the figure.",
    27: "The attack is too weak for its figures to mean anything: more steps, other surrogates.",
    28: "Judge the points on fresh draws, and score the mean over them.",
    29: "Judge on many draws and print the mean.",
    30: "Read robust accuracy as luck up to this difference.",
    31: "Spend the passes as the winner.",
    32: (
        "Give the judge a stream that no attacker can name, and let a defense draw from the "
        "key, or from the global generators (`Opaque`), which it must not seed."
    ),
    33: "Take batch statistics and batch-wide means out of the network.",
    34: "Compare with the mean; what the control loses by k draws is no attack.",
    35: "Say which; an abstention on a clean image is an error.",
    36: "Project the points before they are judged.",
    37: "Hand in images in [0, 1], and put the normalisation into the Classifier.",
    38: "Print clean beside robust accuracy; robustness of what is wrong anyway is none.",
    39: "Say so, or multiply by the clean accuracy.",
    40: "Take about as many images as it names.",
    41: (
        "See the link through a surrogate that differentiates its solution (`implicit` of tvm), "
        "write one that unrolls the loop, or graft the identity."
    ),
    42: "Project onto the ball instead of giving up, and take larger steps.",
    43: "Print the verdict, never the claim; search on until the mean over draws is lost.",
    44: "The certificate is wrong: other noise, other norm, or an abstention that was not counted.",
    45: "The figure is a little low for the defense on these; leave them out to be exact.",
    46: "Judge what is deployed: eight_bit = true, and the same codec.",
}
