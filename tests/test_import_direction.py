"""Arrows point down: between the packages, and between a node's floors (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = {"sdk": "unimem", "nodes": "unimem_node", "coordinator": "unimem_coordinator", "lab": "unimem_lab"}
MAY_IMPORT = {
    "unimem": set(),
    "unimem_node": {"unimem"},
    "unimem_coordinator": {"unimem"},
    "unimem_lab": {"unimem", "unimem_node", "unimem_coordinator"},
}

FLOORS = {
    "memory": 0,
    "bus": 0,
    "clock": 0,
    "mmu": 1,
    "smmu": 2,
    "dma": 3,
    "fabric": 4,
    "kernel": 5,
    "mpsoc": 6,
    "service": 7,
}
#: Helpers of every floor.
GROUND = {"_jit"}

#: What a state machine must not import: rule 1, the model does no I/O.
IO_MODULES = {
    "asyncio",
    "threading",
    "socket",
    "selectors",
    "grpc",
    "aiomqtt",
    "subprocess",
    "concurrent",
    "uvloop",
}
#: The wall clock and global randomness.
CALLS = {
    ("time", "time"),
    ("time", "monotonic"),
    ("time", "perf_counter"),
    ("time", "sleep"),
    ("datetime", "now"),
}


def imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in a file, also those inside functions."""
    parts = list(path.with_suffix("").parts)
    parts = parts[parts.index(package) :]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(parts[: len(parts) - node.level + (path.name == "__init__.py")])
                if node.level
                else ""
            )
            base = ".".join(filter(None, [base if node.level else "", node.module or ""]))
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def sources(package: str) -> list[Path]:
    folder = next(f for f, p in PACKAGES.items() if p == package)
    found = sorted((ROOT / folder / package).rglob("*.py"))
    return [p for p in found if "v1" not in p.parts]


def package_violations(package: str) -> list[str]:
    ours = set(PACKAGES.values()) - {package}
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(package)
        for line, module in imports(path, package)
        if module.split(".")[0] in ours - MAY_IMPORT[package]
    ]


def floor_of(module: str) -> int | None:
    """The floor of a unimem_node module, None for what belongs to no floor."""
    parts = module.split(".")
    if parts[0] != "unimem_node" or len(parts) < 2 or parts[1] in GROUND:
        return None
    return FLOORS.get(parts[1])


def floor_violations() -> list[str]:
    found = []
    for path in sources("unimem_node"):
        here = path.relative_to(ROOT / "nodes" / "unimem_node").parts[0].removesuffix(".py")
        if here not in FLOORS:
            continue
        for line, module in imports(path, "unimem_node"):
            floor = floor_of(module)
            if floor is not None and floor > FLOORS[here]:
                found.append(f"{path.relative_to(ROOT)}:{line} ({here}) imports {module}")
    return found


def io_violations() -> list[str]:
    model = [
        p
        for p in sources("unimem_node")
        if p.relative_to(ROOT / "nodes" / "unimem_node").parts[0].removesuffix(".py")
        not in {"service", "_jit"}
    ]
    model.append(ROOT / "coordinator" / "unimem_coordinator" / "core.py")
    found = []
    for path in model:
        package = "unimem_node" if "unimem_node" in path.parts else "unimem_coordinator"
        found += [
            f"{path.relative_to(ROOT)}:{line} imports {module}"
            for line, module in imports(path, package)
            if module.split(".")[0] in IO_MODULES
        ]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if (node.value.id, node.attr) in CALLS:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} uses {node.value.id}.{node.attr}")
                if node.value.id == "random" and node.attr != "Random":
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} uses global randomness")
    return found


@pytest.mark.parametrize("package", PACKAGES.values())
def test_packages_import_downward(package: str) -> None:
    assert sources(package), f"{package} has no sources: the test would check nothing"
    assert package_violations(package) == []


def test_floors_import_downward() -> None:
    assert floor_violations() == []


def test_every_module_of_a_node_is_on_a_floor() -> None:
    known = set(FLOORS) | GROUND | {"__init__", "warmup"}
    found = {
        p.relative_to(ROOT / "nodes" / "unimem_node").parts[0].removesuffix(".py")
        for p in sources("unimem_node")
    }
    assert found <= known


def test_the_model_does_no_io() -> None:
    assert io_violations() == []


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn the house upside down: the same sources must then be full of violations."""
    monkeypatch.setitem(MAY_IMPORT, "unimem_lab", set())
    assert package_violations("unimem_lab")
    for floor, level in list(FLOORS.items()):
        monkeypatch.setitem(FLOORS, floor, 7 - level)
    assert floor_violations()
