"""The arrows of the house: who may import whom, read from the sources; and what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "mqcli"

# Each may import those before it, never those behind: DESIGN section 7. A package stands for all
# that is in it. `client` is the module with the three that it is made of.
LAYERS = [
    ("errors",),
    ("message", "position"),
    ("address",),
    ("options",),
    ("transport",),
    ("broker",),
    ("roles",),
    ("registry",),
    ("session",),
    ("publisher", "reader", "atomic"),
    ("client",),
    ("operations",),
    ("cli",),
    ("__main__",),
]
# Besides the line: what stands beside it, and all that it may know.
BESIDE: dict[str, set[str]] = {
    "_version": set(),
    "config": {"address", "errors"},
    "formats": {"message", "errors"},
    "transports": {
        "errors", "message", "position", "address", "options", "transport", "broker", "roles",
        "_version",
    },
    # The client, and the types that its methods take and return.
    "benchmark": {
        "client", "publisher", "reader", "errors", "message", "position", "transport", "_version",
    },
    "testing": {
        "errors", "message", "position", "address", "options", "transport", "registry",
        "session", "reader", "publisher", "client",
    },
}  # fmt: skip
# The line may use what stands beside it, from there on.
USERS: dict[str, set[str]] = {
    "_version": {"registry", "client", "cli", "operations", "formats", "transports", "benchmark"},
    "config": {"operations", "cli"},
    "formats": {"operations", "cli"},
    "benchmark": {"operations", "cli"},
}
PRINTING = {"typer", "rich", "click"}
DRIVERS = {"redis", "hiredis", "aio_pika", "aiormq", "pamqp", "aiokafka", "cramjam", "sqlite3"}


def parts() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    """The module or package directly in ``mqcli`` that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of every import, wherever in the file it stands, except those
    for type checkers alone."""
    tree = ast.parse(path.read_text())
    package = ["mqcli", *path.relative_to(ROOT).parts[:-1]]
    for_types = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for inner in branch.body
        for node in ast.walk(inner)
    }
    found = []
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            if module == ["mqcli"]:
                found += [(node.lineno, f"mqcli.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, ".".join(module)))
    return found


def allowed(part: str) -> set[str]:
    """The parts of mqcli that ``part`` may import."""
    if part in BESIDE:
        return BESIDE[part] | {part}
    order = [set(layer) for layer in LAYERS]
    at = next(i for i, layer in enumerate(order) if part in layer)
    before = set().union(*order[: at + 1])
    return before | {beside for beside, users in USERS.items() if part in users}


@pytest.mark.parametrize("path", parts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    # Given a source file
    part = part_of(path)
    if part == "__init__":
        return  # the public face: it may name everything, see below
    # When its imports are read
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for line, name in imports(path)
        if name.startswith("mqcli.") and name.split(".")[1] not in allowed(part)
    ]
    # Then it knows only what stands before it
    assert not wrong


@pytest.mark.parametrize("path", parts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    # Given a source file, when its imports are read
    part = part_of(path)
    roots = {name.split(".")[0] for _, name in imports(path)}
    # Then only the command line knows how to print, and only transports know a driver
    assert part in ("cli", "__main__") or not roots & PRINTING
    assert part == "transports" or not roots & DRIVERS
    assert part == "testing" or "pytest" not in roots


@pytest.mark.parametrize("path", parts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    # Given a source file, when its lines are counted
    text = path.read_text()
    lines = text.count("\n")
    # Then there are at most 500, or its docstring says why not
    assert lines <= 500 or "500 lines" in (ast.get_docstring(ast.parse(text)) or "")


def test_every_part_has_its_place() -> None:
    # Given the parts of the package
    found = {part_of(path) for path in parts()} - {"__init__"}
    # When compared with the arrows, then none is without a place
    assert found <= {name for layer in LAYERS for name in layer} | BESIDE.keys()


def test_the_contract_is_short() -> None:
    # Given the one file that a plugin's author reads, when counted, then it stays that
    assert (ROOT / "transport.py").read_text().count("\n") <= 300


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads, beyond those that Python starts with."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["errors", "message", "address", "position", "transport", "registry", "client"]
)
def test_the_core_loads_no_driver_and_no_terminal(module: str) -> None:
    # Given a fresh Python, when the core is imported
    roots = {name.split(".")[0] for name in loaded_by(f"import mqcli.{module}")}
    # Then no broker library and nothing that prints comes with it
    assert not roots & (DRIVERS | PRINTING | {"pytest"})


@pytest.mark.parametrize("module", ["errors", "message", "address", "position", "client"])
def test_what_is_exported_exists_and_is_sorted(module: str) -> None:
    # Given a module with a list of what it exports, when looked at, then the list is true
    found = __import__(f"mqcli.{module}", fromlist=["__all__"])
    assert all(hasattr(found, name) for name in found.__all__)
    assert list(found.__all__) == sorted(found.__all__)


def test_the_public_face() -> None:
    # Given the three public modules
    import mqcli
    import mqcli.broker
    import mqcli.roles
    import mqcli.testing
    import mqcli.transport

    # When looked at, then they have what the documents promise
    assert mqcli.__all__ == sorted(mqcli.__all__)
    assert all(getattr(mqcli, name) is not None for name in mqcli.__all__)
    assert {"Client", "Message", "Received", "Address", "MqcliError"} <= set(mqcli.__all__)
    assert set(mqcli.testing.__all__) == {"Harness", "TransportConformance"}
    contract = {
        "Consumes", "Feed", "Gap", "Inspects", "Manages", "Outcome",
        "Publishes", "Span", "Tails", "Target", "Traits", "Transport",
    }  # fmt: skip
    assert contract <= vars(mqcli.transport).keys()
    assert set(mqcli.broker.__all__) == {"Broker", "Entry"}
    assert set(mqcli.roles.__all__) == {"Binds", "Drops", "ListsGroups", "Seeks", "Transacts"}
    # And the contract stays short enough to be read as a whole
    assert len((ROOT / "transport.py").read_text().splitlines()) <= 250
    assert (ROOT / "py.typed").exists()
