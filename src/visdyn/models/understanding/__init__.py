"""Vision-language models that write text only."""
