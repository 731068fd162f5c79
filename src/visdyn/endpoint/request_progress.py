"""What a run of requests has done so far, and what it costs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from visdyn.endpoint.replies import Reply


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens in and out, from the endpoint's price list; discounts are not counted."""

    prompt: float
    completion: float
    currency: str = "USD"


@dataclass
class Progress:
    """Counts of one run: requests wanted, replies kept from before, new ones, failures, and tokens of new ones."""

    total: int
    kept: int
    prices: Prices | None = None
    answered: int = 0
    failed: int = 0
    uncounted: int = 0  # replies for which the endpoint states no tokens
    tokens: tuple[int, int] = (0, 0)
    started: float = field(default_factory=time.monotonic)

    def add(self, reply: Reply | None) -> None:
        """Count a reply; None is a request that got none."""
        self.answered, self.failed = self.answered + (reply is not None), self.failed + (reply is None)
        usage = reply and reply.usage
        self.uncounted += reply is not None and usage is None
        self.tokens = tuple(ours + new for ours, new in zip(self.tokens, usage or (0, 0), strict=True))

    def line(self) -> str:
        """Return one line: replies, failures, tokens and cost of this run, time left."""
        new, (into, out) = self.answered + self.failed, self.tokens
        left = self.total - self.kept - new
        line = f"judge: {self.total - left}/{self.total} ({self.kept} kept from before, {self.failed} failed)"
        line += f", {into:,} tokens in, {out:,} out"
        if self.prices:
            cost = (into * self.prices.prompt + out * self.prices.completion) / 1e6
            line += f", {cost:.4f} {self.prices.currency}"
        line += f", tokens of {self.uncounted} replies not stated" if self.uncounted else ""
        return line + (f", {(time.monotonic() - self.started) / new * left:.0f} s left" if new and left else "")
