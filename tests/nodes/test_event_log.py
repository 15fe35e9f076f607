from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unimem_node.clock import EventLog


def fill(log: EventLog, *, swapped: bool = False) -> None:
    fields = {"stream": 0x200, "iova": 0x10_0000_0000}
    if swapped:
        fields = dict(reversed(fields.items()))
    log.record(5, "n1", "smmu.fault", **fields)
    log.record(3, "n0", "irq", spi=np.int64(155), level=np.bool_(True), data=b"\x01\xff", at=np.arange(2))


def test_rows_stand_in_the_order_of_recording() -> None:
    log = EventLog()
    fill(log)
    assert len(log) == 2
    assert [(row.time_ps, row.node, row.kind) for row in log.rows] == [
        (5, "n1", "smmu.fault"),
        (3, "n0", "irq"),
    ]
    assert log.rows[0].fields["stream"] == 0x200


def test_dumps_are_json_lines_with_sorted_keys(tmp_path: Path) -> None:
    log = EventLog()
    fill(log)
    log.dump(tmp_path / "events.jsonl")
    lines = (tmp_path / "events.jsonl").read_bytes().decode().splitlines()
    assert lines[0] == '{"iova":68719476736,"kind":"smmu.fault","node":"n1","stream":512,"time_ps":5}'
    assert json.loads(lines[1]) == {
        "at": [0, 1], "data": "01ff", "kind": "irq", "level": True, "node": "n0", "spi": 155, "time_ps": 3,
    }  # fmt: skip


def test_the_same_events_give_the_same_bytes_whatever_the_order_of_keywords(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, swapped in zip(paths, (False, True), strict=True):
        log = EventLog()
        fill(log, swapped=swapped)
        log.dump(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_field_that_cannot_be_written_is_named_by_its_type() -> None:
    log = EventLog()
    log.record(0, "n0", "odd", thing=object())
    with pytest.raises(TypeError, match="cannot be a object"):
        list(log.lines())


def test_fields_cannot_hide_what_every_event_has() -> None:
    with pytest.raises(TypeError):
        EventLog().record(0, "n0", "x", **{"node": "n1"})
