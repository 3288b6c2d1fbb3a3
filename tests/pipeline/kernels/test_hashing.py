"""Places of strings: a function of the bytes and the salt, spread evenly; the mixer is one-to-one."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.schema import digest
from pipeline.kernels.hashing import mixed, places


def _plain(text: str, salt: str) -> int:
    place = int(digest(salt)[:16], 16)
    for byte in text.encode():
        place = (place ^ byte) * 0x100000001B3 % 2**64
    return _mixed(place)


def _mixed(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.text("ab0 ", max_size=4))
def test_places_are_those_of_the_plain_version(texts: list[str], salt: str) -> None:
    wanted = [_plain(t, salt) for t in texts]
    assert places(pa.array(texts, pa.string()), salt).tolist() == wanted
    cut = pa.chunked_array([pa.array(["x", *texts], pa.large_string()).slice(1)])
    assert places(cut, salt).tolist() == wanted


def test_a_null_is_an_empty_string() -> None:
    found = places(pa.array(["", None, "a"]), "s").tolist()
    assert found[0] == found[1] != found[2]


def test_the_mixer_is_splitmix() -> None:
    """First outputs of SplitMix64 from seed 0 (Steele 2014; the reference implementation's)."""
    golden = 0x9E3779B97F4A7C15
    assert [_mixed(golden * i % 2**64) for i in (1, 2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert int(mixed(np.uint64(golden))) == 0xE220A8397B1DCDAF


def test_places_are_spread_evenly() -> None:
    found = places(pa.array([f"{i:032x}" for i in range(40_000)]), "s")
    for bit in range(64):
        ones = int(((found >> bit) & 1).sum())
        assert abs(ones - 20_000) < 500  # five standard deviations
