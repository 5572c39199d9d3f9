"""What a running node says of itself, and whether its peers can be reached. Sockets."""

from __future__ import annotations

from node.config import NodeConfig
from node.operations.findings import Finding, Level
from node.operations.machine_checks import connect_ms
from node.rpc.protocol import StatusReply

BEHIND_SECONDS_MAX = 30
"""A final block older than this: blocks stand still, or this node's clock is off."""


def check_peers(config: NodeConfig) -> list[Finding]:
    """A TCP connection to each configured peer; with more than a third unreachable nothing can be final."""
    if not config.peers:
        return []
    times = {peer.index: connect_ms(peer.host, peer.port) for peer in config.peers}
    away = [
        f"{peer.index} ({peer.host} port {peer.port})" for peer in config.peers if times[peer.index] is None
    ]
    reached = [value for value in times.values() if value is not None]
    if not away:
        return [Finding("peers reached", Level.GOOD, f"all {len(reached)}, slowest in {max(reached):.0f} ms")]
    found = f"{len(reached)} of {len(times)}; not validator {', '.join(away)}"
    level = Level.PROBLEM if len(away) * 3 > len(times) else Level.WARNING
    return [Finding("peers reached", level, found, "ask those operators, and check firewalls on both sides")]


def check_running(status: StatusReply | None) -> list[Finding]:
    """What its own status gives away; `status` is None when no node answers."""
    if status is None:
        return [Finding("node", Level.NOTE, "not running; what a running one shows was not looked at")]
    findings = [
        Finding("node", Level.GOOD, f"running, final height {status.final_height}, view {status.view}")
    ]
    if status.halted:
        advice = "it stays halted after a restart: keep everything and compare with other operators"
        findings.append(Finding("voting", Level.PROBLEM, f"halted: {status.halted}", advice))
    elif status.observer:
        advice = 'see "Never sign twice" in docs/operators.md'
        findings.append(Finding("voting", Level.PROBLEM, f"only observes: {status.observer}", advice))
    elif status.index < 0:
        findings.append(Finding("voting", Level.NOTE, "follows; it is not a validator"))
    else:
        findings.append(Finding("voting", Level.GOOD, f"votes as validator {status.index}"))
    findings.append(_freshness(status))
    connected = sum(peer.connected for peer in status.peers)
    if connected * 3 < len(status.peers) * 2:
        advice = "check the network and the [[peers]] addresses: two thirds of the power must be in reach"
        findings.append(Finding("links", Level.PROBLEM, f"{connected} of {len(status.peers)} peers", advice))
    else:
        findings.append(Finding("links", Level.GOOD, f"{connected} of {len(status.peers)} peers"))
    return findings


def _freshness(status: StatusReply) -> Finding:
    if not status.final_height:
        return Finding(
            "newest block", Level.WARNING, "nothing is final yet", "wait for two thirds of the validators"
        )
    behind_s = (status.market_time_ns - status.block_time_ns) / 1e9
    found = f"{behind_s:.1f} s behind this node's clock"
    if behind_s < -1:
        return Finding(
            "newest block", Level.PROBLEM, found, "this machine's clock is behind the others': run NTP"
        )
    if behind_s > BEHIND_SECONDS_MAX:
        advice = (
            "either blocks stand still (see links and voting) or this machine's clock runs ahead: run NTP"
        )
        return Finding("newest block", Level.PROBLEM, found, advice)
    return Finding("newest block", Level.GOOD, found)
