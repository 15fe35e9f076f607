from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimem.addresses import (
    GLOBAL_BASE,
    MAX_NODES,
    WINDOW_BYTES,
    align_down,
    align_up,
    fmt,
    index_of,
    parse_address,
    window_of,
)


@pytest.mark.parametrize(
    ("address", "text"),
    [(0, "0x0"), (0x1234, "0x1234"), (0x1_0000, "0x1_0000"), (0x8_0000_0000, "0x8_0000_0000")],
)
def test_addresses_are_written_in_groups_of_four(address: int, text: str) -> None:
    assert fmt(address) == text
    assert fmt(int(np.uint64(address))) == text


@given(st.integers(0, (1 << 64) - 1))
def test_what_is_written_can_be_read(address: int) -> None:
    assert parse_address(fmt(address)) == address
    assert parse_address(str(address)) == address
    assert parse_address(hex(address).upper().replace("X", "x")) == address


def test_reading_accepts_underscores_and_blanks() -> None:
    assert parse_address(" 0X8_0000_0000 ") == 0x8_0000_0000
    assert parse_address("1_000") == 1000


@pytest.mark.parametrize("text", ["", "0x", "x10", "-1", "+1", "0x1__0", "12ab", "1.5", "0x_", "٣", "0b1"])
def test_what_is_no_address_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="not an address") as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


def test_a_hint_is_given_for_hexadecimal_without_its_sign() -> None:
    with pytest.raises(ValueError, match="hexadecimal starts with 0x"):
        parse_address("12ab")


def test_more_than_64_bits_are_refused() -> None:
    assert parse_address("0xFFFF_FFFF_FFFF_FFFF") == (1 << 64) - 1
    with pytest.raises(ValueError, match="64 bits"):
        parse_address("0x1_0000_0000_0000_0000")


def test_windows_follow_each_other_from_the_global_base() -> None:
    assert window_of(0).start == GLOBAL_BASE
    for index in (0, 1, MAX_NODES - 2):
        assert window_of(index).stop == window_of(index + 1).start
    assert len(window_of(7)) == WINDOW_BYTES
    assert window_of(MAX_NODES - 1).stop == 1 << 48


@pytest.mark.parametrize("index", [-1, MAX_NODES])
def test_an_index_without_a_window_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=f"node index {index} has no window"):
        window_of(index)


@given(st.integers(0, MAX_NODES - 1), st.integers(0, WINDOW_BYTES - 1))
def test_an_address_in_a_window_leads_to_its_node(index: int, offset: int) -> None:
    assert index_of(window_of(index).start + offset) == index


@pytest.mark.parametrize("address", [-1, 0, GLOBAL_BASE - 1, 1 << 48])
def test_private_and_impossible_addresses_have_no_node(address: int) -> None:
    assert index_of(address) is None


@given(st.integers(0, 1 << 50), st.sampled_from([1, 8, 64, 4096, 1 << 30]))
def test_alignment_brackets_the_address(address: int, unit: int) -> None:
    low, high = align_down(address, unit), align_up(address, unit)
    assert low <= address <= high
    assert low % unit == high % unit == 0
    assert high - low in (0, unit)
