"""`cinego`: a video LLM from scratch: tokenizer, language model, two trainings, a demo, and answers."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from videogpt_plus.app.runs import find_run
from videogpt_plus.app.screen import new_table, progress, show
from videogpt_plus.app.trainings import say_replaced
from videogpt_plus.app.usage import later
from videogpt_plus.config.experiment_file import load_experiment
from videogpt_plus.config.experiments import get_experiment
from videogpt_plus.config.options import DEFAULT_LOADER, GREEDY, EvalConfig, GenerationConfig, LoaderConfig
from videogpt_plus.io.errors import attempted, translated
from videogpt_plus.types import ClipError, UserError, Visual

if TYPE_CHECKING:
    from videogpt_plus.inference import VideoLLM
    from videogpt_plus.training.cinego.stages import Source

Name = Annotated[str, arg(metavar="EXPERIMENT", help="cinego_512, cinego_768 or toy_cinego.")]
Dtype = Literal["float32", "bfloat16", "float16"]
#: What the demo withholds from the model -> how its table calls that.
CONTROLS = {None: "all frames", "shuffled": "frames in another order", "blind": "blind"}


@dataclass(frozen=True)
class Settings:
    """How a stage is trained."""

    # Passes over the data; the recipe's when not given, as with the others.
    epochs: int | None = None
    # Samples a device and forward pass.
    batch_size: int | None = None
    # Forward passes a step.
    accumulation: int | None = None
    # The schedule begins at 1.1 of it and ends at 0.1 of it.
    learning_rate: float | None = None
    # Tokens of a sample at most, visual ones included; of text alone longer ones become several.
    max_length: int | None = None
    # What is computed in; weights stay float32.
    dtype: Dtype = "float32"
    # Initial weights, order of the data, dropout.
    seed: int = 1337
    # A checkpoint every so many steps.
    save_steps: int = 100
    # Processes that read the data; 0 reads in the training process.
    dataloader_num_workers: int = 0


DEFAULT_SETTINGS = Settings()


def tokenizer(data: Positional[tuple[Path, ...]], output: Path, vocabulary: int = 6400) -> None:
    """Train a byte-level BPE tokenizer on text.

    Args:
        data: JSONL files of {"text": ...} or {"conversations": ...}.
        output: Folder for the tokenizer, where there is none yet.
        vocabulary: Its entries; the published models have 6,400.
    """
    from itertools import chain

    from videogpt_plus.training.cinego.tokenizer import texts_of, train_tokenizer

    _named(data)
    if (there := output / "tokenizer.json").exists():
        raise UserError(
            f"{there} is there already, and weights that were trained with it need it: choose another --output, or "
            "remove it"
        )
    entries = train_tokenizer(chain.from_iterable(texts_of(path) for path in data), output, vocabulary)
    print(f"tokenizer of {entries:,} entries: {output}")


def lm(
    experiment: Positional[Name],
    data: tuple[Path, ...],
    start: Path,
    output_dir: Path,
    experts: bool = False,
    settings: OmitArgPrefixes[Settings] = DEFAULT_SETTINGS,
) -> None:
    """Train the language model on text, from random weights or on.

    Args:
        data: JSONL files of {"text": ...}, or of conversations without files.
        start: Folder of a tokenizer to begin with, or a file lm_*.pth, or its folder, to train on.
        output_dir: Folder for the weights.
        experts: A mixture of experts in every layer, of a new model.
    """
    from videogpt_plus.families.cinego.lm import MINIMIND_512, MINIMIND_768, Experts
    from videogpt_plus.toy.cinego import Plan
    from videogpt_plus.training.cinego.stages import Source

    chosen = get_experiment(experiment)
    sizes = {"cinego_512": MINIMIND_512, "cinego_768": MINIMIND_768, "toy_cinego": Plan().size}
    if chosen.name not in sizes:
        raise UserError(f"{chosen.name} is no Cinego; choose from: {', '.join(sizes)}")
    # A folder with weights is a trained one: random weights would replace them unnoticed.
    trained = start.suffix == ".pth" or any(start.glob("*.pth"))
    if trained and experts:
        raise UserError(
            f"--experts is for a new model, and {start} holds a trained one: name a tokenizer's folder with --start"
        )
    size = None if trained else replace(sizes[chosen.name], experts=Experts() if experts else None)
    _named(data)
    _train("lm", experiment, Source(data), start, output_dir, settings, size=size)


def visual_training(stage: str, what: str) -> Callable[..., None]:
    """The command of a training with images and videos, which says `what` it trains."""

    def command(
        experiment: Positional[Name],
        data: tuple[Path, ...],
        start: Path,
        output_dir: Path,
        media: Path = Path(),
        features: Path | None = None,
        settings: OmitArgPrefixes[Settings] = DEFAULT_SETTINGS,
        reference: bool = False,
        loader_config: OmitArgPrefixes[LoaderConfig] = DEFAULT_LOADER,
    ) -> None:
        from videogpt_plus.clips.cache import open_cache
        from videogpt_plus.training.cinego.stages import Source

        _named(data)
        source = Source(data, media, features, open_cache(loader_config), loader_config.decoder)
        _train(stage, experiment, source, start, output_dir, settings, reference)

    command.__doc__ = f"""{what}

    Args:
        data: JSONL files of conversations with images, videos or .npy features.
        start: Weights, or their folder: lm_*.pth for pretrain, pretrain_videolm_*.pth or sft_videolm_*.pth for sft.
        output_dir: Folder for the weights.
        media: Folder that the rows' files start from.
        features: Folder of .npy files as the original's preprocess.py writes them, to be read for images and videos.
        reference: Masks, order and accumulation of the original, to compare with it.
    """
    return command


def preprocess(
    experiment: Positional[Name],
    data: Positional[tuple[Path, ...]],
    media: Path = Path(),
    workers: int = 2,
    loader_config: OmitArgPrefixes[LoaderConfig] = DEFAULT_LOADER,
) -> None:
    """Keep CLIP's output of every clip, so that a training with the same --store decodes and encodes nothing.

    Goes on where it was ended. A clip that cannot be read is named, and left out.

    Args:
        data: JSONL files, whose images and videos are taken, or folders of images and videos.
        media: Folder that the rows' files start from.
        workers: Processes that decode clips; 0 decodes in this one.
    """
    from videogpt_plus.clips.cache import open_cache
    from videogpt_plus.training.cinego.data import read_rows
    from videogpt_plus.training.cinego.features import SUFFIX, media_files
    from videogpt_plus.training.cinego.features import preprocess as keep

    _named(data)
    if (store := open_cache(loader_config)) is None:
        raise UserError("preprocess fills a grid store: name its folder with --store DIR")
    paths: list[Path] = []
    for one in data:
        if one.is_dir():
            paths += media_files(one)
        else:
            paths += [Path(path) for row in read_rows(one, media) for path in row.media if not path.endswith(SUFFIX)]
    with progress("preprocess") as advance:
        done = keep(get_experiment(experiment), paths, store, loader_config.decoder, workers, advance)
    for path, error in done.failed.items():
        print(f"{path}: {error}", file=sys.stderr)
    print(f"{store.folder}: {done.new} new, {done.kept} there before, {len(done.failed)} that cannot be read")


def demo(output: Path = Path(".cache/toy/cinego_demo")) -> None:
    """Train a tiny Cinego from scratch on rendered clips, and ask it about others; two cores take some minutes.

    Leaves the weights of `toy_cinego`: `videogpt-plus predict toy_cinego "What color is the object?" --video ...`.

    Args:
        output: Folder for clips, features and trainings; what is finished there is not done again.
    """
    from videogpt_plus.toy import cinego as demos

    began, experiment, plan = time.monotonic(), get_experiment("toy_cinego"), demos.Plan()
    with progress("render clips") as advance:
        demos.prepare(output, plan, advance)
    print(f"clips: {plan.clips:,} to train on and {plan.held_out:,} to be asked about, in {output}", flush=True)

    def shown(stage: str) -> Callable[[int, int, float], None]:
        def advance(step: int, steps: int, loss: float) -> None:
            if step % max(1, steps // 5) == 0 or step == steps:
                print(f"{stage}: step {step} of {steps}, loss {loss:.3f}", flush=True)

        return advance

    folder = demos.teach(experiment, output, plan, shown, lambda text: print(text, flush=True))
    print(f"weights of toy_cinego: {folder}")
    replies = {control: demos.ask(experiment, output, plan, control) for control in CONTROLS}
    _show_replies(replies)
    example = demos.clips(output, plan)[-1]
    print(
        f'ask it: videogpt-plus predict toy_cinego "What color is the object?" --video {shlex.quote(str(example.path))}'
    )
    print(f"{time.monotonic() - began:.0f} seconds")


def _show_replies(replies: dict[str | None, dict[str, list[tuple[str, str]]]]) -> None:
    """The share of right words of every question under every control, and how far above the blind one it is."""
    from eval.statistics.estimates import share
    from eval.statistics.paired import compare
    from videogpt_plus.toy.cinego import QUESTIONS, is_right

    table = new_table("asked", *CONTROLS.values(), "above blind", "chance", title="held-out clips, % right")
    worth = []
    for name, question in QUESTIONS.items():
        right = {c: [is_right(name, reply) for reply in own[name]] for c, own in replies.items()}
        cells = []
        keys = [str(i) for i in range(len(right[None]))]
        # Each clip is asked twice, once in each turn: the two answers are about one clip.
        videos = {key: str(i // 2) for i, key in enumerate(keys)}
        for own in right.values():
            found = share(dict(zip(keys, own, strict=True)), videos)
            cells.append(f"{100 * found.value:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})")
        pair = (dict(zip(keys, right[control], strict=True)) for control in (None, "blind"))
        above = compare(*pair, videos)
        worth.append(above.low)
        cells.append(f"{100 * above.difference:+.0f} ({100 * above.low:+.0f} to {100 * above.high:+.0f})")
        table.add_row(name, *cells, f"{100 / len(question.words):.0f}")
    show(table)
    print(f"with 95 % confidence the clip is worth more than {100 * min(worth):.0f} points on every question")


def evaluate(
    run: Positional[str],
    media: Positional[Path],
    prompt: str | None = None,
    prompts: Path | None = None,
    output: Path | None = None,
    generation_config: OmitArgPrefixes[GenerationConfig] = GREEDY,
    loader_config: OmitArgPrefixes[LoaderConfig] = DEFAULT_LOADER,
) -> None:
    """Ask one question, or each of a file, about every image and video of a folder; answers show as they come.

    Benchmarks are asked with `videogpt-plus answer`.

    Args:
        run: A run folder, or an experiment's name such as toy_cinego.
        media: A folder of images and videos, or one file.
        prompt: What to ask.
        prompts: A file with a question on each line.
        output: JSONL file for the answers; what it holds already is not asked again. Exit code 1: none could be given.
    """
    from videogpt_plus.training.cinego.features import media_files

    questions = _questions(prompt, prompts)
    files = [media] if media.is_file() else media_files(media)
    folder = find_run(run)  # before seconds of imports
    from videogpt_plus import inference
    from videogpt_plus.io.fingerprint import of_path
    from videogpt_plus.io.jsonl_log import append, claim, cut_torn_line, open_locked, read_lines

    wanted = [_key(path, question) for path in files for question in questions]
    experiment = load_experiment(folder)
    answerer = inference.load({run: folder}, EvalConfig(**{**asdict(loader_config), "workers": 0}))
    if output is None:
        lines = {line["key"]: line for line in _replies(answerer, files, questions, generation_config, {})}
        _exit_without_answers(lines[key] for key in wanted)
        return
    with closing(open_locked(output)) as file:
        cut_torn_line(file, output)
        claim(output, {"run": str(folder), "weights": of_path(experiment.llm), **asdict(generation_config)}, "answers")
        known = read_lines(output, "an answer", "move it away")
        kept = sum(key in known for key in wanted)
        lines = dict(known)
        for line in _replies(answerer, files, questions, generation_config, known):
            append(file, output, line)
            lines[line["key"]] = line
    failed = sum("error" in lines[key] for key in wanted)
    print(f"{output}: {len(wanted) - kept} new, {kept} kept, {failed} with an error")
    _exit_without_answers(lines[key] for key in wanted)


def _key(path: Path, question: str) -> str:
    return f"{path} {question}"


def _exit_without_answers(lines: Iterable[dict[str, Any]]) -> None:
    """Ends with 1 where no file could be read: who runs this in a script takes 0 for answers."""
    if all("error" in line for line in lines):
        sys.exit(1)


def _questions(prompt: str | None, prompts: Path | None) -> list[str]:
    if (prompt is None) == (prompts is None):
        raise UserError('eval takes one question or a file of them: give --prompt "..." or --prompts FILE')
    if prompt is not None:
        if not prompt.strip():
            raise UserError('--prompt is empty: give a question, as --prompt "Describe the video."')
        return [prompt]
    unread = "name a text file with a question on each line"
    with translated(OSError, UnicodeDecodeError, to=lambda e: UserError(f"cannot read {prompts} ({e}); {unread}")):
        found = [line for line in prompts.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not found:
        raise UserError(f"{prompts} holds no questions; write one on each line")
    return list(dict.fromkeys(found))


def _replies(
    answerer: VideoLLM,
    files: Sequence[Path],
    questions: Sequence[str],
    generation_config: GenerationConfig,
    known: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """A line for each file and question that is not known, printed as it comes; a file that cannot be read is one."""
    for path in files:
        left = [question for question in questions if _key(path, question) not in known]
        visual = attempted(partial(answerer.see, path), ClipError) if left else None
        if isinstance(visual, ClipError):
            print(f"{path}: {visual}", file=sys.stderr)
        for question in left:
            said = visual
            if not isinstance(visual, ClipError):
                said = attempted(partial(_said, answerer, path, visual, question, generation_config), ClipError)
                if isinstance(said, ClipError):
                    print(f"{path}: {said}", file=sys.stderr)
            line = {"key": _key(path, question), "file": str(path), "prompt": question}
            yield line | ({"error": str(said)} if isinstance(said, ClipError) else said)


def _said(
    answerer: VideoLLM, path: Path, visual: Visual, question: str, generation_config: GenerationConfig
) -> dict[str, Any]:
    """The answer, printed as it comes, and the seconds that it took."""
    began, first, pieces = time.perf_counter(), None, []
    print(f"{path}: {question}\n  ", end="", flush=True)
    for piece in answerer.stream(question, visual, (), generation_config):
        first = first or time.perf_counter() - began
        pieces.append(piece)
        print(piece, end="", flush=True)
    taken = {"seconds": round(time.perf_counter() - began, 3), "seconds_first": first and round(first, 3)}
    print()
    return {"answer": "".join(pieces), **taken}


def _named(data: tuple[Path, ...]) -> None:
    if not data:
        raise UserError("no data is named: give JSONL files")


def _train(
    stage: str,
    name: str,
    source: Source,
    start: Path,
    output_dir: Path,
    settings: Settings,
    reference: bool = False,
    size: Any = None,
) -> None:
    from videogpt_plus.training.cinego.stages import RECIPES, train
    from videogpt_plus.training.processes import leave

    experiment = get_experiment(name)
    if experiment.family != "cinego":
        raise UserError(f"{experiment.name} is no Cinego; choose from: cinego_512, cinego_768, toy_cinego")
    stated = {name: value for name, value in asdict(settings).items() if value is not None}
    workers = stated.pop("dataloader_num_workers")
    recipe = replace(RECIPES[stage], **stated, reference=reference)
    if workers < 0:
        raise UserError(f"--dataloader-num-workers {workers} is not possible: 0 reads in the training process itself")
    with progress(f"cinego {stage}") as advance:

        def shown(step: int, steps: int, loss: float) -> None:
            advance(step, steps, f"loss {loss:.3f}")

        means = {"size": size, "workers": workers, "progress": shown, "say": print}
        path = train(stage, experiment, source, start, output_dir, recipe, **means)
        leave()
    say_replaced(output_dir, "", "samples with unreadable files")
    print(f"weights: {path}")


COMMANDS: dict[str, Callable[..., None]] = {
    "tokenizer": tokenizer,
    "lm": lm,
    "pretrain": visual_training(
        "pretrain", "Train projection, summary and the language model's last layer on captions."
    ),
    "sft": visual_training(
        "sft",
        "Train everything but CLIP on conversations of any number of turns. The folder is then a run to be asked.",
    ),
    "preprocess": preprocess,
    "demo": demo,
    "eval": evaluate,
}
_Chosen = reduce(or_, (Annotated[Any, subcommand(name, constructor=later(made))] for name, made in COMMANDS.items()))


def cinego(command: OmitSubcommandPrefixes[OmitArgPrefixes[_Chosen]]) -> None:
    """Train a video LLM from scratch: tokenizer, language model, two trainings; run the demo; ask the model."""
    command()
