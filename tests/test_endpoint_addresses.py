"""Addresses that no request can, or may, go to are refused when the settings are read, in words."""

from __future__ import annotations

import pytest

from visdyn.endpoint.settings import EndpointSettings


@pytest.mark.parametrize(
    "address",
    [
        "https://a..b/v1",
        f"https://{'a' * 64}.example/v1",
        "https://example.com:port/v1",
        "https://example.com:70000/v1",
        "https://example.com:0/v1",
        "http://169.254.169.254/latest",
        "http://[fe80::1]/v1",
        "https://exam\u0001ple.com/v1",
        "https:///v1",
        "ftp://example.com/v1",
        "example.com/v1",
    ],
)
def test_an_address_that_cannot_be_called_is_a_sentence(address):
    with pytest.raises(ValueError, match="base_url"):
        EndpointSettings(address, "m")


@pytest.mark.parametrize(
    "address",
    ["https://api.openai.com/v1", "http://localhost:8000/v1", "http://127.0.0.1:1/v1", "http://[::1]:8000/v1",
     "https://münchen.example/v1", "https://10.0.0.5:8443/v1", "https://example.com./v1"],
)  # fmt: skip
def test_others_are_taken(address):
    assert EndpointSettings(address, "m").base_url == address
