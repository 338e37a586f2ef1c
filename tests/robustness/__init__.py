"""Robustness: signals, threads, forks, closes."""
