"""The façade: complete, and light to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import unimem
from unimem import errors

MODULES = (
    "client",
    "async_client",
    "cluster",
    "pointers",
    "transfer",
    "array",
    "batching",
    "mailbox",
    "async_mailbox",
)
#: Public in their modules, but not for users of the package.
INTERNAL = {
    "BaseArray", "BaseBatch", "Operation", "Selection", "shape_of", "dtype_of", "check_address", "node_info",
    "region_info", "rights_of", "log", "Early", "BaseMailbox", "Patience", "bytes_of", "checked",
    "new_header", "slots_of", "send_pauses", "SEND_TRIES",
}  # fmt: skip


def test_everything_public_is_exported() -> None:
    wanted = {k for k, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.UnimemError)}
    for name in MODULES:
        module = __import__(f"unimem.{name}", fromlist=["x"])
        wanted |= {
            k
            for k, v in vars(module).items()
            if not k.startswith("_") and getattr(v, "__module__", "") == module.__name__
        }
    assert wanted - INTERNAL <= set(unimem.__all__)


def test_all_is_true_and_sorted() -> None:
    assert unimem.__all__ == sorted(unimem.__all__, key=lambda n: (not n.isupper(), n[0].islower(), n))
    for name in unimem.__all__:
        assert getattr(unimem, name) is not None
    assert {"DELIVERED", "ACCEPTED", "SOURCE", "connect", "connect_async"} <= set(unimem.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        unimem.nonsense  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("numba", "asyncio", "grpc", "pydantic")
    code = f"import sys, unimem; print(*[m for m in {heavy} if m in sys.modules])"
    sdk = str(Path(unimem.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": sdk}
    )
    assert found.stdout.split() == []


def test_the_version_is_the_project_s() -> None:
    text = (Path(unimem.__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{unimem.__version__}"' in text
