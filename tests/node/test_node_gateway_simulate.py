"""Simulations through a real gateway and its worker process, on the leaves of a real state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import psutil
import trio

from ledger.state_keys import account_key
from primitives.amounts import USD
from tests.node.running_gateway import OWNER, Running, leaves_at, running

BUY = {
    "action": "place_order",
    "instrument": 0,
    "side": 0,
    "price_uusd": str(100_000 * USD),
    "size_lots": 1,
    "time_in_force": 0,
    "post_only": False,
    "reduce_only": False,
    "label": "0",
}


async def simulated(it: Running, *actions: dict[str, Any], subaccount: Any = 0) -> httpx.Response:
    body = {"address": OWNER.hex(), "subaccount": subaccount, "actions": list(actions)}
    return await it.http.post("/v1/simulate", json=body, timeout=20)


def workers() -> list[psutil.Process]:
    """Processes that simulate for gateways of this process."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "node.rpc.simulation_worker" in child.cmdline()]


async def test_a_batch_is_told_its_margin_and_its_refusals_block_after_block(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        it.become_final([], leaves_at(it, 2))
        answer = await simulated(it, BUY, {**BUY, "size_lots": 900_000}, {**BUY, "instrument": 99_999})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert [(item["accepted"], item["reason"]) for item in told["actions"]] == [
            (True, ""),
            (False, "insufficient_margin"),
            (False, "unknown_instrument"),
        ]
        assert told["height"] == 2
        assert [event["event"] for event in told["events"]] == ["order_accepted"]
        before, after = told["before"], told["after"]
        assert (before["equity_uusd"], before["im_requirement_uusd"]) == (str(1_000 * USD), "0")
        assert int(after["im_excess_with_orders_uusd"]) < int(before["im_excess_with_orders_uusd"])
        it.become_final([], [*leaves_at(it, 3), (account_key((OWNER, 0)), None)])
        gone = await simulated(it, BUY)
        assert (gone.status_code, gone.json()["reason"]) == (422, "unknown_account")


async def test_what_is_not_a_batch_is_refused_with_the_place(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        it.become_final([], leaves_at(it, 2))
        for action, words in (
            ({}, "action must be one of"),
            ({"action": "delegate", "validator": 0, "amount_uusd": "1"}, "action must be one of"),
            ({**BUY, "price_uusd": 5}, "price_uusd must be a decimal string"),
            ({**BUY, "size_lots": "5"}, "size_lots must be a whole number"),
            ({**BUY, "colour": 1}, "exactly these fields"),
        ):
            answer = await simulated(it, action)
            assert (answer.status_code, words in answer.json()["detail"]) == (400, True), answer.text
        assert (await simulated(it)).status_code == 422
        assert (await simulated(it, BUY, subaccount=256)).status_code == 422
        assert (await simulated(it, {**BUY, "size_lots": 0})).json()["reason"] == "out_of_range"
        assert workers() == [], "nobody has asked for anything that could be simulated"


async def test_a_killed_worker_costs_one_answer_and_ends_with_its_gateway(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        it.become_final([], leaves_at(it, 2))
        assert (await simulated(it, BUY)).status_code == 200
        (worker,) = workers()
        worker.kill()
        with trio.fail_after(10):
            while (await simulated(it, BUY)).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert workers() != [worker]
        assert (await it.http.get("/health")).status_code == 200
    assert workers() == []
