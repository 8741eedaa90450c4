"""The contracts: what goes over each topic, as models. JSON Schema is generated from them (`schemas.generate`).

Two rules for all of them. Segment's objects are open, since producers add fields of their own; every form of Recall's
own is closed, so that a misspelt field is refused and not lost. Times are RFC 3339 with a timezone, amounts decimal
strings with a currency (in Segment's events JSON numbers too).
"""
