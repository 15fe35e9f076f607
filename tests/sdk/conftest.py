"""A client of a fake cluster behind real gRPC; modules with another kind of client define their own `um`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_grpc import FakeGrpc, FakeNode

import unimem
from unimem import Client


@pytest.fixture
def fake() -> Iterator[FakeGrpc]:
    with FakeGrpc() as running:
        yield running


@pytest.fixture
def um(fake: FakeGrpc) -> Iterator[Client]:
    with unimem.connect(fake.address) as client:
        yield client


@pytest.fixture
def home(fake: FakeGrpc) -> FakeNode:
    return fake.nodes["n0"]
