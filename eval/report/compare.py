"""Two runs on the same questions: how far apart they are, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from eval.answers.answer import read_answers
from eval.answers.places import answer_command, check_place, is_judged
from eval.judge.command import judge_command
from eval.statistics.estimates import ACCURACY, LEVEL, SCORE, Clips, Scale, Tasks
from eval.statistics.paired import TOO_FEW, Paired, compare, equivalence, holm
from videogpt_plus.io.files import read_object
from videogpt_plus.io.jsonl_log import clip_of, meta_path
from videogpt_plus.types import UserError

#: What is said of equivalence that holds or fails with the clips that one of the runs could not read.
DECIDED_BY_FAILURES = "unreadable clips decide it"
BETTER = A_BETTER, B_BETTER = "A is better", "B is better"


@dataclass(frozen=True)
class Run:
    """The answers of one file, or a judge's scores of them."""

    path: Path
    #: Key -> right (True, False), or the mean of the judge's scores.
    values: Mapping[str, float]
    #: Key -> the clip.
    videos: Mapping[str, str]
    #: Task, or what the judge was asked -> its part of `values`.
    parts: Mapping[str, Mapping[str, float]]
    #: Key -> what the right answer was, so that like is compared with like.
    references: Mapping[str, str]
    #: Keys of questions that could not be asked (and count as wrong), or of answers without a score (which do not).
    failed: frozenset[str]
    #: What the answers depend on, with `judge` for scores; {} where nothing says so.
    meta: Mapping[str, Any]
    #: Key -> the judge's yes or no, where it was asked for one.
    verdicts: Mapping[str, bool] = field(default_factory=dict)

    @property
    def judged(self) -> bool:
        """Whether the values are a judge's scores."""
        return "judge" in self.meta

    @property
    def scale(self) -> Scale:
        return SCORE if self.judged else ACCURACY


