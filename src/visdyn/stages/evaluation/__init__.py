"""Stage `evaluation`: systems, metrics, judges and what is known of them."""
