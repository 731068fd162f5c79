"""A client of OpenAI-compatible servers, its kept replies, and a local stand-in."""
