"""A signer process and the nodes that want it: who is admitted, what is refused, and what a kill leaves."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from consensus.effects import OwnVote
from consensus.messages import sign_bytes
from node.signer.address import parse_address
from node.signer.client import RemoteSigner, SignerAccess, reach
from node.signer.protocol import CALL_BYTES_MAX
from node.signer.tls import context_of, create_certificate, fingerprint_of
from primitives.errors import OperatorError
from primitives.signing import SigningKey, is_valid
from tests.signer.signer_process import SignerProcess, make_home, observed

CHAIN_ID = b"\xc1" * 32
KEY = SigningKey(b"\1" * 32)
A, B = b"\xaa" * 32, b"\xbb" * 32


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerProcess]:
    home = make_home(tmp_path_factory.mktemp("signer") / "s", CHAIN_ID, b"\1" * 32)
    process = SignerProcess(home, f"unix:{home}/s.sock")
    process.start()
    yield process
    process.kill()


def reached(access: SignerAccess, seconds: float = 5.0) -> RemoteSigner:
    return observed(trio.run(reach, access, seconds))


def a_message(view: int, subject: bytes, kind: int = 1, epoch: int = 0) -> bytes:
    return sign_bytes(CHAIN_ID, kind, epoch, view, subject)


def test_a_vote_is_signed_and_its_contradiction_refused(signer: SignerProcess) -> None:
    remote = reached(signer.access(CHAIN_ID))
    key = remote.signers[KEY.public_key]
    signature = key.sign(a_message(5, A))
    assert signature is not None and is_valid(KEY.public_key, a_message(5, A), signature)
    assert key.sign(a_message(5, B)) is None
    assert not remote.is_away
    assert key.sign(a_message(5, A)) == signature
    remote.close()


def test_the_socket_is_its_owners_alone(signer: SignerProcess) -> None:
    assert (signer.home / "s.sock").stat().st_mode & 0o777 == 0o600


def test_one_node_at_a_time_and_the_next_once_it_is_gone(signer: SignerProcess) -> None:
    first = reached(signer.access(CHAIN_ID, "the first"))
    with pytest.raises(OperatorError, match="the node the first has this signer"):
        reached(signer.access(CHAIN_ID), seconds=0.6)
    first.close()
    reached(signer.access(CHAIN_ID)).close()


def test_a_node_of_another_chain_is_refused_at_once(signer: SignerProcess) -> None:
    with pytest.raises(OperatorError, match=f"this signer signs for {CHAIN_ID.hex()}"):
        reached(signer.access(b"\xc2" * 32))


def test_a_second_process_with_the_same_home_is_refused(signer: SignerProcess) -> None:
    second = SignerProcess(signer.home, f"unix:{signer.home}/t.sock")
    with pytest.raises(AssertionError, match="is running with the home directory"):
        second.start()


@pytest.mark.parametrize(
    "raw",
    [b"\0\0\0\x01\xff", (CALL_BYTES_MAX + 1).to_bytes(4, "big"), b"\xff" * 64, b"\0\0\0\x02\x91\x03", b""],
    ids=["malformed", "too large", "noise", "out of order", "nothing"],
)
def test_whoever_speaks_otherwise_is_shown_out_and_harms_nobody(signer: SignerProcess, raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(5)
        stranger.connect(str(signer.home / "s.sock"))
        stranger.sendall(raw)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4_096):
            pass
    reached(signer.access(CHAIN_ID)).close()


def test_a_killed_signer_knows_what_it_signed(tmp_path: Path) -> None:
    home = make_home(tmp_path / "s", CHAIN_ID, b"\1" * 32)
    signer = SignerProcess(home, f"unix:{home}/s.sock")
    signer.start()
    try:
        remote = reached(signer.access(CHAIN_ID))
        key = remote.signers[KEY.public_key]
        signature = key.sign(a_message(7, A))
        signer.kill()
        assert key.sign(a_message(8, A)) is None
        assert remote.is_away
        signer.start()
        again = reached(signer.access(CHAIN_ID))
        assert again.welcome.votes == (OwnVote(1, 0, 7, A),)
        key = again.signers[KEY.public_key]
        assert key.sign(a_message(7, B)) is None
        assert key.sign(a_message(7, A)) == signature
        again.close()
    finally:
        signer.kill()


@pytest.fixture(scope="module")
def on_tcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SignerProcess, Path]]:
    """A signer on TCP, and the directory with all certificates."""
    home = make_home(tmp_path_factory.mktemp("signer") / "s", CHAIN_ID, b"\1" * 32)
    for name in ("signer", "signer-node", "stranger"):
        create_certificate(home / f"{name}.pem", home / f"{name}.key", name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = SignerProcess(home, f"tcp:127.0.0.1:{port}")
    process.start()
    yield process, home
    process.kill()


def over_tls(signer: SignerProcess, home: Path, own: str, trusted: str = "signer") -> SignerAccess:
    tls = context_of(home / f"{own}.pem", home / f"{own}.key", home / f"{trusted}.pem", is_server=False)
    return SignerAccess(parse_address(signer.listen), CHAIN_ID, own, tls, home / f"{trusted}.pem")


def test_over_tcp_both_sides_know_each_other_by_certificate(on_tcp: tuple[SignerProcess, Path]) -> None:
    signer, home = on_tcp
    remote = reached(over_tls(signer, home, "signer-node"))
    assert remote.signers[KEY.public_key].sign(a_message(5, A)) == KEY.sign(a_message(5, A))
    remote.close()
    assert len(fingerprint_of(home / "signer.pem")) == 64
    assert (home / "signer.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("own", "trusted"), [("stranger", "signer"), ("signer-node", "stranger")])
def test_a_stranger_on_either_side_gets_nothing(
    on_tcp: tuple[SignerProcess, Path], own: str, trusted: str
) -> None:
    signer, home = on_tcp
    with pytest.raises(OperatorError, match="is not to be had"):
        reached(over_tls(signer, home, own, trusted), seconds=0.6)
    reached(over_tls(signer, home, "signer-node")).close()


def test_tcp_without_a_certificate_or_with_an_older_tls_is_refused(
    on_tcp: tuple[SignerProcess, Path],
) -> None:
    signer, home = on_tcp
    _, host, port = parse_address(signer.listen)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    old = context_of(home / "signer-node.pem", home / "signer-node.key", home / "signer.pem", is_server=False)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    for context in (bare, old):
        with pytest.raises(OSError), socket.create_connection((host, port), 5) as plain:
            stream = context.wrap_socket(plain)
            stream.sendall(b"\0")
            if not stream.recv(1):
                raise ConnectionResetError


def test_a_certificate_signed_by_the_trusted_one_is_not_the_trusted_one(tmp_path: Path) -> None:
    from node.signer.tls import check_peer

    for name in ("a", "b"):
        create_certificate(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", name)
    with pytest.raises(ssl.SSLError, match="another one than the trusted"):
        check_peer(ssl.PEM_cert_to_DER_cert((tmp_path / "b.pem").read_text()), tmp_path / "a.pem")


@pytest.mark.parametrize("text", ["", "unix:", "tcp:1234", "tcp:host:port", "http://x", "tcp:h:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(OperatorError, match="neither unix:/path nor tcp:host:port"):
        parse_address(text)
