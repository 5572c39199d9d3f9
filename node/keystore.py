"""Secret keys of validators and accounts, encrypted under a password. Reads and writes one file.

scrypt derives the key from the NFKD form of the password, ChaCha20-Poly1305 encrypts, and the file's
readable part (version, parameters, public keys) is authenticated with it. The file must be its owner's alone
(0600).
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from gossip.peer_id import peer_id_of
from primitives.errors import OperatorError
from primitives.signing import SEED_BYTES, SigningKey
from primitives.wallet import WalletKey

PASSWORD_VARIABLE = "QUORATE_PASSWORD"
FILE_BYTES_MAX = 65_536
"""A longer keystore is refused."""
PASSWORD_CHARACTERS_MIN = 8
SCRYPT_LOG_N = 17
"""128 MiB and a third of a second per guess."""
SCRYPT_R = 8
SCRYPT_P = 1
NONCE_BYTES = 12
TAG_BYTES = 16
VALIDATOR_KEY_NAMES = ("consensus", "oracle", "network")
"""Of a new validator. Rotation adds `consensus-2` and so on; a remote signer holds all consensus keys instead."""
WALLET_KEY_NAME = "wallet"
"""A keystore's key of this name is a secp256k1 one; all others are Ed25519 seeds."""


class ValidatorKeys:
    """The secret seeds of one validator: what it votes, reports and connects with. Never printed."""

    def __init__(
        self, consensus: bytes | None, oracle: bytes, network: bytes, *, rotated: Sequence[bytes] = ()
    ) -> None:
        """Each 32 secret bytes. `consensus` None: a remote signer has it; `rotated`: later ones, oldest first."""
        own = [] if consensus is None else [consensus, *rotated]
        self.consensus_keys = {key.public_key: key for key in map(SigningKey, own)}
        """By public key, oldest first."""
        self.oracle = SigningKey(oracle)
        self.network_seed = network
        self.peer_id = peer_id_of(SigningKey(network).public_key)
        self._seeds = (*own[:1], oracle, network)

    @property
    def consensus(self) -> SigningKey:
        """The first consensus key. Raises OperatorError when a remote signer has it."""
        for key in self.consensus_keys.values():
            return key
        raise OperatorError("the consensus key is not in this keystore: set [signer] address to where it is")

    @classmethod
    def generate(cls) -> ValidatorKeys:
        """New keys from the operating system's randomness."""
        return cls(os.urandom(SEED_BYTES), os.urandom(SEED_BYTES), os.urandom(SEED_BYTES))

    def __repr__(self) -> str:
        consensus = ", ".join(key.hex() for key in self.consensus_keys)
        return f"ValidatorKeys(consensus={consensus}, peer_id={self.peer_id})"

    def __reduce__(self) -> str:
        raise TypeError("secret keys are not serialisable")

    def seeds(self) -> tuple[bytes, ...]:
        """The secret seeds of a new validator, in the order of VALIDATOR_KEY_NAMES."""
        return self._seeds


class _Encryption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits keep a forged file from asking for unbounded memory or a trivial derivation."""

    log_n: Annotated[int, msgspec.Meta(ge=14, le=20)]
    r: Annotated[int, msgspec.Meta(ge=8, le=8)]
    p: Annotated[int, msgspec.Meta(ge=1, le=4)]
    salt: str
    nonce: str


class _KeystoreFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    public: dict[str, str]
    """Name of each key -> its public key; `secret` holds the seeds in this order."""
    insecure: bool
    """True: `secret` is the seeds themselves, readable by whoever reads the file. For testnets."""
    encryption: _Encryption | None
    """scrypt parameters and the ChaCha20-Poly1305 nonce; None exactly when insecure."""
    secret: str
    """Hexadecimal: the seeds one after another, encrypted or not."""


def save_keystore(
    keys: ValidatorKeys, path: Path, password: str | None, *, log_n: int = SCRYPT_LOG_N
) -> None:
    """Create a validator's file; see save_seeds."""
    save_seeds(dict(zip(VALIDATOR_KEY_NAMES, keys.seeds(), strict=True)), path, password, log_n=log_n)


