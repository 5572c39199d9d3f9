"""Every HTTP route of the gateway, in one table. Pure; the handlers read what they are given."""

from __future__ import annotations

from dataclasses import dataclass

from node.rpc.answers import (
    AccountAnswer,
    BlockAnswer,
    BlocksPage,
    BookAnswer,
    BreakersAnswer,
    EpochsAnswer,
    EventsPage,
    HealthAnswer,
    InstrumentsAnswer,
    MarksAnswer,
    PolicyAnswer,
    ProofAnswer,
    RawBlocksAnswer,
    ReadyAnswer,
    Refusal,
    SimulateAnswer,
    StakeAnswer,
    StatusAnswer,
    StepAnswer,
    SubmitAnswer,
    SurfaceAnswer,
    TipAnswer,
    TransactionAnswer,
    TransactionsPage,
    ValidatorsAnswer,
)
from node.rpc.api_route import ApiRoute, Asked
from node.rpc.chain_queries import ChainQueries
from node.rpc.history import History
from node.rpc.live import Live
from node.rpc.order_entry import OrderBody, OrderEntry
from node.rpc.parameters import (
    AccountHistory,
    AccountPath,
    EpochPath,
    EpochQuery,
    EventsQuery,
    HeightPath,
    NamePath,
    PageQuery,
    ProofOfAccount,
    ProofOfInstrument,
    ProofOfOrder,
    RawBlocksQuery,
    TradesQuery,
    TransactionPath,
    UnderlyingPath,
)
from node.rpc.proof_queries import ProofQueries
from node.rpc.queries import Queries
from node.rpc.reasons import GatewayReason
from node.rpc.simulations import SimulateBody, Simulations
from node.rpc.tokens import Right

