"""`tokens`, `convert` and `push`: what a size costs; run folders in other layouts and places."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from videogpt_plus.app.runs import find_run
from videogpt_plus.app.screen import new_table, show
from videogpt_plus.config.experiments import choices
from videogpt_plus.types import UserError

Name = Annotated[str, arg(metavar="EXPERIMENT")]
#: What is counted of a name that holds no level.
LEVELS = (1, 2, 4, 8, 16, 24)


def tokens(
    experiment: Positional[Annotated[str, arg(metavar="EXPERIMENT", help=f"{choices()}.")]],
    levels: tuple[float, ...] | None = None,
    frames: int | None = None,
) -> None:
    """Print level, grid, visual tokens and cost of a question, before anyone books a GPU.

    Args:
        levels: Pool levels; when not given 1 2 4 8 16 24, or the one that the name holds: qwen1_5b_pool2.
        frames: Frames of a clip; the experiment's when not given.
    """
    from videogpt_plus.config.experiment_file import named_or_filed
    from videogpt_plus.config.experiments import at_level, level_text
    from videogpt_plus.config.tokens import num_visual_tokens
    from videogpt_plus.flops import TEXT_TOKENS, sizes_of

    base = named_or_filed(experiment)
    count = base.num_frames if frames is None else frames
    if count < 1:
        raise UserError(f"--frames {count} is not possible: a clip has at least 1 frame")
    if levels is None:
        named = at_level(base, base.level).name == base.name
        levels = (base.level,) if named or not base.reducer.has_levels else LEVELS
    streams = dict(base.branches)
    grids = [f"{name} grid" for name in streams]
    columns = ("level", *grids, "visual tokens", "GFLOP a question", "encoders", "KV cache (MB)")
    table = new_table(*columns, title=f"{base.name}, {count} frames")
    for level in levels:
        at = at_level(base, level)
        sides = [at.reducer.left_of(stream.grid) for stream in streams.values()]
        visual, cost, sizes = num_visual_tokens(at, count), ("not known",) * 3, sizes_of(at)
        if sizes:
            flops = sizes.question(count, visual)
            kept = sizes.llm.key_value_bytes(visual + TEXT_TOKENS)
            cost = (f"{flops / 1e9:,.1f}", f"{100 * sizes.encode(count) / flops:.0f} %", f"{kept / 1e6:,.2f}")
        table.add_row(level_text(level), *sides, str(visual), *cost)
    show(table)
    if finer := [level_text(level) for level in levels if level < 1]:
        print(
            f"Level {' and '.join(finer)} is below 1: the grid is upsampled, which makes more tokens than the encoder "
            "gives patches, and tells nothing new."
        )
    print(f"A question: up to the first token, {TEXT_TOKENS} text tokens, KV cache in bfloat16.")


def convert(
    source: Positional[Annotated[Path | None, arg(metavar="SOURCE")]] = None,
    target: Positional[Annotated[Path | None, arg(metavar="TARGET")]] = None,
    experiment: Name | None = None,
    to: Literal["ours", "reference", "original", "hub", "hub5"] | None = None,
    verify: bool = False,
    family: str | None = None,
    input: Path | None = None,
    output: Path | None = None,
    dtype: str | None = None,
) -> None:
    """Turn the reference's files into a run folder of ours, or a run folder into the reference's files.

    With --family the same for published weights of another model family.

    Args:
        source: A folder of either, or an mm_projector.bin.
        target: A new folder.
        experiment: Which of ours the reference's files are, such as qwen1_5b_pool4, where config.json fits several.
        to: The layout of the target: ours or reference, where the source holds both. Of llava15: original (the
            release's), hub, or hub5 (as transformers 5 saves it); the other one of the first two when not given.
        verify: Compare both, their logits or, of a family, their tensors; exit code 1 if they differ.
        family: llava15, cogvlm2_image or cogvlm2_video.
        input: The source, by name.
        output: The target, by name.
        dtype: Of a family's target: float32, bfloat16 or float16; as stored when not given.
    """
    from videogpt_plus import convert as conversion

    source, target = source or input, target or output
    if source is None or target is None:
        raise UserError("convert takes two folders: --input SOURCE --output TARGET")
    if family is not None:
        if experiment:
            raise UserError("--experiment belongs to the reference's files: leave it out with --family")
        _convert_family(family, source, target, dtype, verify, to)
        return
    if to not in (None, "ours", "reference"):
        raise UserError(f"--to {to} is a layout of llava15: name it with --family llava15")
    if dtype is not None:
        raise UserError("--dtype is for the weights of another family: name it with --family")
    written = conversion.convert(source, target, experiment, to)
    print(f"{written}: {target}")
    if verify:
        worst = conversion.largest_difference(source, target, written)
        same = worst <= conversion.TOLERANCE
        print(f"largest difference of a logit: {worst:.2g} ({'at most' if same else 'above'} {conversion.TOLERANCE:g})")
        if not same:
            sys.exit(1)


def _convert_family(family: str, source: Path, target: Path, dtype: str | None, verify: bool, to: str | None) -> None:
    from videogpt_plus.convert import convert_family, differing

    print(f"{convert_family(family, source, target, dtype, to=to, tell=print)}: {target}")
    if verify:
        count, wrong, rounded = differing(family, source, target, dtype)
        same = f"the same after rounding to {dtype}" if rounded else "bit for bit the same"
        print(f"{count - len(wrong)} of {count} tensors are {same}")
        if wrong:
            print(f"not the same: {', '.join(wrong[:8])}")
            sys.exit(1)


def push(
    run: Positional[Annotated[str, arg(metavar="RUN")]],
    repo_id: Positional[Annotated[str, arg(metavar="NAME/MODEL")]],
    private: bool = False,
) -> None:
    """Upload a finished run to the Hugging Face Hub: weights, experiment, tokenizer and model card.

    Args:
        run: A run folder, or the name of a trained experiment under results/.
        repo_id: Repository; made if there is none.
        private: Make it private.
    """
    from videogpt_plus.hub import push as push_run

    print(f"pushed: {push_run(find_run(run), repo_id, private)}")
