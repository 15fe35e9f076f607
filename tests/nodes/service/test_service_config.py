from __future__ import annotations

import pytest

from unimem_node.service.config import NodeSettings, SettingsError, load_settings, parse_flags, parse_size


def test_flags_over_the_nodes_environment_over_the_clusters_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {
        "UNIMEM_COORDINATOR": "c:1",
        "UNIMEM_NODE_COORDINATOR": "c:2",
        "UNIMEM_MQTT": "m:1883",
        "UNIMEM_SEED": "",
    }
    settings = load_settings({"listen": "0.0.0.0:7410", "name": None}, environ)
    assert (settings.coordinator, settings.mqtt, settings.listen) == ("c:2", "m:1883", "0.0.0.0:7410")
    assert (settings.name, settings.seed) == ("", 0)
    monkeypatch.setenv("UNIMEM_NODE_REFLECTION", "true")
    monkeypatch.setenv("UNIMEM_SEED", "4")
    parsed = parse_flags(["--no-reflection", "--memory-bytes", "64MiB", "--name", "n7"])
    assert (parsed.reflection, parsed.seed, parsed.memory_bytes, parsed.name) == (False, 4, 64 << 20, "n7")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("listen", "7400"),
        ("listen", "host:99999"),
        ("coordinator", ""),
        ("mqtt", "broker"),
        ("name", "a/b"),
        ("cluster", "#"),
        ("memory_bytes", "4 apples"),
        ("memory_bytes", 1),
        ("log_level", "loud"),
        ("topology", "moebius"),
        ("counters_interval_s", 0),
        ("policy", "hope"),
        ("policy", "touch_ahead:0"),
        ("transport", "pigeon"),
        ("impair", "rain=1"),
        ("speling", 1),
    ],
)
def test_what_cannot_be_is_refused_by_its_flag(flag: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"--{flag.replace('_', '-')}: "):
        load_settings({flag: value}, {})


def test_sizes() -> None:
    assert [parse_size(text) for text in ("17", "4g", "4GiB", "2 MB", "1k")] == [
        17,
        4 << 30,
        4 << 30,
        2 << 20,
        1024,
    ]


def test_the_advertised_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimem_node.service.config.own_address", lambda: "10.0.0.9")
    monkeypatch.setattr("socket.gethostname", lambda: "c0ffee")
    assert NodeSettings(listen="127.0.0.1:0").advertised(5) == "127.0.0.1:5"
    assert NodeSettings(listen="0.0.0.0:0").advertised(5) == "10.0.0.9:5"
    assert NodeSettings(advertise="auto:7410").advertised(5) == "10.0.0.9:7410"
    assert NodeSettings(advertise="auto").advertised(5) == "10.0.0.9:5"
    assert NodeSettings(advertise="h:1").advertised(5) == "h:1"
    assert NodeSettings(advertise="auto:1").node_name() == "c0ffee"
    assert NodeSettings(advertise="auto:1", name="n1").node_name() == "n1"
    assert NodeSettings().node_name() == ""


def test_the_fault_policy() -> None:
    assert NodeSettings().policy == "abort"
    assert load_settings({}, {"UNIMEM_POLICY": "touch_ahead:64"}).policy == "touch_ahead:64"
