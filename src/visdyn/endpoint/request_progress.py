"""What a run of requests has done so far, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from visdyn.compute.progress import Progress
from visdyn.endpoint.replies import Reply


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens in and out, from the endpoint's price list; discounts are not counted."""

    prompt: float
    completion: float
    currency: str = "USD"


class RequestProgress(Progress):
    """Counts of one run: requests wanted, replies kept from before, new ones, failures, and tokens of new ones."""

    def __init__(
        self,
        total: int,
        kept: int,
        prices: Prices | None = None,
        every: float = 10.0,
        report: Callable[[str], object] = print,
    ) -> None:
        super().__init__("judge", total, every, kept, report)
        self.prices, self.tokens = prices, (0, 0)
        self.uncounted = 0  # replies for which the endpoint states no tokens

    def add_reply(self, reply: Reply | None) -> None:
        """Count a reply; None is a request that got none."""
        usage = reply and reply.usage
        self.uncounted += reply is not None and usage is None
        self.tokens = tuple(ours + new for ours, new in zip(self.tokens, usage or (0, 0), strict=True))
        self.add(bad=reply is None)

    def line(self) -> str:
        """Return one line: replies, failures, tokens and cost of this run, time left."""
        into, out = self.tokens
        line = f"judge: {self.found + self.done}/{self.total} ({self.found} kept from before, {self.bad} failed)"
        line += f", {into:,} tokens in, {out:,} out"
        if self.prices:
            cost = (into * self.prices.prompt + out * self.prices.completion) / 1e6
            line += f", {cost:.4f} {self.prices.currency}"
        line += f", tokens of {self.uncounted} replies not stated" if self.uncounted else ""
        return line + (f", {self.seconds_left:.0f} s left" if self.seconds_left else "")
