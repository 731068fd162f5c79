"""Settings of an OpenAI-compatible endpoint; the API key is named, never held."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/openai"
ENDPOINTS = {
    "openai": {"base_url": "https://api.openai.com/v1", "key_variable": "OPENAI_API_KEY"},
    # Gemini's compatible endpoint answers 400 to the field `seed`.
    "gemini": {"base_url": GEMINI_URL, "key_variable": "GEMINI_API_KEY", "seed": None},
    "vllm": {"base_url": "http://localhost:8000/v1"},
}


@dataclass(frozen=True)
class EndpointSettings:
    """Where and how to ask. Holds no secret: the key is named by its environment variable.

    Attributes:
        base_url: address up to, not including, `/chat/completions`; without credentials and without a query.
        model: name as the endpoint knows it, e.g. `gpt-4o-2024-11-20` (Bootstrapping's judge).
        key_variable: name of the environment variable with the key, in capitals; empty sends no key.
        sampling: further fields of the request, sent as they are (`temperature`, `max_tokens`, ...).
        seed: repeat r is sent with the field `seed` = seed + r; None sends no such field.
        droppable: fields that nobody asked for, left out (`max_tokens` renamed) where the server refuses them.
        concurrency: requests under way at once.
        requests_per_minute: sent evenly spaced, repeated attempts included; None is no limit.
        timeout_s: seconds without a byte, or for the whole reply, after which an attempt is given up.
        max_attempts: times one request is sent before it counts as failed.
        backoff_s: wait before the second attempt; doubles with each, times a random factor from 0.5 to 1.
        max_wait_s: longest such wait; an endpoint that asks for a longer one stops the run.
        max_side: larger images are shrunk to this many pixels on the longer side; None sends them as they are.
        allow_http: permits sending the key unencrypted to another machine.

    Raises:
        ValueError: a value that cannot work, or that would expose the key.
    """

    base_url: str
    model: str
    key_variable: str = ""
    sampling: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = 0
    droppable: frozenset[str] = frozenset()
    concurrency: int = 4
    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    max_attempts: int = 6
    backoff_s: float = 1.0
    max_wait_s: float = 120.0
    max_side: int | None = None
    allow_http: bool = False

    @classmethod
    def named(cls, name: str, model: str, **changes) -> EndpointSettings:
        """Return the settings of `openai`, `gemini` or `vllm`, with changes; ValueError for another name."""
        if name not in ENDPOINTS:
            raise ValueError(f"no endpoint is called {name!r}; choose one of {', '.join(ENDPOINTS)} or give a base_url")
        return cls(**{**ENDPOINTS[name], "model": model, **changes})

    def __post_init__(self) -> None:
        self._check_key_is_safe(urlsplit(self.base_url))
        if taken := {"model", "messages", "seed", "stream", "n"} & set(self.sampling):
            raise ValueError(f"sampling may not set {', '.join(sorted(taken))}; model and seed are settings themselves")
        for name in ("concurrency", "max_attempts", "timeout_s", "requests_per_minute", "max_side"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"the endpoint's {name} is {value}; it must be above 0")

    def _check_key_is_safe(self, address) -> None:
        # What is wrong here may be the key itself, so values are not quoted.
        if self.key_variable and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", self.key_variable):
            raise ValueError("key_variable is not the name of an environment variable in capitals, such as "
                             "OPENAI_API_KEY; export the key under such a name and give the name")  # fmt: skip
        if re.search(r"[\s\x00-\x1f\x7f]", self.base_url):
            raise ValueError(
                "base_url holds a space, a line break or another control character; write the address alone"
            )
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("base_url is not an http or https address, such as https://api.openai.com/v1")
        if problem := _find_address_problem(address):
            raise ValueError(f"base_url {problem}; write the address alone, such as https://api.openai.com/v1")
        if "@" in address.netloc or address.query or address.fragment:
            raise ValueError("base_url has credentials or a query; name the key's variable in key_variable instead")
        if self.key_variable and address.scheme == "http" and not (self.allow_http or is_loopback(address.hostname)):
            raise ValueError(f"http would send the key to {address.hostname} unencrypted; use https or set allow_http")

    def sampling_of(self, repeat: int) -> dict:
        """Return the sampling fields of repeat 0, 1, ...; the seed among them if one is sent."""
        return dict(self.sampling) | ({} if self.seed is None else {"seed": self.seed + repeat})


def _find_address_problem(address: SplitResult) -> str:
    """Say why no request can, or may, go to an address: the HTTP library would raise its own error, or call it."""
    try:
        address.hostname.encode("idna")
        if address.port == 0:
            return "has port 0"
    except ValueError:  # a label that is empty or too long, a port that is no number
        return "has a host or a port that is malformed"
    try:
        local = ipaddress.ip_address(address.hostname).is_link_local
    except ValueError:
        return ""
    # A cloud machine's own accounts answer there, and a parameter file comes from anywhere.
    return "is a link-local address, where a cloud keeps a machine's secrets" if local else ""


def is_loopback(host: str) -> bool:
    """Tell whether an address stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
