"""An executable model of the rules R1 to R6 at n = 4 with one Byzantine validator, checked exhaustively. Pure.

The rules are not written down again: every guard is the production predicate (`consensus.safety.OwnVotes`,
`consensus.certificates`, `consensus.validator_set`), asked about votes, certificates and blocks of the production
types. What this package adds is the adversary, who schedules everything, and the bookkeeping of an explorer.
docs/spec/model.md says what is modelled, what is not, and why the reductions lose nothing.
"""
