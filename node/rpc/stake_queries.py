"""What clients may ask about validators and stake, answered from the block store. Reads LMDB, read only."""

from __future__ import annotations

from msgspec.structs import replace

from gossip.peer_id import peer_id_of
from ledger.matching.orders import AccountKey
from ledger.staking.parameters import StakingParameters
from ledger.staking.pools import value_of
from ledger.staking.state import (
    KEY_STAKING_TOTALS,
    NO_ACTIVITY,
    NO_TARGET,
    Activity,
    Announcement,
    Delegation,
    EpochSet,
    StakingTotals,
    Unbonding,
    Validator,
    activity_key,
    announcement_key,
    counted,
    delegation_key,
    epoch_key,
    validator_key,
)
from node.rpc.answers import BondedForm, StakeAnswer, UnbondingForm, ValidatorForm, ValidatorsAnswer, form_of
from node.storage.block_store import BlockStore
from primitives.codec import decode_own


class StakeQueries:
    """Read-only questions to one store; of a chain without staking every answer is empty."""

    def __init__(self, store: BlockStore, staking: StakingParameters) -> None:
        self._store = store
        self._staking = staking

    def validators(self, height: int) -> ValidatorsAnswer:
        """Every validator, and the sets of the epoch of the final tip and of the next one."""
        epoch = self._staking.epoch_of(height)
        sets = [self._set(epoch), self._set(epoch + 1)]
        members = {item.validator: item for item in (sets[0].members if sets[0] else ())}
        answers = []
        for number in range(self._registered()):
            member, activity = members.get(number), self._activity(number)
            validator, addresses = self._announced(number)
            answers.append(
                form_of(
                    ValidatorForm,
                    validator,
                    place=None if member is None else member.place,
                    weight=0 if member is None else member.weight,
                    missed_blocks=counted(activity.missed, height, self._staking),
                    late_proposals=counted(activity.late, height, self._staking),
                    led_proposals=counted(activity.led, height, self._staking),
                    outside_reports=counted(activity.outside, height, self._staking),
                    leader_delay_ppm=activity.leader_delay_ppm,
                    addresses=addresses,
                )
            )
        return ValidatorsAnswer(epoch=epoch, validators=tuple(answers), set=sets[0], next_set=sets[1])

    def stake(self, account: AccountKey) -> StakeAnswer:
        """What a sub-account has bonded, and what is on its way out."""
        bonded, leaving = [], []
        for number in range(self._registered()):
            raw = self._store.leaf(delegation_key(number, account))
            if raw is not None:
                shares = decode_own(Delegation, raw).shares
                worth = value_of(self._validator(number), shares)
                bonded.append(BondedForm(validator=number, shares=shares, value_uusd=worth))
            prefix = delegation_key(number, account).replace(b"kd", b"ku", 1)
            leaving += [decode_own(Unbonding, item) for _, item in self._store.leaves(prefix)]
        return StakeAnswer(bonded=tuple(bonded), unbonding=tuple(_unbonding_form(item) for item in leaving))

    def _registered(self) -> int:
        raw = self._store.leaf(KEY_STAKING_TOTALS)
        return 0 if raw is None else decode_own(StakingTotals, raw).next_validator

    def _validator(self, number: int) -> Validator:
        raw = self._store.leaf(validator_key(number))
        assert raw is not None  # every number below next_validator has its leaf
        return decode_own(Validator, raw)

    def _announced(self, number: int) -> tuple[Validator, tuple[str, ...]]:
        """A validator with the peer id that it has announced since its registration, and its addresses."""
        validator, raw = self._validator(number), self._store.leaf(announcement_key(number))
        if raw is None:
            return validator, ()
        announced = decode_own(Announcement, raw)
        return replace(validator, peer_id=peer_id_of(announced.peer_key)), announced.addresses

    def _activity(self, number: int) -> Activity:
        raw = self._store.leaf(activity_key(number))
        return NO_ACTIVITY if raw is None else decode_own(Activity, raw)

    def _set(self, epoch: int) -> EpochSet | None:
        raw = self._store.leaf(epoch_key(epoch))
        return None if raw is None else decode_own(EpochSet, raw)


def _unbonding_form(entry: Unbonding) -> UnbondingForm:
    return form_of(UnbondingForm, entry, target=None if entry.target == NO_TARGET else entry.target)
