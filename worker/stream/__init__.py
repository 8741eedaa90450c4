"""Keyed state on Kafka: bytes, offsets and event time. Knows no customers."""
