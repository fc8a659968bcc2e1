"""Which files of this project a script imports, read from the source text."""

from __future__ import annotations

import ast
from pathlib import Path


def imported_files(script: Path, root: Path) -> set[str]:
    """Paths, relative to the repository `root`, of the modules that `script` imports at any depth.

    An import in a function counts. Imports for type checking alone do not: they change nothing that runs.
    Nor do the packages' __init__ files: gta's hold a docstring and nothing else (a test sees to that), and no
    result depends on what is in that of stages.
    """
    found: set[str] = set()
    todo = [script]
    while todo:
        for module in _modules(ast.parse(todo.pop().read_text(encoding="utf-8"))):
            path = root / (module.replace(".", "/") + ".py")
            name = path.relative_to(root).as_posix()
            if path.exists() and name not in found:
                found.add(name)
                todo.append(path)
    return found


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return []
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for child in ast.iter_child_nodes(node) for name in _modules(child)]
