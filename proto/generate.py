#!/usr/bin/env python3
"""Regenerate sdk/unimem/v1 from proto/unimem/v1. Run by `make proto` with grpcio-tools 1.76.0.

`--check` writes nothing: it fails when the committed code differs from what the contract generates.
"""

import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
OUT = PROTO.parent / "sdk"


def generate(out: Path) -> list[Path]:
    """Write the Python modules below `out`; return their paths relative to it."""
    includes = Path(grpc_tools.__file__).parent / "_proto"
    files = [str(p.relative_to(PROTO)) for p in sorted((PROTO / "unimem" / "v1").glob("*.proto"))]
    args = [
        "protoc",
        f"-I{PROTO}",
        f"-I{includes}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
    ]
    if protoc.main([*args, *files]):
        sys.exit("protoc failed")
    # types.proto has no service: its empty stub module would be noise.
    (out / "unimem" / "v1" / "types_pb2_grpc.py").unlink(missing_ok=True)
    return sorted(p.relative_to(out) for p in (out / "unimem" / "v1").glob("*_pb2*.py*"))


def main() -> None:
    """Generate, or with --check compare with what is committed."""
    if "--check" not in sys.argv[1:]:
        generate(OUT)
        return
    with tempfile.TemporaryDirectory() as tmp:
        fresh = generate(Path(tmp))
        stale = [
            p
            for p in fresh
            if not (OUT / p).exists() or not filecmp.cmp(Path(tmp) / p, OUT / p, shallow=False)
        ]
        if stale:
            sys.exit(
                f"generated code is not what proto/ says: {', '.join(map(str, stale))}; run `make proto`"
            )


if __name__ == "__main__":
    main()