def load_keystore(path: Path, password: str | None, *, allow_insecure: bool = False) -> ValidatorKeys:
    """Read a validator's keys; see load_seeds."""
    seeds = load_seeds(path, password, allow_insecure=allow_insecure)
    if not are_validator_names(seeds):
        raise OperatorError(f"the keystore {path} holds {', '.join(seeds)}: not the keys of a validator")
    consensus = [seed for name, seed in seeds.items() if is_consensus_name(name)]
    first = consensus[0] if consensus else None
    return ValidatorKeys(first, seeds["oracle"], seeds["network"], rotated=consensus[1:])


def is_consensus_name(name: str) -> bool:
    """Whether a keystore's key of this name votes."""
    first, _, number = name.partition("-")
    return first == "consensus" and (not number or number.isdecimal())


def are_validator_names(names: Iterable[str]) -> bool:
    """Whether these are the keys of a validator: oracle and network, and the consensus keys unless elsewhere."""
    return [name for name in names if not is_consensus_name(name)] == ["oracle", "network"]


def save_seeds(
    seeds: Mapping[str, bytes], path: Path, password: str | None, *, log_n: int = SCRYPT_LOG_N
) -> None:
    """Create the file; never overwrites one. `password` None writes the insecure form.

    Raises:
        OperatorError: it exists, cannot be written, or the password is too short.
    """
    raw = _encoded(seeds, password, log_n)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise OperatorError(f"the keystore {path} exists already and is never overwritten") from None
    except OSError as error:
        raise OperatorError(f"cannot write the keystore {path}: {error.strerror}") from None


