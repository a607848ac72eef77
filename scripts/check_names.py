"""Names that lead nowhere, found without importing anything: exit code 1 where there is one.

    python scripts/check_names.py [ROOT]

Imports of this project's own modules and of names in them: a test module with a wrong one is not collected. Read as
well are imports in functions, in code that tests hand to other processes as text, and the dotted names that
`monkeypatch.setattr` replaces. And names that a file uses and nowhere binds: ruff's check of those is off, for it takes
the letters of shapes for names.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

FOLDERS = ("videogpt_plus", "eval", "benchmarks", "scripts", "tests")
#: Tests that write trees of their own, whose imports lead nowhere here.
MADE_UP = ("tests/test_structure.py", "tests/test_check_names.py")


def lost(root: Path) -> Iterator[str]:
    """`FILE:LINE: NAME leads nowhere` for each own module, and each name, that does not exist."""
    for path in sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.py")):
        file, tree = path.relative_to(root), ast.parse(path.read_text())
        found = {(line, name) for line, name in _named(tree, file.parts[:-1]) if not _leads_somewhere(name, root)}
        for line, name in sorted(found | set(_unbound(tree))):
            if file.as_posix() not in MADE_UP:
                yield f"{file}:{line}: {name} leads nowhere"


def _named(tree: ast.AST, folder: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of whatever is imported or replaced."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            yield from ((node.lineno, ".".join([*base, *filter(None, [node.module]), a.name])) for a in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            yield from ((node.lineno, name) for _, name in chain(*(_named(t, ()) for t in _imports_in(node.value))))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
            target = getattr(node.args[0], "value", None)
            yield from [(node.lineno, target)] if isinstance(target, str) else []


def _unbound(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the name of what is used, and bound nowhere in the file: whichever function binds it counts."""
    nodes = list(ast.walk(tree))
    bound = {*dir(builtins), "__file__"} | {getattr(node, "name", None) for node in nodes}  # functions, errors, imports
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    for node in nodes:
        if isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
    if "*" not in bound:
        yield from ((n.lineno, n.id) for n in nodes if isinstance(n, ast.Name) and n.id not in bound)


def _imports_in(text: str) -> Iterator[ast.AST]:
    """The statements of import in code that is a text, as far as they are whole."""
    for line in chain(*(line.split(";") for line in text.splitlines())):
        if line.strip().startswith(("from ", "import ")):
            try:
                yield ast.parse(line.strip())
            except SyntaxError:  # prose, or a part that is filled in later
                continue


def _leads_somewhere(name: str, root: Path) -> bool:
    """Whether it is a module of others, an own one, or a name in an own one."""
    parts = name.split(".")
    places = [place for place in (root, root / "tests") if _is_module(place / parts[0])]
    if not places:
        return True
    for place in places:
        length = next(n for n in range(len(parts), 0, -1) if _is_module(place.joinpath(*parts[:n])))
        module, rest = place.joinpath(*parts[:length]), parts[length:]
        if not rest or rest[0] == "*" or not {rest[0], "*", "__getattr__"}.isdisjoint(_names(module)):
            return True
    return False


def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path.is_dir() and any(path.glob("*.py")))


@cache
def _names(module: Path) -> frozenset[str]:
    """What a module binds outside of functions and classes."""
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    if not file.is_file():
        return frozenset()
    found, ahead = {"__name__", "__file__", "__doc__"}, [*ast.parse(file.read_text()).body]
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        ahead += ast.iter_child_nodes(node)
    return frozenset(found)


if __name__ == "__main__":
    told = list(lost(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])))
    sys.exit("\n".join(told) if told else 0)
