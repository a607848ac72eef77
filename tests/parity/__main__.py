"""`python -m tests.parity DIR [--case NAME]`: one line a row; exit code 0 if every row is ok and there was one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from videogpt_plus.types import UserError

from . import Row, check_folder


def main(args: Sequence[str] | None = None) -> int:
    """0: every compared row is ok; 1: one is not, or nothing was compared; 2: the folder or the case is not there."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("dir", help="a folder laid out like tests/golden")
    parser.add_argument("--case", help="one case: the name of its folder, or of its table without .json")
    chosen = parser.parse_args(args)
    head = iter([line("case", "quantity", "level", "difference", "tolerance", "")])

    def tell(row: Row) -> None:
        for first in head:
            print(first)
        print(told(row), flush=True)

    try:
        rows = check_folder(chosen.dir, chosen.case, tell)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed, skipped = sum(row.failed for row in rows), sum(row.skipped for row in rows)
    print(f"{len(rows)} rows, {failed} failed, {skipped} skipped")
    return 0 if not failed and any(row.ok for row in rows) else 1


def told(row: Row) -> str:
    """A row as a line."""
    if row.skipped:
        return line(row.case, row.quantity, row.level, "-", "-", f"skipped: {row.note}")
    tolerance = "exact" if row.tolerance == 0 else f"{row.tolerance:.2g}"
    said = "ok" if row.ok else f"NOT OK {row.note}".rstrip()
    return line(row.case, row.quantity, row.level, f"{row.difference:.3g}", tolerance, said)


def line(case: str, quantity: str, level: str, difference: str, tolerance: str, said: str) -> str:
    return f"{case:<25} {quantity:<62} {level:>5} {difference:>10} {tolerance:>9}  {said}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
