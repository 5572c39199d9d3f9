"""A machine guards the small things: imports, purity, integers, docstrings, size, locks, paths.

Each rule is a function from a source to the sentences it has to say about it. `PLANTED` shows every rule a
breach it must notice and a neighbour it must let pass, so that no rule can go quiet unnoticed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "primitives": set[str](),
    "consensus": {"primitives"},
    "ledger": {"primitives"},
    "gossip": {"primitives"},
    "node": {"primitives", "consensus", "ledger", "gossip"},
    "testnet": {"primitives", "consensus", "ledger", "gossip", "node"},
}
PURE = {"primitives", "consensus", "ledger"}
PURE_MAY_IMPORT = {
    *(
        "__future__",
        "abc",
        "array",
        "bisect",
        "collections",
        "collections.abc",
        "dataclasses",
        "enum",
        "functools",
    ),
    *("hashlib", "heapq", "itertools", "math", "operator", "re", "struct", "types", "typing"),
    *(
        "Crypto.Hash",
        "coincurve",
        "msgspec",
        "msgspec.structs",
        "nacl.bindings",
        "nacl.exceptions",
        "numpy",
        "numpy.typing",
        "sortedcontainers",
    ),
}
"""What is not here (trio, time, random, os, socket, threads, paths) does I/O or depends on chance."""
IMPURE_NAMES = {"open", "print", "input", "exec", "eval", "hash", "id", "randombytes"}
"""`hash` and `id` differ from process to process."""
BY_NAME = {("node/__main__.py", "testnet")}
"""The one import by name: a console script with every command, and no arrow that points up."""
KNOWS_LIBP2P = {f"gossip/{name}.py" for name in ("host", "pubsub", "request_response", "service", "muxer")}
HAS_FLOATS = "ledger/pricing/kernel*.py"
"""The kernel: kernel.py, and beside it what margin, its sums and implied volatility ask of binary64."""
INTEGER_MATH = {"comb", "factorial", "gcd", "isqrt", "lcm", "perm", "prod"}
FLOAT_NUMPY = re.compile(
    r"(float|double|half|single|longdouble|floating|complex)\w*|true_divide|divide|sqrt|cbrt|exp\d?|expm1"
    r"|log(2|10|1p)?|mean|average|median|std|var|percentile|quantile|linspace|random|linalg|interp"
)
"""numpy attributes that give floats. Array makers such as `zeros` do too, unless told a dtype."""
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 600
# Spelled in pieces, so that this file obeys its own rules.
MACHINE_PATH = re.compile(
    r"(?<![\w.~/*-])/(?:" + "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me", "tm" + "p", "Users")) + r")/\w"
)
REGISTRY_HOST = re.compile(
    "|".join(("py" + r"pi\.org", "python" + r"hosted\.org", "npm" + r"js\.", r"debian\." + "org"))
)
LOCK_LINE = re.compile(r"[a-z0-9][a-z0-9.-]*==[\w.!+]+ \\|    --hash=sha256:[0-9a-f]{64}(?: \\)?")


class Source(NamedTuple):
    """One Python file: its path from the root, with slashes, and its text."""

    path: str
    text: str

    @property
    def package(self) -> str:
        return self.path.split("/")[0]

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)


def committed_files() -> Iterator[Path]:
    """Every file that is not ignored; works in an unpacked archive as well as in a clone."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()] + [
        ".git",
        ".hypothesis",
    ]
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not any(fnmatch(part, pattern) for part in parts for pattern in ignored):
            yield path


def python_sources() -> list[Source]:
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text())
        for path in committed_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in {*MAY_IMPORT, "tests"}
    ]


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def imported_by_name(call: ast.Call) -> str | None:
    """What `import_module(...)` or `__import__(...)` names; "?" when computed; None for other calls."""
    if dotted(call.func) not in {"importlib.import_module", "import_module", "__import__"}:
        return None
    if call.args and isinstance(call.args[0], ast.Constant):
        return str(call.args[0].value)
    return "?"


