"""Where an endpoint's key may go, and how it is kept out of all that comes back."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from visdyn.endpoint.settings import ENDPOINTS, is_loopback

HOSTS_VARIABLE = "VISDYN_KEY_HOSTS"  # hosts, by commas, that the user allows keys to be sent to
# A token of which a part is masked, as providers quote a wrong key: its head, the mask, its tail.
_MASKED = re.compile(r"([\w/+-]{2,})(?:[*\u2022]{2,}|\.{3,}|\u2026)+([\w/+-]*)")


def host_problem(variable: str, base_url: str) -> str | None:
    """Say why the key in an environment variable may not go to an address, or return None.

    A parameter file comes from anywhere and may name any variable and host. A key goes to this machine, to the server
    that its variable is known for, and to the hosts that the user has named in the environment.
    """
    host = urlsplit(base_url).hostname or ""
    known = {one["key_variable"]: urlsplit(one["base_url"]).hostname for one in ENDPOINTS.values()
             if "key_variable" in one}  # fmt: skip
    named = {name.strip().lower() for name in os.environ.get(HOSTS_VARIABLE, "").split(",")}
    if is_loopback(host) or known.get(variable) == host or host in named:
        return None
    return (f"nobody has allowed the key in {variable} to go to {host}; if that is your server, export "
            f"{HOSTS_VARIABLE}={host} (several by commas)")  # fmt: skip


def blot_key(text: str, key: str) -> str:
    """Return a text without the key: as it is, escaped, encoded, in other letters, or with its middle masked."""
    if not key:
        return text
    for form in sorted(set(_spellings(key)), key=len, reverse=True):
        text = re.sub(re.escape(form), "[key]", text, flags=re.IGNORECASE)

    def blot(match: re.Match) -> str:
        head, tail = match[1].lower(), match[2].lower()
        masked = key.lower().startswith(head) or (len(tail) > 1 and key.lower().endswith(tail))
        return "[key]" if masked else match[0]

    return _MASKED.sub(blot, text)


def _spellings(key: str) -> Iterator[str]:
    yield from (key, json.dumps(key)[1:-1], quote(key, safe=""), key.encode().hex())
    for shift in range(3):  # where the key may stand within the bytes that are encoded
        end = (shift + len(key)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * shift + key.encode()).decode()[-(-shift * 8 // 6) : end]
