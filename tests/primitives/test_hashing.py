"""Digests keep purposes apart; the Merkle root commits to every leaf, their order and their number."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.hashing import DIGEST_BYTES, EMPTY_ROOT, digest, leaf_digest, merkle_root, node_digest

A, B, C, D, E = b"a", b"b", b"c", b"d", b"e"


def test_the_digest_is_personalised_blake2b_256() -> None:
    assert (
        digest(b"quorate-block", b"data")
        == blake2b(b"data", digest_size=32, person=b"quorate-block").digest()
    )
    assert len(digest(b"", b"")) == DIGEST_BYTES


def test_a_digest_does_not_remember_the_one_before() -> None:
    first = digest(b"quorate-test", b"one")
    digest(b"quorate-test", b"two")
    assert digest(b"quorate-test", b"one") == first


def test_equal_bytes_for_two_purposes_have_two_digests() -> None:
    assert len({digest(domain, b"x") for domain in (b"quorate-vote", b"quorate-block", b"quorate-leaf")}) == 3


def test_a_domain_has_at_most_sixteen_bytes() -> None:
    digest(b"x" * 16, b"")
    with pytest.raises(ValueError, match="maximum"):
        digest(b"x" * 17, b"")


def test_a_leaf_is_never_mistaken_for_a_node() -> None:
    left, right = leaf_digest(A), leaf_digest(B)
    assert leaf_digest(left + right) != node_digest(left, right)


def test_no_leaves_have_the_empty_root() -> None:
    assert merkle_root([]) == EMPTY_ROOT == bytes(32)


def test_small_trees_spelled_out() -> None:
    a, b, c, d, e = (leaf_digest(leaf) for leaf in (A, B, C, D, E))
    ab, cd = node_digest(a, b), node_digest(c, d)
    assert merkle_root([A]) == a
    assert merkle_root([A, B]) == ab
    assert merkle_root([A, B, C]) == node_digest(ab, c)
    assert merkle_root([A, B, C, D]) == node_digest(ab, cd)
    assert merkle_root([A, B, C, D, E]) == node_digest(node_digest(ab, cd), e)


def test_an_empty_leaf_is_not_no_leaf() -> None:
    assert merkle_root([b""]) != EMPTY_ROOT


def test_a_repeated_last_leaf_changes_the_root() -> None:
    """The flaw of trees that double an odd leaf (CVE-2012-2459)."""
    assert merkle_root([A, B, C]) != merkle_root([A, B, C, C])


leaf_lists = st.lists(st.binary(max_size=3), max_size=9)


@given(leaf_lists, leaf_lists)
def test_two_lists_share_a_root_only_when_they_are_equal(some: list[bytes], others: list[bytes]) -> None:
    assert (merkle_root(some) == merkle_root(others)) == (some == others)


@given(leaf_lists)
def test_the_root_does_not_change_the_list(leaves: list[bytes]) -> None:
    before = list(leaves)
    merkle_root(leaves)
    assert leaves == before