def replace_seeds(
    seeds: Mapping[str, bytes], path: Path, password: str | None, *, log_n: int = SCRYPT_LOG_N
) -> None:
    """Put these keys in the place of a keystore: a crash leaves the old file or the new one.

    Raises:
        OperatorError: as save_seeds.
    """
    following = path.with_name(f".{path.name}.new")
    following.unlink(missing_ok=True)
    save_seeds(seeds, following, password, log_n=log_n)
    try:
        os.replace(following, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise OperatorError(f"cannot write the keystore {path}: {error.strerror}") from None


def _encoded(seeds: Mapping[str, bytes], password: str | None, log_n: int) -> bytes:
    public = _public_of(seeds)
    secret = b"".join(seeds.values())
    if password is None:
        document = _KeystoreFile(1, public, True, None, secret.hex())
    else:
        check_password(password)
        encryption = _Encryption(
            log_n, SCRYPT_R, SCRYPT_P, os.urandom(16).hex(), os.urandom(NONCE_BYTES).hex()
        )
        document = _KeystoreFile(1, public, False, encryption, _seal(secret, password, public, encryption))
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def load_seeds(path: Path, password: str | None, *, allow_insecure: bool = False) -> dict[str, bytes]:
    """Name -> 32 secret bytes, in the file's order. `password` is not needed for an insecure file.

    Raises:
        OperatorError: unreadable, readable by others, corrupt, insecure without leave, or a wrong password.
    """
    document = _read(path)
    if document.insecure:
        if not allow_insecure:
            raise OperatorError(
                f"the keystore {path} is not encrypted: start with --insecure-keys if this is a testnet"
            )
        secret = _unhex(document.secret, path)
    else:
        if password is None:
            raise OperatorError(f"the keystore {path} is encrypted: a password is needed")
        secret = _unseal(document, password, path)
    if len(secret) != SEED_BYTES * len(document.public):
        raise _corrupt(path)
    cuts = range(0, len(secret), SEED_BYTES)
    seeds = {name: secret[cut : cut + SEED_BYTES] for name, cut in zip(document.public, cuts, strict=True)}
    if _public_of(seeds) != document.public:
        raise _corrupt(path)
    return seeds


def open_seeds(
    path: Path, password_file: Path | None, *, allow_insecure: bool = True
) -> tuple[dict[str, bytes], str | None]:
    """As load_seeds, and the password (None for an insecure file): from the file, QUORATE_PASSWORD or the terminal."""
    password = None
    if not is_insecure(path):
        password = read_password(password_file, os.environ, f"Password for {path}: ")
    return load_seeds(path, password, allow_insecure=allow_insecure), password


def is_insecure(path: Path) -> bool:
    """Whether the file holds its secrets without encryption. Raises like load_keystore."""
    return _read(path).insecure


def read_public_keys(path: Path) -> dict[str, bytes]:
    """Name -> 32 public bytes, in the file's order; needs no password. Raises like load_keystore."""
    return {name: _unhex(key, path) for name, key in _read(path).public.items()}


def check_password(password: str) -> None:
    """Raises OperatorError for a password that is too short."""
    if len(password) < PASSWORD_CHARACTERS_MIN:
        raise OperatorError(f"the password must have at least {PASSWORD_CHARACTERS_MIN} characters")


def read_password(
    file: Path | None, environment: Mapping[str, str], prompt: str, variable: str = PASSWORD_VARIABLE
) -> str:
    """The password from a file's first line, else the variable, else asked on the terminal.

    Raises:
        OperatorError: none of the three can give one.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise OperatorError(f"cannot read the password file {file}") from None
        if not lines or not lines[0]:
            raise OperatorError(f"the password file {file} is empty")
        return lines[0]
    if variable in environment:
        return environment[variable]
    if sys.stdin is None or not sys.stdin.isatty():
        raise OperatorError(f"no password: give --password-file or set {variable}")
    return getpass.getpass(prompt)


def _read(path: Path) -> _KeystoreFile:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise OperatorError(f"there is no keystore at {path}: `quorate init` writes one") from None
    except OSError as error:
        raise OperatorError(f"cannot read the keystore {path}: {error.strerror}") from None
    if mode & 0o077:
        raise OperatorError(f"the keystore {path} is open to other users (mode {mode:04o}): chmod 600 it")
    try:
        document = msgspec.json.decode(raw[: FILE_BYTES_MAX + 1], type=_KeystoreFile)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _corrupt(path) from None
    if len(raw) > FILE_BYTES_MAX or document.insecure != (document.encryption is None):
        raise _corrupt(path)
    return document


def _public_of(seeds: Mapping[str, bytes]) -> dict[str, str]:
    return {name: _public_name(name, seed) for name, seed in seeds.items()}


def _public_name(name: str, seed: bytes) -> str:
    """Of a key called `wallet` its secp256k1 address; of any other its Ed25519 public key."""
    if name == WALLET_KEY_NAME:
        return WalletKey(seed).address.hex()
    return SigningKey(seed).public_key.hex()


def _derive(password: str, encryption: _Encryption, path: Path | None = None) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    salt = bytes.fromhex(encryption.salt) if path is None else _unhex(encryption.salt, path)
    kdf = Scrypt(salt=salt, length=32, n=2**encryption.log_n, r=encryption.r, p=encryption.p)
    return kdf.derive(unicodedata.normalize("NFKD", password).encode())


def _seal(secret: bytes, password: str, public: dict[str, str], encryption: _Encryption) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    cipher = ChaCha20Poly1305(_derive(password, encryption))
    return cipher.encrypt(bytes.fromhex(encryption.nonce), secret, _authenticated(public, encryption)).hex()


def _unseal(document: _KeystoreFile, password: str, path: Path) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    encryption = document.encryption
    if encryption is None:
        raise _corrupt(path)
    nonce, sealed = _unhex(encryption.nonce, path), _unhex(document.secret, path)
    if len(nonce) != NONCE_BYTES or len(sealed) != SEED_BYTES * len(document.public) + TAG_BYTES:
        raise _corrupt(path)
    cipher = ChaCha20Poly1305(_derive(password, encryption, path))
    try:
        return cipher.decrypt(nonce, sealed, _authenticated(document.public, encryption))
    except InvalidTag:
        raise OperatorError(f"wrong password for the keystore {path}, or the file was altered") from None


def _authenticated(public: dict[str, str], encryption: _Encryption) -> bytes:
    return msgspec.json.encode((1, public, encryption))


def _unhex(text: str, path: Path) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _corrupt(path) from None


def _corrupt(path: Path) -> OperatorError:
    return OperatorError(f"the keystore {path} is corrupt: restore it from a copy")
