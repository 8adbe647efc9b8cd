"""Deliver studies whose route has `also` to other destinations, each with its own queue. No other package depends on it."""
