"""Run notification hooks for published studies. No other package depends on it."""
