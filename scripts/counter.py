"""Counts the views of each page, says when a page has got to another hundred, and when nobody has come for an hour.

It is the least that a job on `worker.stream` has to say, and knows nothing of customers. Views are records on `views`
with the page as key; event times are those of the records.

    python scripts/counter.py localhost:9092
"""

import sys

import msgspec

from worker.stream import topics
from worker.stream.committer import CommitSettings
from worker.stream.connection import Connection
from worker.stream.keyed import Keyed, dead_letters_of, keyed
from worker.stream.processor import NEVER, Output
from worker.stream.transport import StreamApp

PARTITIONS = 4
HOUR_MS = 60 * 60 * 1000
EVERY = 100


class Page(msgspec.Struct, array_like=True):
    name: bytes
    views: int = 0
    quiet_at: int = NEVER


class Counter(Keyed):
    def parse(self, topic, key, value, recorded_at):
        return recorded_at, value

    def new(self, key):
        return Page(key)

    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(Page).decode

    def apply(self, page, shared, at, body, context):
        page.views += 1
        page.quiet_at = context.clock + HOUR_MS
        if page.views % EVERY == 0:
            return [Output("milestones", page.name, b"%d views" % page.views)]
        return []

    def next_due(self, page):
        return page.quiet_at

    def wake(self, page, shared, due, context):
        page.quiet_at = NEVER
        return [Output("milestones", page.name, b"quiet")]


def create_topics(commits):
    topics.create(
        commits.connection,
        [
            topics.TopicPlan("views", PARTITIONS, {}),
            topics.TopicPlan("milestones", PARTITIONS, {}),
            topics.TopicPlan(dead_letters_of(commits.group), 1, {}),
            *topics.own_topics(commits.group, PARTITIONS),
        ],
    )


def create_app(commits, **options):
    return StreamApp(commits, groups=[keyed("pages", ["views"], Counter(), commits)], partitions=PARTITIONS, **options)


if __name__ == "__main__":
    settings = CommitSettings("counter", Connection(sys.argv[1]))
    create_topics(settings)
    create_app(settings).run()