PROOFS_MAX = 2
"""Proofs being made at once, of each kind; further requests wait, and count as being served."""
PAGES_MAX = 4
"""Pages of one kind being made at once; further requests wait likewise."""
MISSING = (GatewayReason.NOT_FOUND,)
AWAY = (GatewayReason.NODE_UNAVAILABLE, GatewayReason.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Sources:
    """What the handlers ask."""

    queries: Queries
    proofs: ProofQueries
    chain: ChainQueries
    history: History
    live: Live
    orders: OrderEntry
    simulations: Simulations


def routes_of(sources: Sources) -> list[ApiRoute]:
    """The table."""
    return [
        *_live_routes(sources),
        *_chain_routes(sources),
        *_stake_routes(sources.queries),
        *_market_routes(sources),
        *_account_routes(sources),
        *_proof_routes(sources),
        *_raw_routes(sources.chain),
    ]


def _live_routes(sources: Sources) -> list[ApiRoute]:
    live, orders = sources.live, sources.orders
    return [
        ApiRoute(
            path="/health",
            summary="Whether the gateway has its node",
            answers={200: HealthAnswer, 503: HealthAnswer},
            handle=lambda _: live.health(),
            right=None,
        ),
        ApiRoute(
            path="/ready",
            summary="Whether this node may be sent clients: it answers, works, and its newest block is fresh",
            answers={200: ReadyAnswer, 503: ReadyAnswer},
            handle=lambda _: live.ready(),
            right=None,
        ),
        ApiRoute(
            path="/metrics",
            summary="Prometheus text of the node and of the gateway",
            answers={200: "text/plain; version=0.0.4; charset=utf-8"},
            handle=lambda _: live.metrics(),
            refusals=AWAY,
            right=Right.ADMIN,
        ),
        ApiRoute(
            path="/v1/status",
            summary="Where the node stands; what the store says when the node does not answer",
            answers={200: (StatusAnswer, TipAnswer)},
            handle=lambda _: live.status(),
        ),
        ApiRoute(
            method="POST",
            path="/v1/orders",
            summary="Hand one signed transaction to the node: 202 when it waits for a block, 422 when it is refused",
            body={"application/octet-stream": bytes, "application/json": OrderBody},
            answers={202: SubmitAnswer, 422: SubmitAnswer},
            handle=orders.post,
            refusals=(GatewayReason.BODY_TOO_LARGE, *AWAY),
            right=Right.TRADE,
        ),
    ]


def _chain_routes(sources: Sources) -> list[ApiRoute]:
    queries, history, live = sources.queries, sources.history, sources.live
    return [
        ApiRoute(
            path="/v1/blocks/{height}",
            summary="One final block with its events",
            parameters=HeightPath,
            answers={200: BlockAnswer},
            handle=lambda asked: queries.block(asked.parameters.height),
            refusals=MISSING,
            units=2,
        ),
        ApiRoute(
            path="/v1/blocks",
            summary="Final blocks in short",
            parameters=PageQuery,
            answers={200: BlocksPage},
            handle=lambda asked: history.blocks(asked.parameters),
            units=5,
            in_thread=PAGES_MAX,
        ),
        ApiRoute(
            path="/v1/transactions/{id}",
            summary="How far a transaction has come, and what it did once it is final",
            parameters=TransactionPath,
            answers={200: TransactionAnswer},
            handle=lambda asked: live.transaction(asked.parameters.id),
            refusals=MISSING,
        ),
        ApiRoute(
            path="/v1/transactions",
            summary="Transactions of final blocks",
            parameters=PageQuery,
            answers={200: TransactionsPage},
            handle=lambda asked: history.transactions(asked.parameters),
            units=5,
            in_thread=PAGES_MAX,
        ),
        ApiRoute(
            path="/v1/events",
            summary="Everything that happened, or one kind of event",
            parameters=EventsQuery,
            answers={200: EventsPage},
            handle=lambda asked: history.events(asked.parameters),
            refusals=MISSING,
            units=10,
            in_thread=PAGES_MAX,
        ),
    ]


def _stake_routes(queries: Queries) -> list[ApiRoute]:
    return [
        ApiRoute(
            path="/v1/validators",
            summary="Every validator with its stake and standing, and the sets of this epoch and the next",
            answers={200: ValidatorsAnswer},
            handle=lambda _: queries.validators(),
            units=2,
        ),
        ApiRoute(
            path="/v1/policy",
            summary="Every number that validators can change by vote, with its bounds; ballots and decided changes",
            answers={200: PolicyAnswer},
            handle=lambda _: queries.policy(),
            units=5,
        ),
    ]


def _market_routes(sources: Sources) -> list[ApiRoute]:
    queries, history = sources.queries, sources.history
    return [
        ApiRoute(
            path="/v1/instruments",
            summary="Every listed instrument",
            answers={200: InstrumentsAnswer},
            handle=lambda _: queries.instruments(),
            units=5,
        ),
        ApiRoute(
            path="/v1/marks",
            summary="Marks and Greeks of everything live",
            answers={200: MarksAnswer},
            handle=lambda _: queries.marks(),
            refusals=MISSING,
            units=5,
        ),
        ApiRoute(
            path="/v1/books/{instrument}",
            summary="Price levels of one instrument, by name or id; at most 50 a side, best first",
            parameters=NamePath,
            answers={200: BookAnswer},
            handle=lambda asked: queries.book(asked.parameters.instrument),
            refusals=MISSING,
        ),
        ApiRoute(
            path="/v1/surface/{underlying}",
            summary="The agreed index and volatility slices of BTC or ETH",
            parameters=UnderlyingPath,
            answers={200: SurfaceAnswer},
            handle=lambda asked: queries.surface(asked.parameters.underlying),
            refusals=MISSING,
        ),
        ApiRoute(
            path="/v1/breakers",
            summary="The trading phase of every underlying, and the distance of every mark from the venues",
            answers={200: BreakersAnswer},
            handle=lambda _: queries.breakers(),
            units=5,
        ),
        ApiRoute(
            path="/v1/trades",
            summary="Trades of one instrument or of all",
            parameters=TradesQuery,
            answers={200: EventsPage},
            handle=lambda asked: history.trades(asked.parameters),
            refusals=MISSING,
            units=10,
            in_thread=PAGES_MAX,
        ),
    ]


def _account_routes(sources: Sources) -> list[ApiRoute]:
    queries, history = sources.queries, sources.history
    return [
        ApiRoute(
            method="POST",
            path="/v1/simulate",
            summary="What a batch of actions would do to an account's margin; 422 when it makes no sense to the ledger",
            body={"application/json": SimulateBody},
            answers={200: SimulateAnswer, 422: Refusal},
            handle=sources.simulations.post,
            refusals=(GatewayReason.BODY_TOO_LARGE, GatewayReason.TIMEOUT),
            units=20,
        ),
        ApiRoute(
            path="/v1/accounts/{address}/{subaccount}",
            summary="Cash, positions, open orders, nonces and margin of one sub-account",
            parameters=AccountPath,
            answers={200: AccountAnswer},
            handle=lambda asked: queries.account(_key(asked)),
            refusals=MISSING,
        ),
        ApiRoute(
            path="/v1/accounts/{address}/{subaccount}/stake",
            summary="What a sub-account has bonded, and what is on its way out",
            parameters=AccountPath,
            answers={200: StakeAnswer},
            handle=lambda asked: queries.stake(_key(asked)),
        ),
        ApiRoute(
            path="/v1/accounts/{address}/{subaccount}/history",
            summary="Every event that concerned one sub-account",
            parameters=AccountHistory,
            answers={200: EventsPage},
            handle=lambda asked: history.account(asked.parameters),
            units=10,
            in_thread=PAGES_MAX,
        ),
    ]


def _proof_routes(sources: Sources) -> list[ApiRoute]:
    proofs = sources.proofs
    return [
        ApiRoute(
            path="/v1/proofs/order/{name}/{id}",
            summary="Proof that an order rests on a book, or does not",
            parameters=ProofOfOrder,
            answers={200: ProofAnswer},
            handle=lambda asked: proofs.order(
                asked.parameters.name, asked.parameters.id, asked.parameters.from_
            ),
            refusals=MISSING,
            units=20,
            in_thread=PROOFS_MAX,
        ),
        ApiRoute(
            path="/v1/proofs/{kind}/{address}/{subaccount}",
            summary="Proof of an account, or of what its margin follows from (kind `account` or `margin`)",
            parameters=ProofOfAccount,
            answers={200: ProofAnswer},
            handle=lambda asked: proofs.account(asked.parameters.kind, _key(asked), asked.parameters.from_),
            refusals=MISSING,
            units=20,
            in_thread=PROOFS_MAX,
        ),
        ApiRoute(
            path="/v1/proofs/{kind}/{name}",
            summary="Proof of an instrument's mark or settlement price (kind `mark` or `settlement`)",
            parameters=ProofOfInstrument,
            answers={200: ProofAnswer},
            handle=lambda asked: proofs.instrument(
                asked.parameters.kind, asked.parameters.name, asked.parameters.from_
            ),
            refusals=MISSING,
            units=20,
            in_thread=PROOFS_MAX,
        ),
        ApiRoute(
            path="/v1/epochs",
            summary="Links from an epoch's validators to later ones",
            parameters=EpochQuery,
            answers={200: EpochsAnswer},
            handle=lambda asked: proofs.epochs(asked.parameters.from_),
            refusals=MISSING,
            units=10,
            in_thread=PROOFS_MAX,
        ),
    ]


def _raw_routes(chain: ChainQueries) -> list[ApiRoute]:
    return [
        ApiRoute(
            path="/v1/chain/blocks",
            summary="Final blocks in wire form with their finality proofs, by height: for forensics",
            parameters=RawBlocksQuery,
            answers={200: RawBlocksAnswer},
            handle=lambda asked: chain.blocks(asked.parameters.from_, asked.parameters.limit),
            refusals=MISSING,
            units=10,
            in_thread=PROOFS_MAX,
        ),
        ApiRoute(
            path="/v1/chain/epochs/{epoch}",
            summary="Why an epoch is closed, and who votes in the next, in wire form",
            parameters=EpochPath,
            answers={200: StepAnswer},
            handle=lambda asked: chain.step(asked.parameters.epoch),
            refusals=MISSING,
            units=5,
            in_thread=PROOFS_MAX,
        ),
    ]


def _key(asked: Asked) -> tuple[bytes, int]:
    return asked.parameters.address, asked.parameters.subaccount
