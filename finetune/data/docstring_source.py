"""Every public docstring of the installed standard library, by the name under which people import its owner.

Sources are parsed, never imported (importing `antigravity` opens a browser); the few modules written in C that are
read come with every build of Python, on every platform.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Not about using Python (jokes, demonstrations, codec tables), or packaged apart from Python by some systems.
SKIP = {"antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "ntpath", "pydoc_data", "this"}
SKIP |= {"tkinter", "turtle", "turtledemo", "test", "tests", "__main__"}
# Private modules, and the name under which users import what they define.
PUBLIC = {"_collections_abc": "collections.abc", "_pydatetime": "datetime", "_pydecimal": "decimal", "_pyio": "io"}
PUBLIC |= {"genericpath": "os.path", "posixpath": "os.path", "_weakrefset": "weakref", "_collections": "collections"}
PUBLIC |= {"_csv": "csv", "_functools": "functools", "_struct": "struct"}
C_MODULES = ("builtins", "_collections", "_csv", "_functools", "_struct", "array", "binascii", "cmath", "gc")
C_MODULES += ("itertools", "math", "unicodedata")


class Entry(NamedTuple):
    """One object: `kind` is module, class, function, method or property; `text` its docstring, "" where it has none.

    `signature` has its parentheses and no `self`, and is "" where unknown.
    """

    kind: str
    name: str
    signature: str
    text: str


def entries(root: Path) -> Iterator[Entry]:
    """All objects of the library in directory `root`, private ones and repeats among them."""
    for name in C_MODULES:
        yield from _from_c(name)
    for top in sorted(sys.stdlib_module_names - SKIP):
        paths = [root / f"{top}.py", *sorted((root / top).rglob("*.py"), key=Path.as_posix)]
        names = {path: path.relative_to(root).with_suffix("").parts for path in paths if path.is_file()}
        trees = {
            ".".join(parts).removesuffix(".__init__"): _parse(path)
            for path, parts in names.items()
            if not SKIP.intersection(parts)
        }
        exports = _exports(trees)
        for module, tree in trees.items():
            found = _from_tree(tree, PUBLIC.get(module, module), exports)
            yield from (entry for entry in found if entry.kind != "module" or module not in PUBLIC)


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own invalid escapes
        return ast.parse(path.read_bytes())


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a body, and of the `if` and `try` blocks in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try | ast.ExceptHandler):
            yield from _statements(child)
        else:
            yield child


def _exports(trees: dict[str, ast.Module]) -> dict[str, str]:
    """`asyncio.tasks.gather` → `asyncio.gather`, for all that packages import from their own modules."""
    found = {}
    for package, tree in trees.items():
        for node in (node for node in _statements(tree) if isinstance(node, ast.ImportFrom)):
            source = f"{package}.{node.module}" if node.level else node.module
            if source in trees and source.startswith(f"{package}."):
                names = [alias.name for alias in node.names]
                names = _star(trees[source]) if names == ["*"] else names
                found |= {f"{source}.{name}": f"{package}.{name}" for name in names}
    return found


def _star(tree: ast.Module) -> list[str]:
    """What `import *` hands on, where `__all__` is a plain list of names."""
    assigned = [node for node in _statements(tree) if isinstance(node, ast.Assign)]
    lists = [node.value for node in assigned if ast.unparse(node.targets[0]) == "__all__"]
    return [item.value for value in lists for item in getattr(value, "elts", ()) if isinstance(item, ast.Constant)]


def _from_tree(node: ast.Module | ast.ClassDef, name: str, exports: dict[str, str]) -> Iterator[Entry]:
    """The docstring of a module or class, and those of the functions and classes in it."""
    in_class = isinstance(node, ast.ClassDef)
    yield Entry("class" if in_class else "module", name, "", ast.get_docstring(node) or "")
    for child in _statements(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{name}.{child.name}"
            inner = exports.get(inner, inner)
            if isinstance(child, ast.ClassDef):
                yield from _from_tree(child, inner, exports)
            else:
                yield _function(child, inner, in_class)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, in_class: bool) -> Entry:
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if in_class and "staticmethod" not in decorators:
        del (node.args.posonlyargs or node.args.args)[:1]  # self or cls, which a caller does not pass
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    kind = "method" if in_class else "function"
    kind = "property" if any("property" in decorator for decorator in decorators) else kind
    return Entry(kind, name, f"({ast.unparse(node.args)})", ast.get_docstring(node) or "")


def _from_c(module_name: str) -> Iterator[Entry]:
    module, public = importlib.import_module(module_name), PUBLIC.get(module_name, module_name)
    if public == module_name:
        yield Entry("module", public, "", module.__doc__ or "")
    prefix = "" if public == "builtins" else f"{public}."
    functions, classes = _members(module, inspect.isbuiltin), _members(module, inspect.isclass)
    for name, function in functions.items():
        yield _c_entry("function", prefix + name, function)
    for name, value in classes.items():
        yield _c_entry("class", prefix + name, value)
        for inner, member in _members(value, callable).items():
            yield _c_entry("method", f"{prefix}{name}.{inner}", member)
        for inner, member in _members(value, inspect.isdatadescriptor).items():
            yield _c_entry("property", f"{prefix}{name}.{inner}", member)


def _members(of: object, wanted: Callable[[object], bool]) -> dict[str, object]:
    """The public members under their own names, sorted; an alias (`IOError`) is left out."""
    members = {name: getattr(of, name) for name in sorted(vars(of)) if not name.startswith("_")}
    return {name: value for name, value in members.items() if wanted(value) and value.__name__ == name}


def _c_entry(kind: str, name: str, value: object) -> Entry:
    signature = re.sub(r"^\(\$\w+(?:, /)?(?:, )?", "(", getattr(value, "__text_signature__", None) or "")
    return Entry(kind, name, signature, value.__doc__ or "")
