"""What the people of random histories ask for: mostly sensible, some of it wrong, all of it from one seed. Pure."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ledger.staking.state import Delegation, get_totals, scan
from ledger.transactions import (
    Action,
    Announce,
    AttestReadiness,
    Delegate,
    LeaveValidatorSet,
    Redelegate,
    RegisterValidator,
    RotateConsensusKey,
    SetCommission,
    Unbond,
    Unjail,
    peer_proof_bytes,
)
from primitives.amounts import USD
from tests.history_deals import DealWishes
from tests.history_market import UNKNOWN
from tests.ledger.exchange import (
    CHAIN,
    Exchange,
    a_key,
)


class Wishes(DealWishes):
    """Random actions that fit the exchange as it stands: anything, and stake."""

    def __init__(self, random: Random, exchange: Exchange, names: tuple[str, ...]) -> None:
        super().__init__(random, exchange, names)
        self._kinds: dict[Callable[[str, int], Action], int] = {
            self.some_order: 40,
            self.cancel: 5,
            self.until: 9,
            self.market: 7,
            self.trigger: 14,
            self.replacement: 13,
            self.few_quotes: 4,
            self.money: 8,
            self.setting: 11,
            self.request: 4,
            self.package_quote: 2,
            self.acceptance: 1,
            self.withdrawn_request: 1,
            self.block_trade: 5,
            self.stake: 7,
            self.operation: 8,
        }

    def action(self, name: str, subaccount: int) -> Action:
        """Anything."""
        kind = self.random.choices(list(self._kinds), list(self._kinds.values()))[0]
        return kind(name, subaccount)

    # --- stake ---

    def validator(self) -> int:
        """Any, rarely none."""
        known = get_totals(self.exchange.state).next_validator
        return self.random.randrange(known) if known and self.chance(0.97) else UNKNOWN

    def _held(self, name: str, subaccount: int) -> int:
        """A validator in whose pool the account has shares, else any."""
        held: list[Delegation] = scan(self.exchange.state, b"kd")
        key = self.exchange.key(name, subaccount)
        own = [item.validator for item in held if (item.owner, item.subaccount) == key]
        return self.random.choice(own) if own and self.chance(0.95) else self.validator()

    def stake(self, name: str, subaccount: int) -> Action:
        """In, out, or to another validator."""
        amount = self.random.choice([30, 60, 200, 700, 2_000]) * USD + self.random.randrange(1_000)
        what = self.random.random()
        if what < 0.5:
            return Delegate(self.validator(), amount)
        if what < 0.8:
            return Unbond(self._held(name, subaccount), amount)
        return Redelegate(self._held(name, subaccount), self.validator(), amount)

    def operation(self, name: str, subaccount: int) -> Action:
        """What operators do; often of another's validator."""
        state, number = self.exchange.state, self.validator()
        own = [item.number for item in scan(state, b"kv") if item.operator == self.exchange.key(name)[0]]
        if own and self.chance(0.9):
            number = self.random.choice([*own, max(own)])
        fresh = a_key(f"consensus {self.random.randrange(20)}").public_key
        if self.chance(0.03):
            fresh = bytes(32)
        return self.random.choice(
            [
                self._registration(fresh),
                self._registration(fresh),
                SetCommission(number, self.random.choice([0, 20_000, 60_000, 110_000, 400_000])),
                AttestReadiness(number),
                AttestReadiness(number),
                AttestReadiness(number),
                LeaveValidatorSet(number),
                RotateConsensusKey(number, fresh),
                Unjail(number),
                Unjail(number),
                self._announcement(name, number),
            ]
        )

    def _announcement(self, name: str, number: int) -> Announce:
        """Under a network key that agrees; sometimes it does not, or an address is none."""
        key = a_key(f"network {self.random.randrange(5)}")
        known = ["/ip4/203.0.113.9/tcp/26600", "/dns/v.example/tcp/1", "/ip6/2001:db8::1/tcp/26600"]
        addresses = self.random.choices([*known, "/ip4/203.0.113.09/tcp/1"], [5, 5, 5, 1], k=2)
        proof = key.sign(peer_proof_bytes(CHAIN, self.exchange.key(name)[0], number))
        return Announce(number, key.public_key, tuple(addresses), proof if self.chance(0.9) else bytes(64))

    def _registration(self, fresh: bytes) -> RegisterValidator:
        number = get_totals(self.exchange.state).next_validator
        oracle_key = a_key(f"reporter {number}").public_key if self.chance(0.97) else bytes(32)
        commission, stake = (
            self.random.choice([0, 50_000, 600_000]),
            self.random.choice([100, 600, 1_500]),
        )
        return RegisterValidator(fresh, oracle_key, f"peer {number}", commission, stake * USD)
