"""The command line `videogpt-plus`: its commands by name, and what becomes of their errors.

The commands parse, show progress and print; all work is done in the library and in eval. Nothing heavy is imported
before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout

import tyro

from videogpt_plus.app.commands.ask import answer, export, predict, report, score
from videogpt_plus.app.commands.check import check
from videogpt_plus.app.commands.cinego import cinego
from videogpt_plus.app.commands.compare import compare
from videogpt_plus.app.commands.data import data
from videogpt_plus.app.commands.files import convert, push, tokens
from videogpt_plus.app.commands.judge import judge, rejudge
from videogpt_plus.app.commands.subset import subset
from videogpt_plus.app.commands.train import pretrain, register, sweep, train
from videogpt_plus.app.commands.web import web
from videogpt_plus.app.usage import PROGRAM, choice, later, parsed
from videogpt_plus.io.memory import keep_freed
from videogpt_plus.io.output import complain, written_out
from videogpt_plus.types import UserError

DESCRIPTION = (
    "How many visual tokens does a video LLM need?\n\n"
    "`videogpt-plus sweep toy` gives the whole answer on a laptop; `videogpt-plus tokens qwen1_5b` counts tokens."
)
COMMANDS: dict[str, Callable[..., None]] = {
    "sweep": sweep,
    "pretrain": pretrain,
    "train": train,
    "register": register,
    "data": data,
    "check": check,
    "answer": answer,
    "judge": judge,
    "rejudge": rejudge,
    "score": score,
    "export": export,
    "report": report,
    "compare": compare,
    "subset": subset,
    "predict": predict,
    "web": web,
    "cinego": cinego,
    "tokens": tokens,
    "convert": convert,
    "push": push,
}
#: What commands were called before -> what they are called; the old names go with the next version.
EARLIER = {"doctor": "check", "take": "register"}


def main(args: Sequence[str] | None = None) -> None:
    """Run a command. What the user can mend is one line on stderr and exit code 2."""
    keep_freed()
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    try:
        with written_out(), ExitStack() as silence:
            if not first:
                silence.enter_context(redirect_stdout(silence.enter_context(open(os.devnull, "w"))))
            _check_python()
            _command(sys.argv[1:] if args is None else args)()
    except UserError as error:
        if not first:
            time.sleep(10)  # the first process may be about to say the same, and torchrun then ends this one
        complain("error: " + " ".join(str(error).split("\n")))
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        # A name that no file can have, a folder that may not be entered, a server that is lost: nothing to trace.
        complain(f"error: {error.filename!s:.300}: {error.strerror}; check the name and the permissions")
        sys.exit(2)
    except KeyboardInterrupt:
        complain("stopped; the same command goes on from here")
        sys.exit(130)


def _check_python() -> None:
    if sys.flags.optimize > 1:
        raise UserError(
            "Python's -OO takes docstrings away, of which the help and parts of transformers are made: leave it out "
            "(and PYTHONOPTIMIZE), or use -O"
        )


def _command(args: Sequence[str]) -> Callable[[], None]:
    """The command that `args` call, with what they give to it. UserError: they are wrong."""
    for option, word in zip(args, args[1:], strict=False):
        if word == "" and option.startswith("--"):  # a variable of a script that is not set; a path of it is `.`
            raise UserError(f"{option} is empty: give it a value, or leave it out")
    if args and args[0] in EARLIER:
        now = EARLIER[args[0]]
        print(f"`{args[0]}` is called `{now}` now; the old name goes with the next version", file=sys.stderr)
        args = [now, *args[1:]]
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        # tyro would list them all and not say which one was meant.
        raise UserError(f"unknown command '{args[0]}': {choice(args[0], list(COMMANDS))}")
    commands = {name: later(command) for name, command in COMMANDS.items()}
    return parsed(
        lambda: tyro.extras.subcommand_cli_from_dict(commands, prog=PROGRAM, description=DESCRIPTION, args=args), args
    )


if __name__ == "__main__":
    main()
