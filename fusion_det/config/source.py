"""Finding the definition behind a dotted name in source files, without importing a single one of them."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fusion_det.config.instantiate import TARGET, UnsafeError, allowed_packages
from fusion_det.config.suggest import nearest
from fusion_det.errors import ConfigError

MAX_HOPS = 20
"""Re-exports followed before a name is taken to be circular."""


@dataclass(frozen=True)
class Module:
    """A parsed source file: ``names`` maps each module-level name to the statement that gives it."""

    name: str
    path: Path
    names: dict[str, ast.stmt] = field(repr=False)

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Definition:
    """A class, function or alias (any expression) and the module whose names it speaks."""

    module: Module
    node: ast.ClassDef | ast.FunctionDef | ast.expr


@dataclass(frozen=True)
class External:
    """A dotted name that lies outside the packages we read, such as ``typing.Literal``."""

    name: str


class Sources:
    """Parsed modules, each read once; one instance serves one check."""

    def __init__(self) -> None:
        self._modules: dict[str, Module | None] = {}

    def target(self, dotted: str) -> Definition:
        """The class or function of a ``_target_``; ``UnsafeError`` if it comes from outside, ``ConfigError`` if it is not there."""
        found = self.find(dotted)
        if isinstance(found, External):
            raise UnsafeError(f"{TARGET} {dotted!r} is refused for safety: it is {found.name} under another name")
        if found is None or isinstance(found.node, ast.expr):
            raise self._missing(dotted)
        return found

    def find(self, dotted: str, hops: int = 0) -> Definition | External | None:
        """What ``dotted`` leads to, through re-exports; ``None`` if nothing has that name."""
        if not any(dotted.startswith(package + ".") for package in allowed_packages()):
            return External(dotted)
        parts = dotted.split(".")
        for count in range(len(parts) - 1, 0, -1):
            module = self.module(".".join(parts[:count]))
            if module is not None:
                return self._inside(module, parts[count:], hops)
        return None

    def name(self, module: Module, name: str, hops: int = 0) -> Definition | External | None:
        """What the plain ``name`` means inside ``module``."""
        statement = module.names.get(name)
        if hops > MAX_HOPS or statement is None:
            return None
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            return Definition(module, statement)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            return self.find(_imported(module, statement, name), hops + 1)
        value = getattr(statement, "value", None)
        return Definition(module, value) if isinstance(value, ast.expr) else None

    def module(self, name: str) -> Module | None:
        """The parsed module, or ``None`` if there is no such file; ``ConfigError`` if it is not Python."""
        if name not in self._modules:
            path = _find_file(name)
            self._modules[name] = None if path is None else _parse(name, path)
        return self._modules[name]

    def _inside(self, module: Module, parts: list[str], hops: int) -> Definition | External | None:
        found = self.name(module, parts[0], hops)
        if isinstance(found, External) and len(parts) > 1:
            return External(".".join([found.name, *parts[1:]]))
        for part in parts[1:]:
            if not isinstance(found, Definition) or not isinstance(found.node, ast.ClassDef):
                return None
            members = {s.name: s for s in found.node.body if isinstance(s, ast.ClassDef | ast.FunctionDef)}
            found = Definition(found.module, members[part]) if part in members else None
        return found

    def _missing(self, dotted: str) -> ConfigError:
        home, _, last = dotted.rpartition(".")
        module = self.module(home)
        if module is None:
            return ConfigError(f"{TARGET} {dotted!r}: no module {home!r} can be found", mend="check the spelling and PYTHONPATH")
        public = [name for name, node in module.names.items() if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        close = nearest(last, public)
        hint = f"did you mean {home}.{close}?" if close else f"it defines {', '.join(public) or 'nothing'}"
        return ConfigError(f"{TARGET} {dotted!r}: {module.path.name} defines no class or function {last!r}", mend=hint)


def _find_file(name: str) -> Path | None:
    """The source file of a module. Only the top-level package is asked of Python's finders: asking for more would import it."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for root in spec.submodule_search_locations or []:
        folder = Path(root).joinpath(*rest)
        for candidate in (folder / "__init__.py", folder.with_name(folder.name + ".py")):
            if candidate.is_file():
                return candidate
    return None


def _parse(name: str, path: Path) -> Module:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise ConfigError(f"not valid Python: {error}", where=f"{path}{line}") from error
    return Module(name, path, dict(_bindings(tree.body)))


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Each (name, statement) bound at module level, also under ``if TYPE_CHECKING`` and ``try``."""
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            yield statement.name, statement
        elif isinstance(statement, ast.Import):
            yield from ((alias.asname or alias.name.partition(".")[0], statement) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield from ((alias.asname or alias.name, statement) for alias in statement.names)
        elif isinstance(statement, ast.Assign):
            yield from ((target.id, statement) for target in statement.targets if isinstance(target, ast.Name))
        elif isinstance(statement, ast.If | ast.Try):
            yield from _bindings([*statement.body, *statement.orelse])
        elif isinstance(name := getattr(statement, "target", getattr(statement, "name", None)), ast.Name):
            yield name.id, statement  # annotated assignment, or the `type X = ...` of Python 3.12


def _imported(module: Module, statement: ast.Import | ast.ImportFrom, name: str) -> str:
    """The absolute dotted name that an import statement of ``module`` binds to ``name``."""
    if isinstance(statement, ast.Import):
        alias = next(a for a in statement.names if (a.asname or a.name.partition(".")[0]) == name)
        return alias.name if alias.asname else name
    alias = next(a for a in statement.names if (a.asname or a.name) == name)
    base = statement.module or ""
    if statement.level:
        parts = module.package.split(".")
        base = ".".join([*parts[: len(parts) - statement.level + 1], *([base] if base else [])])
    return f"{base}.{alias.name}"
