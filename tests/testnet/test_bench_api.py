"""The gateway's bench, small: every subscriber hears every message, in order, while one who never reads is there."""

from __future__ import annotations

from testnet.bench.api import TRADES_PER_BLOCK, ApiPlan, api_figures


def test_subscribers_hear_everything_and_orders_and_questions_are_answered() -> None:
    figures = api_figures(
        ApiPlan(subscribers=10, slow=1, blocks_per_second=5, seconds=1.0, burst_seconds=0.3)
    )
    assert (figures["api.subscribers_lost"], figures["api.sequence_holes"]) == (0, 0)
    per_second = 10 * 5 * (3 + TRADES_PER_BLOCK)
    assert 0.5 * per_second < figures["api.messages_per_second"] <= 1.1 * per_second
    assert 0 < figures["api.delivery_ms_p50"] <= figures["api.delivery_ms_p99"]
    assert figures["api.order_acknowledgements_per_second"] > 0
    assert figures["api.questions_per_second"] > 0
