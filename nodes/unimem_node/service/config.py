"""Settings of a node process: from flags, then the environment, then defaults.

Each field is a flag (``--memory-bytes`` for `memory_bytes`) and two environment variables, the specific one
first: ``UNIMEM_NODE_<FIELD>``, ``UNIMEM_<FIELD>`` (so that ``UNIMEM_COORDINATOR`` serves a whole cluster).
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LARGEST_PORT = 65535
_NAME = re.compile(r"[a-z0-9]([-_.a-z0-9]{0,61}[a-z0-9])?", re.IGNORECASE)


def parse_size(value: Any) -> Any:
    """Bytes: ``4294967296``, ``4GiB``, ``4g``; anything else is left for pydantic to refuse."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*([kmgt]?)(?:i?b)?\s*", value.lower())
        if match:
            return int(match[1]) * _UNITS[match[2]]
    return value


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` (or ``[v6]:port``) in parts. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > _LARGEST_PORT:
        raise ValueError(f"{address!r} is not host:port")
    return host, int(port)


class NodeSettings(BaseModel):
    """Everything a node process can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        default="", description="the node's name; empty: the host's name with --advertise auto, else given"
    )
    coordinator: str = Field(default="127.0.0.1:7400", description="host:port of the coordinator")
    listen: str = Field(default="127.0.0.1:0", description="host:port to listen on; port 0: any free one")
    advertise: str = Field(
        default="", description="host:port that others dial; auto:PORT: own address; empty: as --listen"
    )
    platform: str = Field(default="zynqmp", description="platform preset or file")
    memory_bytes: Annotated[int, BeforeValidator(parse_size)] = Field(
        default=4 << 30,
        ge=16 << 20,
        le=1 << 36,
        description="simulated DRAM (4GiB); untouched pages cost nothing",
    )
    topology: Literal["full", "pair", "ring", "mesh2d", "torus3d"] = Field(
        default="full", description="how the nodes are wired, in the order of their indices: sets the hops"
    )
    policy: str = Field(
        default="abort",
        description="page faults of remote DMA: abort, touch_a_page, touch_ahead:N, prefault, pin or stall",
    )
    transport: Literal["auto", "shm", "unix", "tcp", "grpc"] = Field(
        default="auto", description="best way to other nodes that may be used; those after it remain"
    )
    impair: str = Field(
        default="", description="a bad network for the frames that leave: loss=0.05,corrupt=0.01,seed=7"
    )
    seed: int = Field(default=0, ge=0, description="seed of the node's random streams")
    fast: bool = Field(default=True, description="use the compiled paths; off: the readable ones, slowly")
    warm: bool = Field(default=True, description="load the compiled paths before joining")
    mqtt: str = Field(default="", description="host:port of an MQTT broker; empty: no events")
    cluster: str = Field(default="unimem", description="name of the cluster in MQTT topics")
    counters_interval_s: float = Field(default=5.0, gt=0, description="seconds between counters events")
    coordinator_timeout_s: float = Field(
        default=60.0, ge=0, description="seconds to wait for the coordinator at start"
    )
    connect_timeout_s: float = Field(
        default=2.0, gt=0, description="seconds to wait for a connection to another node"
    )
    reflection: bool = Field(default=False, description="answer gRPC reflection")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged"
    )
    announce: Literal["text", "json"] = Field(
        default="text", description="how the first line on stdout says where the node listens"
    )
    log_json: bool = Field(default=False, description="log JSON lines instead of key=value")

    @field_validator("coordinator", "listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("advertise", "mqtt")
    @classmethod
    def _is_address_or_empty(cls, value: str) -> str:
        if value and value != "auto":
            split_address(value)
        return value

    @field_validator("policy")
    @classmethod
    def _is_policy(cls, value: str) -> str:
        if value != "abort":  # the usual case spares a start the kernel's modules
            from unimem_node.kernel.fault_policy import FaultPolicy  # noqa: PLC0415

            FaultPolicy.parse(value)
        return value

    @field_validator("impair")
    @classmethod
    def _is_impairment(cls, value: str) -> str:
        if value:
            from unimem_node.fabric.impair import parse  # noqa: PLC0415 - the fabric takes a while to load

            parse(value)
        return value

    @field_validator("name", "cluster")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise ValueError(
                "letters, digits, '-', '_' and '.', at most 63; the first and the last a letter or digit"
            )
        return value

    def node_name(self) -> str:
        """The name to register under; empty: the coordinator gives one."""
        if not self.name and self.advertise.startswith("auto"):
            return socket.gethostname()
        return self.name

    def advertised(self, port: int) -> str:
        """The address to register, when listening on `port`."""
        host, _ = split_address(self.listen)
        if not self.advertise:
            return f"{own_address() if host in ('0.0.0.0', '[::]') else host}:{port}"
        host, _, given = self.advertise.rpartition(":")
        if self.advertise == "auto" or host == "auto":
            return f"{own_address()}:{given if given.isdecimal() and int(given) else port}"
        return self.advertise


def own_address() -> str:
    """This host's address as others on its network see it; its name when it has none."""
    name = socket.gethostname()
    try:
        return socket.gethostbyname(name)
    except OSError:
        return name


class SettingsError(ValueError):
    """Settings that cannot be: the text has one line a field."""


def load_settings(
    given: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> NodeSettings:
    """Settings from `given` (flags; None values count as not given) over the environment over defaults.

    Raises `SettingsError`.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for field in NodeSettings.model_fields:
        for variable in (f"UNIMEM_{field.upper()}", f"UNIMEM_NODE_{field.upper()}"):
            if environ.get(variable):
                values[field] = environ[variable]
    values.update({key: value for key, value in (given or {}).items() if value is not None})
    try:
        return NodeSettings(**values)
    except ValidationError as error:
        lines = [f"--{'.'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def parse_flags(arguments: Sequence[str]) -> NodeSettings:
    """Settings from a command line. Exits as argparse does on a flag that is none; raises `SettingsError`."""
    parser = argparse.ArgumentParser(
        "python -m unimem_node.service", description="One simulated MPSoC, as a process."
    )
    for field, info in NodeSettings.model_fields.items():
        flag = f"--{field.replace('_', '-')}"
        if info.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=info.description)
        else:
            parser.add_argument(
                flag, metavar="X", help=f"{info.description} ({info.default!r})".replace("%", "%%")
            )
    return load_settings(vars(parser.parse_args(arguments)))