def read_run(path: str | Path) -> Run:
    """The answers in `answers.jsonl`; of open questions, a judge's scores in the `scores.json` of their folder.

    Either file may be named, and the judge's ledger. Right is what the parser of options said when the question was
    asked, and never a question that failed. UserError: neither, nothing in it, or scores of several judges.
    """
    path = Path(path)
    if path.name.startswith("judged") and path.suffix == ".jsonl":
        from eval.judge.scoring import scores_of_ledger

        path = scores_of_ledger(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: name an answers.jsonl, or a run that was answered")
    if path.suffix == ".json":
        return _read_scores(path)
    check_place(path)
    lines = read_answers(path)
    if not lines:
        raise UserError(f"{path} holds no answer yet; finish it with: {answer_command(path)}")
    told = meta_path(path)
    meta = read_object(told, f"move it away; {path} can be compared without it") if told.is_file() else {}
    if _are_open(lines, meta):
        return _read_scores(_only_scores(path))
    return _read_lines(path, lines, meta)


def _are_open(lines: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> bool:
    """Whether the answers are to open questions: their benchmark is judged, or no line says right or wrong."""
    if meta.get("benchmark"):
        return is_judged(meta)
    return all("correct" in line and line["correct"] is None for line in lines.values())


def _read_lines(path: Path, lines: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> Run:
    for key, line in lines.items():
        missing = [name for name in ("task", "video", "reference", "correct", "error") if name not in line]
        if missing or not isinstance(line["correct"], bool):
            what = f"no {missing[0]}" if missing else f"correct = {line['correct']!r}, which is neither true nor false"
            raise UserError(f"{path}: the answer {key} has {what}; name the answers.jsonl that `answer` wrote")
    right = {key: line["correct"] and line["error"] is None for key, line in lines.items()}
    parts: dict[str, dict[str, float]] = {}
    for key, line in lines.items():
        parts.setdefault(line["task"], {})[key] = right[key]
    return Run(
        path=path,
        values=right,
        videos={key: clip_of(line) for key, line in lines.items()},
        parts=parts,
        references={key: line["reference"] for key, line in lines.items()},
        failed=frozenset(key for key, line in lines.items() if line["error"] is not None),
        meta=meta,
    )


def _only_scores(answers: Path) -> Path:
    """The scores of the one judge that scored these answers."""
    from eval.judge.scoring import all_scores

    names = list(all_scores(answers))
    if not names:
        raise UserError(
            f"{answers} holds open answers that nobody judged yet; judge them first with: {judge_command(answers)}"
        )
    if len(names) > 1:
        raise UserError(f"{answers} was scored by several judges; name one file of: {', '.join(names)}")
    return answers.with_name(names[0])


def _read_scores(path: Path) -> Run:
    from eval.judge.scoring import check_numbers, is_of_answers

    scores = read_object(path, "score the run again")
    answers = path.with_name("answers.jsonl")
    if "judge" not in scores or "aspects" not in scores:
        raise UserError(f"{path} holds no judge's scores; of a multiple-choice benchmark name the answers.jsonl")
    if not is_of_answers(scores, answers):
        raise UserError(f"{answers} has changed since {path.name} was written; judge again: nothing is paid twice")
    check_numbers(path, scores)
    lines = read_answers(answers)
    parts = {
        aspect: {key: score for key, score in row["scores"].items() if score is not None}
        for aspect, row in scores["aspects"].items()
    }
    known = [key for row in scores["aspects"].values() for key in row["scores"]]
    lost = [key for key in known if key.partition("/")[0] not in lines]
    if lost:
        raise UserError(f"{answers} lacks {len(lost)} answers that {path} has scores of; score the run again")
    of = {key: lines[key.partition("/")[0]] for key in known}
    return Run(
        path=path,
        values={key: score for part in parts.values() for key, score in part.items()},
        videos={key: clip_of(line) for key, line in of.items()},
        parts=parts,
        references={key: line["reference"] for key, line in of.items()},
        failed=frozenset(key for row in scores["aspects"].values() for key, s in row["scores"].items() if s is None),
        meta=scores,
        verdicts={k: v for row in scores["aspects"].values() for k, v in row.get("correct", {}).items()},
    )


def compare_runs(first: Run, second: Run, margin: float | None = None) -> dict[str, Any]:
    """Two runs on the questions that both have, as one object of plain values, of the second taken from the first.

    Shares lie between 0 and 1, a judge's scores in the judge's unit; `margin` is in the same unit. n, n_videos,
    n_differing (clips), only_a and only_b (questions that one alone has), failed_a and failed_b (of the common ones),
    accuracy_a and accuracy_b (score_a, score_b), difference with ci_low and ci_high, mcnemar_p (of accuracies), p,
    detectable_difference (None where no possible one is found), verdict, with a margin equivalence_p, equivalent (None
    where that cannot be told) and equivalence (in words), and `tasks` with the same for each task (each aspect that was
    judged), p_holm over them, and detectable_after_holm. Of several tasks `mean_of_tasks` has the same for the mean
    over tasks. `readable`, in both, has the same for the questions that neither run failed at, where one did.
    `verdicts` has the accuracies of a judge's yes and no. UserError: the runs are not about the same questions.
    """
    common = _check_alike(first, second)
    failed = set() if first.judged else (first.failed | second.failed) & common
    counts, whole = _with_readable(first, second, common, failed, margin, None)
    tasks = _by_task(first, second, margin)
    if len(tasks) > 1 and not first.judged:
        of_task = {key: task for task, part in first.parts.items() for key in part}
        n, numbers = _with_readable(first, second, common, failed, margin, of_task)
        whole |= {"mean_of_tasks": n | numbers}
    if first.verdicts.keys() & second.verdicts.keys():
        whole |= {"verdicts": _row(first.verdicts, second.verdicts, first.videos)[1]}
    return {
        "a": str(first.path),
        "b": str(second.path),
        "control_a": first.meta.get("control"),
        "control_b": second.meta.get("control"),
        **counts,
        "only_a": len(first.values.keys() - common),
        "only_b": len(second.values.keys() - common),
        # An answer without a score is in no mean: it cannot be common.
        "failed_a": len(first.failed if first.judged else first.failed & common),
        "failed_b": len(second.failed if second.judged else second.failed & common),
        **whole,
        "tasks": tasks,
    }


def _with_readable(
    first: Run, second: Run, common: set[str], failed: set[str], margin: float | None, tasks: Tasks | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The counts and the numbers of all common questions, with `readable`: those of where neither run failed.

    Equivalence is refused where the two disagree about it.
    """

    def on(keys: set[str]) -> dict[str, Any]:
        values = ({key: run.values[key] for key in keys} for run in (first, second))
        return _row(*values, first.videos, tasks, margin, first.scale)[1]

    whole, more = on(common), {}
    equivalent = whole.get("equivalent")
    if failed and failed != common:
        more = {"readable": on(common - failed)}
        refused = equivalent != more["readable"].get("equivalent")
    else:
        refused = bool(failed and equivalent)  # of what nobody could read
    if refused:
        whole |= {"equivalent": None, "equivalence": DECIDED_BY_FAILURES}
    counts = {name: whole.pop(name) for name in ("n", "n_videos", "n_differing")}
    return counts, whole | more


def _by_task(first: Run, second: Run, margin: float | None) -> dict[str, dict[str, Any]]:
    found = {
        task: _row(values, other, first.videos, None, margin, first.scale)
        for task, values in first.parts.items()
        if values.keys() & (other := second.parts.get(task, {})).keys()
    }
    adjusted = holm([paired.p for paired, _ in found.values()])
    for (paired, row), p in zip(found.values(), adjusted, strict=True):
        detected = _finite(paired.detectable_at(LEVEL / len(found)))
        row |= {"p_holm": p, "verdict": paired.verdict(p, BETTER), "detectable_after_holm": detected}
    return {task: row for task, (_, row) in found.items()}


def _row(
    first: Mapping[str, float],
    second: Mapping[str, float],
    clips: Clips,
    tasks: Tasks | None = None,
    margin: float | None = None,
    scale: Scale = ACCURACY,
) -> tuple[Paired, dict[str, Any]]:
    """The comparison, and as plain values."""
    found, counted = compare(first, second, clips, tasks, scale), scale is ACCURACY
    row = {
        "n": found.n,
        "n_videos": found.n_videos,
        "n_differing": found.n_differing,
        f"{scale.name}_a": found.first,
        f"{scale.name}_b": found.second,
        "difference": found.difference,
        "ci_low": _finite(found.low),
        "ci_high": _finite(found.high),
        **({"only_a_right": found.only_first, "only_b_right": found.only_second} if counted else {}),
        "interval": found.method,
        "p": found.p,
        "detectable_difference": _finite(found.detectable),
        "verdict": found.verdict(found.p, BETTER),
        **({"mcnemar_p": found.mcnemar_p} if counted else {}),
    }
    if margin is not None:
        said = equivalence(first, second, margin, clips, tasks, scale)
        words = {True: "equivalent", False: "not shown to be equivalent", None: TOO_FEW}[said.shown]
        row |= {"margin": margin, "equivalence_p": said.p, "equivalent": said.shown, "equivalence": words}
    return found, row


def _finite(value: float) -> float | None:
    """JSON knows no infinity: None where nothing is known."""
    return value if isfinite(value) else None


def _check_alike(first: Run, second: Run) -> set[str]:
    """The common keys. UserError: there is none, or the same question has another answer in the other file."""
    if first.judged != second.judged:
        scores, answers = (first, second) if first.judged else (second, first)
        raise UserError(f"{scores.path} holds a judge's scores and {answers.path} answers: compare like with like")
    if first.judged:
        from eval.judge.scoring import check_alike

        check_alike({f"A ({first.path})": first.meta, f"B ({second.path})": second.meta})
    common = first.values.keys() & second.values.keys()
    if not common:
        raise UserError(
            f"{first.path} and {second.path} have no question in common: their tasks are {_named(first.parts)} and "
            f"{_named(second.parts)}; compare two runs of one benchmark"
        )
    for key in sorted(common):
        if first.references.get(key) != second.references.get(key):
            raise UserError(
                f"{first.path} and {second.path} are of two question sets: the right answer to {key} is "
                f"{first.references.get(key)!r} in one and {second.references.get(key)!r} in the other; answer the "
                "same version of the benchmark with both"
            )
    return set(common)


def _named(parts: Sequence[str] | Mapping[str, Any]) -> str:
    names = list(parts)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
