"""All 46 checks by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from besiege.checks import gradients, opponents, optimisation, protocol, randomness
from besiege.checks.advice import ADVICE
from besiege.checks.finding import NOTE, STOP, WARN, Check, Fine, Symptom
from besiege.checks.needs import DOCTORS, NEEDS

ATHALYE = "Athalye et al. 2018 (arXiv:1802.00420)"
CARLINI = "Carlini et al. 2019 (arXiv:1902.06705)"
TRAMER = "Tramèr et al. 2020 (arXiv:2002.08347)"
CROCE = "Croce & Hein 2020 (arXiv:2003.01690)"
FAILURES = "Pintor et al. 2022 (arXiv:2106.09947)"
ZIMMERMANN = "Zimmermann et al. 2022 (arXiv:2206.13991)"
GAO = "Gao et al. 2022 (arXiv:2206.09491)"
LEE = "Lee & Kim 2023 (ICCV)"
HOUSE = "house: learnt from the released code of Qiu et al. 2020"
RUN, DOCTOR = ("run",), ("doctor",)
BOTH = ("run", "doctor")


def _family(
    family: str,
    *rows: tuple[int, str, str, str, Callable[[Any], Symptom | Fine | None], tuple[str, ...]],
) -> dict[int, Check]:
    return {
        number: Check(
            number,
            name,
            level,
            family,
            source,
            function,
            ADVICE[number],
            by,
            NEEDS.get(number, DOCTORS),
        )
        for number, name, level, source, function, by in rows
    }


GRADIENTS = _family(
    "Gradients",
    (1, "zero or non-finite gradient", STOP, ATHALYE, gradients.zero_gradient, DOCTOR),
    (2, "graph cut", STOP, ATHALYE, gradients.graph_cut, BOTH),
    (3, "wrong gradient", STOP, CARLINI, gradients.wrong_gradient, DOCTOR),
    (4, "noisy gradient", WARN, GAO, gradients.noisy_gradient, DOCTOR),
    (5, "saturated loss", WARN, CROCE, gradients.saturated_loss, DOCTOR),
    (6, "plateau of the logit ratio", NOTE, CROCE, gradients.dlr_plateau, DOCTOR),
    (7, "misleading surrogate", WARN, "house", gradients.misleading_surrogate, DOCTOR),
    (8, "shifted surrogate", WARN, HOUSE, gradients.shifted_surrogate, DOCTOR),
    (9, "probabilities for logits", NOTE, CARLINI, gradients.probabilities, DOCTOR),
    (10, "training mode", STOP, CARLINI, gradients.training_mode, DOCTOR),
)
OPTIMISATION = _family(
    "Optimisation",
    (11, "not converged", WARN, FAILURES, optimisation.not_converged, RUN),
    (12, "lost success", STOP, FAILURES, optimisation.lost_success, RUN),
    (13, "unbounded attack fails", STOP, CARLINI, optimisation.unbounded_fails, RUN),
    (14, "accuracy rises with eps", STOP, CARLINI, optimisation.accuracy_rises, RUN),
    (15, "more steps help", WARN, FAILURES, optimisation.more_steps_help, RUN),
    (16, "more restarts help", WARN, CARLINI, optimisation.more_restarts_help, RUN),
    (17, "step size at the edge", WARN, CROCE, optimisation.step_at_the_edge, RUN),
    (18, "no better than noise", STOP, CARLINI, optimisation.no_better_than_noise, DOCTOR),
    (19, "one step beats many", STOP, ATHALYE, optimisation.one_step_beats_many, RUN),
    (20, "another goal is better", WARN, TRAMER, optimisation.another_goal_is_better, RUN),
    (21, "gradient taken elsewhere", STOP, HOUSE, optimisation.gradient_elsewhere, DOCTOR),
)
OPPONENTS = _family(
    "Against other attackers",
    (22, "less knowledge wins", WARN, ATHALYE, opponents.less_knowledge_wins, RUN),
    (23, "transfer wins", WARN, CARLINI, opponents.transfer_wins, RUN),
    (24, "label attack inside", STOP, CARLINI, opponents.label_attack_inside, RUN),
    (25, "surrogates differ", NOTE, TRAMER, opponents.surrogates_differ, RUN),
    (26, "leaving out wins", WARN, HOUSE, opponents.leaving_out_wins, RUN),
    (27, "planted example", STOP, ZIMMERMANN, opponents.binarisation, DOCTOR),
)
RANDOMNESS = _family(
    "Randomness",
    (28, "zero-perturbation control", STOP, "house", randomness.zero_perturbation, BOTH),
    (29, "one draw flips", WARN, LEE, randomness.one_draw_flips, RUN),
    (30, "known draw", NOTE, GAO, randomness.known_draw, DOCTOR),
    (31, "draws or steps", NOTE, GAO, randomness.draws_or_steps, RUN),
    (32, "shared draws", STOP, CROCE, randomness.shared_draws, BOTH),
    (33, "batch coupling", STOP, CARLINI, randomness.batch_coupling, DOCTOR),
    (34, "best of k", NOTE, LEE, randomness.best_of_k, RUN),
    (35, "abstentions", NOTE, "house", randomness.abstentions, RUN),
)
PROTOCOL = _family(
    "Protocol",
    (36, "outside the threat", STOP, CARLINI, protocol.outside_threat, RUN),
    (37, "image range", STOP, CARLINI, protocol.image_range, BOTH),
    (38, "clean accuracy lost", NOTE, CARLINI, protocol.clean_accuracy_lost, BOTH),
    (39, "denominator", NOTE, CARLINI, protocol.denominator, RUN),
    (40, "too few images", NOTE, CARLINI, protocol.too_few_images, RUN),
    (41, "optimises inside", WARN, TRAMER, protocol.optimises_inside, DOCTOR),
    (42, "budget unused", WARN, HOUSE, protocol.budget_unused, RUN),
    (43, "lucky claims", WARN, HOUSE, protocol.lucky_claims, RUN),
    (44, "certificate violated", STOP, CARLINI, protocol.certificate_violated, RUN),
    (45, "tuned on the judged", NOTE, CARLINI, protocol.tuned_on_the_judged, RUN),
    (46, "saved otherwise", NOTE, HOUSE, protocol.saved_otherwise, DOCTOR),
)

CHECKS: Mapping[int, Check] = {
    **GRADIENTS,
    **OPTIMISATION,
    **OPPONENTS,
    **RANDOMNESS,
    **PROTOCOL,
}
