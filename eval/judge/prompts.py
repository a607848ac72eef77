"""The judge's prompts: our own (prompts.toml), or those of the official scripts in the user's copy.

The official wording is read as a syntax tree; nothing of those files is run.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from videogpt_plus.io.errors import translated
from videogpt_plus.io.fingerprint import of_value
from videogpt_plus.types import UserError

#: What a prompt may name, by aspect; the official scripts call them the same.
SINGLE = ("question", "answer", "pred")
PAIR = ("question1", "question2", "answer", "pred1", "pred2")
#: Aspects that two answers are judged for together.
PAIRED = ("consistency",)
#: Aspects that have a yes or no in addition to the score.
VERDICTS = ("answer",)
#: Official evaluation scripts by the benchmark's files and the aspect: names of one file, the first that is found.
OFFICIAL: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "vcgbench": {
        "correctness": ("evaluate_benchmark_1_correctness.py",),
        "detail": ("evaluate_benchmark_2_detailed_orientation.py",),
        "context": ("evaluate_benchmark_3_context.py",),
        "temporal": ("evaluate_benchmark_4_temporal.py",),
        "consistency": ("evaluate_benchmark_5_consistency.py",),
    },
    "diverse": {
        "correctness": ("1_correctness_of_information.py",),
        "detail": ("2_detailed_orientation.py",),
        "context": ("3_contextual_information.py",),
        "temporal": ("4_temporal_information.py",),
        "consistency": ("5_consistency.py",),
    },
    "qa": {"answer": ("evaluate_activitynet_qa.py", "eval_video_qa.py")},
}


@dataclass(frozen=True)
class Prompt:
    """Two messages with $names in them."""

    system: str
    user: str
    # None leaves it to the server, as some official scripts do.
    temperature: float | None = 0.0
    wording: Literal["own", "official"] = "own"

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of the whole prompt."""
        return of_value([self.system, self.user, self.temperature])

    def messages(self, fields: Mapping[str, str]) -> list[dict[str, str]]:
        """The chat's messages with the names filled in."""
        pairs = (("system", self.system), ("user", self.user))
        return [{"role": role, "content": Template(text).substitute(fields)} for role, text in pairs]


def names_of(aspect: str) -> tuple[str, ...]:
    """What the prompt of an aspect may name."""
    return PAIR if aspect in PAIRED else SINGLE


def own_prompts(aspects: Iterable[str]) -> dict[str, Prompt]:
    """Our own prompts of these aspects."""
    texts = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
    return {aspect: Prompt(texts[aspect]["system"].strip(), texts[aspect]["user"].strip()) for aspect in aspects}


def official_prompts(folder: str | Path, files: str, aspects: Iterable[str]) -> dict[str, Prompt]:
    """The prompts of these aspects as the official scripts below `folder` word them.

    `files` is the kind of benchmark, a key of OFFICIAL. UserError: a script is not there, or asks in another way.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--official-prompts {folder}: there is no such folder; name your copy of the official scripts")
    return {aspect: _official(folder, OFFICIAL[files][aspect], names_of(aspect)) for aspect in aspects}


def combined_hash(prompts: Mapping[str, Prompt]) -> str:
    """16 hexadecimal digits of all prompts of a benchmark."""
    hashes = sorted((aspect, prompt.hash) for aspect, prompt in prompts.items())
    return of_value(hashes)


def _official(folder: Path, names: tuple[str, ...], allowed: tuple[str, ...]) -> Prompt:
    found = [path for name in names for path in sorted(folder.rglob(name))]
    if not found:
        raise UserError(f"--official-prompts {folder}: {' or '.join(names)} is not below it; name the scripts' folder")
    prompts = {read_script(path, allowed): path for path in found if path.name == found[0].name}
    if len(prompts) > 1:
        paths = " and ".join(str(path) for path in prompts.values())
        raise UserError(f"--official-prompts {folder}: {paths} ask in different words; name the folder of one of them")
    return next(iter(prompts))


def read_script(path: Path, allowed: tuple[str, ...]) -> Prompt:
    """The one chat that an evaluation script sends, its variables turned into $names. Nothing of it is run."""
    then = "download the official script again"
    kinds = (OSError, ValueError, SyntaxError, RecursionError, MemoryError)
    with translated(*kinds, to=lambda error: UserError(f"{path} cannot be read as Python ({error}); {then}")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        (keyword.value, {k.arg: k.value for k in node.keywords})
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "messages" and isinstance(keyword.value, ast.List)
    ]
    if len(calls) != 1:
        raise UserError(f"{path} has {len(calls)} calls with messages=[...], 1 expected; download the script again")
    messages, keywords = calls[0]
    texts = {}
    for message in messages.elts:
        if not isinstance(message, ast.Dict):
            raise UserError(f"{path}, line {message.lineno}: a message is no dict with role and content")
        fields = {k.value: v for k, v in zip(message.keys, message.values, strict=True) if isinstance(k, ast.Constant)}
        role = fields.get("role")
        if not isinstance(role, ast.Constant) or role.value not in ("system", "user") or "content" not in fields:
            raise UserError(f"{path}, line {message.lineno}: a message is no dict with role and content")
        texts[role.value] = _text(fields["content"], path, allowed)
    if texts.keys() != {"system", "user"}:
        raise UserError(f"{path}: expected a system and a user message; found {', '.join(texts) or 'none'}")
    missing = [name for name in allowed if "${" + name + "}" not in texts["user"]]
    if missing:
        raise UserError(f"{path}: the prompt does not show the judge {', '.join(missing)}; is it another script?")
    temperature = keywords.get("temperature")
    value = temperature.value if isinstance(temperature, ast.Constant) else None
    return Prompt(texts["system"], texts["user"], float(value) if isinstance(value, int | float) else None, "official")


def _text(node: ast.expr, path: Path, allowed: tuple[str, ...]) -> str:
    """A text with variables in it -> the same with $names."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("$", "$$")
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, path, allowed) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, path, allowed) + _text(node.right, path, allowed)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name) and node.value.id in allowed:
        return "${" + node.value.id + "}"
    raise UserError(f"{path}, line {node.lineno}: the prompt is put together in a way that is not known here")
