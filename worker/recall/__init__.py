"""Customers, value and touches. Pure: no Kafka, no clock, no I/O, no random state of its own."""
