"""The task of `creche demo`; a worker process imports it like any user's module."""

from __future__ import annotations

import ast

from creche import task


@task
def index(path: str) -> list[int]:
    """Count the lines, functions and classes of a Python source file."""
    return count(path)


def count(path: str) -> list[int]:
    """Return the lines, functions and classes of the file at *path*; the plain loop uses it too."""
    with open(path, "rb") as file:
        source = file.read()
    functions = classes = 0
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions += 1
        elif isinstance(node, ast.ClassDef):
            classes += 1
    return [source.count(b"\n"), functions, classes]
