"""Benchmarks as protocols: a training anybody can repeat, beside what somebody else published of it."""
