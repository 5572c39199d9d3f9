"""How many steps of honest validators the shortest fork takes under each planted mistake; both models must agree."""

SHORTEST_FORKS = {
    "fast-quorum-one-too-low": 8,
    "report-dropped": 11,
    "timeout-always-skips": 11,
    "finalize-after-nullify": 12,
    "notarize-after-nullify": 11,
    "nullify-after-finalize": 12,
    "skips-unchecked": 9,
    "parent-unchecked": 9,
}
