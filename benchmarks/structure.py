"""The shape of the code in one table, with the goal beside each figure: `python benchmarks/structure.py [ROOT]`.

Rooms are the files and folders that stand directly in `videogpt_plus`, and `eval`. A floor is one step of the longest
chain of imports between rooms. Imports count wherever in a file they stand. It reports and does not judge: the walls
are held by tests/test_architecture.py, which reads imports with the same functions. It needs Python alone.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

PACKAGES = ("videogpt_plus", "eval")
#: Files that hold records: what is known of encoders and model families without importing one.
RECORDS = re.compile(r"videogpt_plus/(encoders/__init__|families/(\w+/)?__init__|families/record)\.py")
#: Rooms that are not the core: models by name, the embedded default, and the applications.
AROUND_THE_CORE = ("families", "toy", "app")
#: A file of more lines than this is a long one.
LONG = 400

#: Name -> the names that it imports.
Graph = dict[str, set[str]]


def files(root: Path) -> list[Path]:
    """Every Python file of the library and of `eval`."""
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def module_of(path: Path, root: Path) -> str:
    """`videogpt_plus/encoders/clip.py` -> `videogpt_plus.encoders.clip`; a folder's `__init__.py` is the folder."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str, root: Path) -> str | None:
    """`videogpt_plus.encoders.clip` -> `encoders`; all of `eval` is one room, and the package itself is none.

    The records of encoders and families, which name files and import none of them, are a room of their own.
    """
    head, *rest = module.split(".")
    if head == "eval":
        return "eval"
    if head != "videogpt_plus" or not rest:
        return None
    if rest[0] == "__main__":  # three lines that start the command line
        return "app"
    return "records" if RECORDS.fullmatch(_file_of(module, root)) else rest[0]


def _file_of(module: str, root: Path) -> str:
    """The file in which a module stands, or a name in one, as a path from `root`."""
    path = Path(*module.split("."))
    for found in (path.with_suffix(".py"), path / "__init__.py", path.parent.with_suffix(".py")):
        if (root / found).is_file():
            return found.as_posix()
    return (path.parent / "__init__.py").as_posix()


def imports(path: Path, root: Path) -> set[str]:
    """Every dotted name of the project that a file imports; a name in a module reads like a module in a folder."""
    found, folder = set(), path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            found |= {".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def import_graph(root: Path) -> Graph:
    """Module -> the modules of the project that it imports."""
    modules = {module_of(path, root): path for path in files(root)}
    return {
        name: {_module(found, modules) for found in imports(path, root)} - {name, ""} for name, path in modules.items()
    }


def _module(name: str, modules: Iterable[str]) -> str:
    """The longest beginning of a dotted name that is a module; "" where none is."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def room_graph(graph: Graph, root: Path) -> Graph:
    """Room -> the rooms that its modules import."""
    rooms: Graph = {}
    for module, imported in graph.items():
        if room := room_of(module, root):
            rooms.setdefault(room, set()).update(filter(None, (room_of(name, root) for name in imported)))
    return {room: imported - {room} for room, imported in rooms.items()}


def circles(graph: Graph) -> list[list[str]]:
    """Groups of names of which each imports, over others, itself."""
    reached = {name: set(_reached(graph, name)) for name in graph}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted(sorted(group) for group in groups if group)


def _reached(graph: Graph, name: str) -> Iterator[str]:
    """All that a name imports, over others too; itself where it stands on a circle."""
    seen, ahead = set(), [name]
    while ahead:
        for other in graph[ahead.pop()] - seen:
            seen.add(other)
            ahead.append(other)
            yield other


def floors(graph: Graph) -> int:
    """How many names the longest chain of imports has; those of one circle stand on one floor."""
    together = {name: "+".join(circle) for circle in circles(graph) for name in circle}
    above: Graph = {}
    for name, imported in graph.items():
        own = together.get(name, name)
        above.setdefault(own, set()).update({together.get(other, other) for other in imported} - {own})
    heights: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in heights:
            heights[name] = 1 + max(map(height, above[name]), default=0)
        return heights[name]

    return max(map(height, above), default=0)


def figures(root: Path) -> dict[str, Any]:
    """The figures of a tree by name; circles as lists of names."""
    graph, paths = import_graph(root), files(root)
    between = room_graph(graph, root)
    trees = [ast.parse(path.read_text()) for path in paths]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    lines = {path: len(path.read_text().splitlines()) for path in paths}
    rooms = {path: room_of(module_of(path, root), root) for path in paths}
    lengths = [n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    library = sum(count for path, count in lines.items() if rooms[path] != "eval")
    around = sum(count for path, count in lines.items() if rooms[path] in AROUND_THE_CORE)
    return {
        "rooms": len(between),
        "floors": floors(between),
        "circles between rooms": circles(between),
        "circles between files": circles(graph),
        "lines of library and eval": sum(lines.values()),
        "lines of the library": library,
        "lines of eval": sum(lines.values()) - library,
        "lines of the core": library - around,
        f"files over {LONG} lines": sum(count > LONG for count in lines.values()),
        "median lines of a function": int(median(lengths or [0])),
        "90 % of functions have at most": int(quantiles(lengths, n=10)[-1]) if len(lengths) > 1 else 0,
        "try statements": sum(isinstance(node, ast.Try | ast.TryStar) for node in nodes),
    }


#: Figure -> the most it may be.
GOALS = {
    "floors": 9,
    "circles between rooms": 0,
    "circles between files": 0,
    "lines of library and eval": 21_500,
    "lines of the core": 7_499,
    "try statements": 49,
}


def table(found: dict[str, Any]) -> str:
    """One line a figure, its goal and whether it is met; below it the circles by name."""
    rows = []
    for name, value in found.items():
        count, goal = len(value) if isinstance(value, list) else value, GOALS.get(name)
        told = (
            ""
            if goal is None
            else f"at most {goal:,}".ljust(16) + ("met" if count <= goal else f"{count - goal:,} over")
        )
        rows.append(f"{name:<32}{count:>8,}  {told}".rstrip())
    for name, value in found.items():
        rows += [f"one of the {name}: {', '.join(circle)}" for circle in value] if isinstance(value, list) else []
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(figures(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]))))
