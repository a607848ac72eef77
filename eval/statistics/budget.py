"""How to split a budget between training seeds and questions, from what was measured of a sweep.

The difference of two levels is uncertain for three reasons: other questions would give another one, a question turns
over from one training to the next, and a training is luckier than another on all questions. Questions lessen the first
two, seeds the last two. With what each varies by, the smallest difference that a test finds follows for any split.
Source: variance components of crossed random effects, Cornfield and Tukey, Annals of Mathematical Statistics 27, 1956;
Satterthwaite, Biometrics Bulletin 2, 1946.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from eval.statistics.contrast import Clips, contrast, half, luck

#: Seeds that are tried, and the fewest questions: with less the normal approximation is not worth printing.
MOST_SEEDS, FEWEST_QUESTIONS = 12, 40
NOT_ESTIMABLE = (
    "With one training seed the luck of training cannot be estimated, so no split of a budget between seeds and "
    "questions follows: train a second seed."
)


class Components(NamedTuple):
    """Variances of the difference of two levels, means over all pairs; a mean over n questions divides the first two.

    `of_questions`: what stays from one training to the next; `of_turns`: questions that turn over; both for one
    question and with the clips' design effect. `of_luck`: of training, for one pair of runs.
    """

    of_questions: float
    of_turns: float
    of_luck: float
    #: Degrees of freedom by which the luck was measured, and those of the clips a question.
    luck_freedom: int
    clips_per_question: float
    levels: int

    def detectable(self, seeds: int, questions: int) -> float:
        """The smallest difference of two levels that a 5 % test finds with 80 % power, from so many of both.

        Two seeds at least. The luck is pooled over as many levels as were measured, as `contrast` does.
        """
        turns, lucky = self.of_turns / seeds / questions, self.of_luck / seeds
        parts = (self.of_questions / questions + turns, lucky + turns, turns)
        freedom = (max(1.0, questions * self.clips_per_question - 1), (seeds - 1) * (self.levels - 1))
        return half(0.025, *parts, *freedom) + half(0.2, *parts, *freedom)


class Split(NamedTuple):
    """So many seeds with so many questions, and the smallest difference of two levels that they find."""

    seeds: int
    questions: int
    detectable: float


def components(values: np.ndarray, clips: Sequence[str]) -> Components | None:
    """Variance components of "seeds levels questions", with a clip's name for each question; None for one seed."""
    of, (seeds, levels, questions) = Clips(clips), values.shape
    found = luck(values, of)
    if found is None:
        return None
    pairs = [np.eye(levels)[a] - np.eye(levels)[b] for a, b in combinations(range(levels), 2)]
    of_clips = float(np.mean([contrast(values, of, pair).of_clips for pair in pairs]))
    of_turns = 2 * found.of_questions
    return Components(
        of_questions=max(0.0, of_clips - of_turns / seeds) * questions,
        of_turns=of_turns * questions,
        of_luck=2 * found.variance,
        luck_freedom=found.freedom,
        clips_per_question=len(of) / questions,
        levels=levels,
    )


def splits(found: Components, training: float, budget: float, most_questions: int | None = None) -> list[Split]:
    """Every number of seeds from 2 on that the budget allows, with the questions that are left for it.

    `training` is what one training costs in answers to one question, `budget` the same for all runs of one level
    together; `most_questions` is how many there are. Seeds that leave fewer than FEWEST_QUESTIONS are not listed.
    """
    rows = []
    for seeds in range(2, MOST_SEEDS + 1):
        questions = int(budget / seeds - training)
        questions = min(questions, most_questions or questions)
        if questions >= FEWEST_QUESTIONS:
            rows.append(Split(seeds, questions, found.detectable(seeds, questions)))
    return rows


def best(rows: Sequence[Split]) -> Split | None:
    """The split that finds the smallest difference; of equal ones that with fewer seeds."""
    return min(rows, key=lambda row: (round(row.detectable, 9), row.seeds), default=None)


def sentences(found: Components | None, rows: Sequence[Split], training: float, budget: float) -> list[str]:
    """What was measured and what follows, to quote; `found` None says why nothing follows."""
    if found is None:
        return [NOT_ESTIMABLE]
    lucky = 100 * (found.of_luck / 2) ** 0.5
    said = [
        f"Luck of training: {lucky:.1f} points (standard deviation of one run's accuracy; {found.luck_freedom} degrees "
        "of freedom, so a rough estimate)."
        if found.luck_freedom < 10
        else f"Luck of training: {lucky:.1f} points (standard deviation of one run's accuracy)."
    ]
    row = best(rows)
    if row is None:
        least = f"two seeds and {FEWEST_QUESTIONS} questions"
        return [*said, f"A budget of {budget:,.0f} answers a level is too small for {least}: give a larger one."]
    return [
        *said,
        f"Where one training costs as much as {training:,.0f} answers, a budget of {budget:,.0f} answers a level is "
        f"best split into {row.seeds} seeds and {row.questions:,} questions: the minimum detectable difference of two "
        f"levels is {100 * row.detectable:.1f} points (5 % test, 80 % power).",
    ]
