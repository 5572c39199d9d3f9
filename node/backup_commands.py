"""The `quorate backup` and `quorate restore` commands. Print; read a home, write a file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from node.backup import backup as write_backup
from node.backup import restore as restore_backup


def backup(
    *,
    home: Annotated[Path, Parameter(help="A node's home directory; its node may be running.")],
    out: Annotated[Path, Parameter(help="The file to write; it may not exist.")],
    without_keys: Annotated[bool, Parameter(negative="", help="Leave the keystore out.")] = False,
) -> None:
    """Write a node's home to one file: settings, keys, chain and state, but never what a vote depends on.

    Journal and watermark are left out on purpose: a node that is restored observes until it is safe to vote.

    Example: quorate backup --home network/node0 --out node0.backup
    """
    made = write_backup(home, out, with_keys=not without_keys)
    print(f"{out}: {made.node} at height {made.height}, {made.size_bytes} bytes")
    if not without_keys:
        print("It holds the node's secret keys as the keystore has them: keep it as safe as the keystore.")


def restore(
    file: Path, *, home: Annotated[Path, Parameter(help="The new home; it must not exist, or be empty.")]
) -> None:
    """Make a home from a backup.

    Its node signs nothing at first: it observes, and votes again two epochs after it has caught up, unless it
    sees its own key in use elsewhere.

    Example: quorate restore node0.backup --home network/node0
    """
    made = restore_backup(file, home)
    print(f"{home}: {made.node} at height {made.height}")
    print(
        "Make sure that no other process runs with these keys. The node will observe, and vote again by itself two "
        "epochs after it has caught up (docs/operators.md, Backups)."
    )