def imports_of(source: Source) -> Iterator[tuple[int, str, bool]]:
    """Line, module, and whether it is imported by name in a string."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or ""), False
        elif isinstance(node, ast.Call) and (module := imported_by_name(node)) is not None:
            yield node.lineno, module, True


def imports_point_down(source: Source) -> Iterator[str]:
    if source.package not in MAY_IMPORT:
        return
    for line, module, by_name in imports_of(source):
        target = module.split(".")[0]
        if module.startswith((".", "?")):
            yield f"{source.path}:{line} imports relatively or by a computed name"
        elif by_name and (source.path, target) in BY_NAME:
            continue
        elif target in {*MAY_IMPORT, "tests"} - MAY_IMPORT[source.package] - {source.package}:
            yield f"{source.path}:{line} {source.package} must not import {module}"


def only_the_edge_knows_libp2p(source: Source) -> Iterator[str]:
    if source.package not in MAY_IMPORT or source.path in KNOWS_LIBP2P:
        return
    for line, module, _ in imports_of(source):
        if module.split(".")[0] == "libp2p":
            yield f"{source.path}:{line} only {', '.join(sorted(KNOWS_LIBP2P))} know libp2p"


def pure_stays_pure(source: Source) -> Iterator[str]:
    if source.package not in PURE:
        return
    for line, module, _ in imports_of(source):
        if module not in PURE_MAY_IMPORT and module.split(".")[0] not in MAY_IMPORT:
            yield f"{source.path}:{line} a pure package must not import {module}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            yield from (
                f"{source.path}:{node.lineno} impure {a.name}"
                for a in node.names
                if a.name in IMPURE_NAMES | {"random"}
            )
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_NAMES:
            yield f"{source.path}:{node.lineno} impure {node.func.id}()"
        elif isinstance(node, ast.Attribute) and node.attr in {"random", "randombytes"}:
            yield f"{source.path}:{node.lineno} impure .{node.attr}"


def numpy_float_in(node: ast.AST) -> str | None:
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="zeros" | "ones" | "empty" as attr)
        ):
            typed = len(node.args) > 1 or any(word.arg == "dtype" for word in node.keywords)
            return None if typed else f"np.{attr} without a dtype"
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=attr) if FLOAT_NUMPY.fullmatch(attr):
            return f"np.{attr}"
        case ast.Constant(value=str(text)) if re.fullmatch(r"[<>=]?(float\d+|f[248]|double)", text):
            return f"the dtype {text}"
    return None


def float_in(node: ast.AST) -> str | None:
    """What makes a float here, or None."""
    match node:
        case ast.Constant(value=float() | complex()):
            return "a float literal"
        case ast.Name(id="float" | "complex"):
            return node.id
        case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
            return "true division"
        case ast.BinOp(op=ast.Pow(), right=ast.UnaryOp(op=ast.USub())):
            return "a negative power"
        case ast.Attribute(value=ast.Name(id="math"), attr=attr) if attr not in INTEGER_MATH:
            return f"math.{attr}"
        case ast.ImportFrom(module="math", names=names):
            return next((f"math.{alias.name}" for alias in names if alias.name not in INTEGER_MATH), None)
        case ast.Attribute(value=ast.Name(id="operator"), attr="truediv"):
            return "operator.truediv"
    return numpy_float_in(node)


def state_is_integers(source: Source) -> Iterator[str]:
    if source.package not in PURE or fnmatch(source.path, HAS_FLOATS):
        return
    for node in ast.walk(source.tree):
        if what := float_in(node):
            yield f"{source.path}:{getattr(node, 'lineno', 0)} {what}; floats live in {HAS_FLOATS} alone"


def modules_say_what_they_are(source: Source) -> Iterator[str]:
    docstring = ast.get_docstring(source.tree)
    if not docstring or not docstring.split("\n\n")[0].rstrip().endswith("."):
        yield f"{source.path} begins with no sentence that says what it is"
    elif source.package in PURE and not re.search(r"\bPure[.:]", docstring):
        yield f'{source.path} does not say "Pure."'


def functions_fit_a_screen(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{source.path}:{node.lineno} {node.name} has {lines} lines of {FUNCTION_LINES_MAX}"


def files_stay_short(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{source.path} has {lines} lines of {FILE_LINES_MAX}"


def nothing_names_our_machines(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if MACHINE_PATH.search(line):
            yield f"{source.path}:{number} names a path of one machine"
        if REGISTRY_HOST.search(line):
            yield f"{source.path}:{number} names a package host"


def locks_hold_names_versions_and_hashes(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if not LOCK_LINE.fullmatch(line):
            yield f"{source.path}:{number} is neither a pinned package nor its hash"


Rule = Callable[[Source], Iterator[str]]
PYTHON_RULES: list[Rule] = [
    imports_point_down,
    only_the_edge_knows_libp2p,
    pure_stays_pure,
    state_is_integers,
    modules_say_what_they_are,
    functions_fit_a_screen,
    files_stay_short,
]

# Rule, path, source it must object to, source beside it that it must let pass.
PLANTED: list[tuple[Rule, str, str, str]] = [
    (imports_point_down, "primitives/a.py", "import ledger.state", "import primitives.codec"),
    (
        imports_point_down,
        "ledger/a.py",
        "from consensus.core import step",
        "from primitives.codec import Wire",
    ),
    (imports_point_down, "gossip/a.py", "def f():\n    import ledger", "import trio"),
    (imports_point_down, "consensus/a.py", "from . import messages", "from consensus import messages"),
    (imports_point_down, "node/a.py", "from testnet import run", "from ledger import apply"),
    (imports_point_down, "node/a.py", "import_module('testnet.commands')", "import_module('ledger.apply')"),
    (imports_point_down, "node/__main__.py", "import testnet", "importlib.import_module('testnet.commands')"),
    (
        imports_point_down,
        "node/__main__.py",
        "importlib.import_module(name)",
        "importlib.import_module('node.wiring')",
    ),
    (imports_point_down, "testnet/a.py", "from tests.builders import a_vote", "from node import wiring"),
    (only_the_edge_knows_libp2p, "gossip/envelope.py", "import libp2p.host", "import msgspec"),
    (
        only_the_edge_knows_libp2p,
        "node/wiring.py",
        "from libp2p import new_host",
        "from gossip.host import build",
    ),
    (pure_stays_pure, "ledger/a.py", "import time", "import math"),
    (
        pure_stays_pure,
        "consensus/a.py",
        "def f():\n    from random import choice",
        "from heapq import heappush",
    ),
    (pure_stays_pure, "consensus/a.py", "import os.path", "from dataclasses import dataclass"),
    (
        pure_stays_pure,
        "primitives/a.py",
        "from nacl.bindings import randombytes",
        "from nacl.bindings import crypto_sign",
    ),
    (pure_stays_pure, "ledger/a.py", "__import__('socket')", "x = frozenset()"),
    (pure_stays_pure, "ledger/a.py", "print(1)", "log = self.print(1)"),
    (pure_stays_pure, "ledger/a.py", "key = hash(name)", "key = digest(name)"),
    (pure_stays_pure, "ledger/a.py", "noise = np.random.default_rng()", "shape = np.asarray(x).shape"),
    (state_is_integers, "ledger/a.py", "x = 0.5", "x = 5"),
    (state_is_integers, "ledger/a.py", "x = 1e6", "x = 1_000_000"),
    (state_is_integers, "consensus/a.py", "x = a / b", "x = a // b"),
    (state_is_integers, "ledger/a.py", "x /= b", "x //= b"),
    (state_is_integers, "ledger/a.py", "x = 10 ** -6", "x = 10**6"),
    (state_is_integers, "ledger/a.py", "x = float(y)", "x = int(y)"),
    (state_is_integers, "ledger/a.py", "x: list[float] = []", "x: list[int] = []"),
    (state_is_integers, "ledger/pricing/fixed_math.py", "x = math.sqrt(y)", "x = math.isqrt(y)"),
    (state_is_integers, "ledger/a.py", "from math import log", "from math import gcd"),
    (
        state_is_integers,
        "ledger/a.py",
        "x = np.asarray(y, dtype=np.float64)",
        "x = np.asarray(y, dtype=np.int64)",
    ),
    (state_is_integers, "ledger/a.py", "x = np.asarray(y, dtype='f8')", "x = np.asarray(y, dtype='i8')"),
    (state_is_integers, "ledger/a.py", "x = np.zeros(9)", "x = np.zeros(9, dtype=np.int64)"),
    (state_is_integers, "primitives/a.py", "x = np.sqrt(9)", "x = np.sum(y)"),
    (state_is_integers, "ledger/pricing/other.py", "x = 0.5", "x = '0.5'"),
    (modules_say_what_they_are, "node/a.py", "x = 1", '"""Runs the parts. Network and disk."""'),
    (modules_say_what_they_are, "ledger/a.py", '"""Margin."""', '"""Margin. Pure."""'),
    (modules_say_what_they_are, "node/a.py", '"""no sentence"""', '"""A sentence."""'),
    (
        functions_fit_a_screen,
        "node/a.py",
        "def f():\n" + "    x = 1\n" * 60,
        "def f():\n" + "    x = 1\n" * 59,
    ),
    (
        functions_fit_a_screen,
        "node/a.py",
        "async def f():\n" + "    x = 1\n" * 60,
        "async def f():\n    x = 1",
    ),
    (files_stay_short, "tests/a.py", "x = 1\n" * 601, "x = 1\n" * 600),
    (nothing_names_our_machines, "docs/a.md", "see " + "/wo" + "rk/main", "see ../shared/data"),
    (nothing_names_our_machines, "a.toml", 'path = "' + "/tm" + 'p/x"', 'path = "some' + "/tm" + 'p/x"'),
    (nothing_names_our_machines, "a.txt", "https://py" + "pi.org/simple", "the package index"),
    (locks_hold_names_versions_and_hashes, "a.lock", "--index-url x", "trio==0.35.0 \\"),
    (locks_hold_names_versions_and_hashes, "a.lock", "trio @ file:x", "    --hash=sha256:" + "0" * 64),
    (
        locks_hold_names_versions_and_hashes,
        "a.lock",
        "trio>=0.35.0 \\",
        "zipp==4.1.2 \\\n    --hash=sha256:" + "f" * 64 + " \\",
    ),
    (locks_hold_names_versions_and_hashes, "a.lock", "trio==0.35.0", "pytest-xdist==3.8.0 \\"),
]


@pytest.mark.parametrize(("rule", "path", "breach", "neighbour"), PLANTED)
def test_each_rule_notices_its_breach_and_nothing_else(
    rule: Rule, path: str, breach: str, neighbour: str
) -> None:
    assert list(rule(Source(path, breach))) != []
    assert list(rule(Source(path, neighbour))) == []


def test_every_rule_has_a_planted_breach() -> None:
    everything = {*PYTHON_RULES, nothing_names_our_machines, locks_hold_names_versions_and_hashes}
    assert {rule for rule, *_ in PLANTED} == everything


def test_the_kernel_alone_may_have_floats() -> None:
    for name in ("kernel", "kernel_margin", "kernel_implied", "kernel_sums"):
        assert list(state_is_integers(Source(f"ledger/pricing/{name}.py", "x = 0.5 / 2"))) == []


def test_the_files_under_guard_are_really_there() -> None:
    sources = {source.path for source in python_sources()}
    assert {f"{package}/__init__.py" for package in MAY_IMPORT} | {
        "tests/architecture/test_tidy.py"
    } <= sources
    assert {path.name for path in committed_files()} >= {"pyproject.toml", "Makefile", "run", "README.md"}


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps(rule: Rule) -> None:
    assert "\n".join(sentence for source in python_sources() for sentence in rule(source)) == ""


def test_no_committed_file_names_our_machines() -> None:
    texts = [
        Source(path.relative_to(ROOT).as_posix(), path.read_text(errors="replace"))
        for path in committed_files()
    ]
    assert "\n".join(sentence for source in texts for sentence in nothing_names_our_machines(source)) == ""


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_the_lock_pins_by_hash_and_names_no_place(name: str) -> None:
    source = Source(name, (ROOT / name).read_text())
    assert "\n".join(locks_hold_names_versions_and_hashes(source)) == ""
    pinned = re.findall(r"^(\S+)==", source.text, re.MULTILINE)
    assert len(re.findall(r"==\S+ \\\n    --hash", source.text)) == len(pinned) == len(set(pinned)) > 1
