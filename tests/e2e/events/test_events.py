"""Other programs write to the bucket, S3 reports it to a queue, and nodes drop what they have: moto's SQS and SNS.

moto sends no event for a delete in a versioned bucket, so the bucket has no versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from milena_client import Milena
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

SECONDS = 20.0
# Among them some of each node, and keys that S3's events encode.
KEYS = [*(f"data/{number}" for number in range(12)), "a b+c/é.txt", "red%2Bflower"]


class Watched(NamedTuple):
    """A cluster that reads the queue of its bucket's events."""

    cluster: Cluster
    s3: Any
    sqs: Any
    queue: str

    def metric(self, name: str, **labels: str) -> float:
        """The sum over the nodes."""
        return sum(node.metrics().value(name, **labels) for node in self.cluster.nodes)

    def is_empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return not any(int(number) for number in found.values())


@pytest.fixture(scope="module")
def watched(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    sqs, sns = moto.client_of("sqs"), moto.client_of("sns")
    queue = sqs.create_queue(QueueName="events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = sns.create_topic(Name="events")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    bucket = moto.new_bucket()

    def below(prefix: str) -> Any:
        return {
            "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
        }

    moto.client.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn, **below("queue/")}, {"QueueArn": arn, **below(".milena-")}],
            "TopicConfigurations": [{"TopicArn": topic, **below("topic/")}],
        },
    )
    env = {
        "S3_EVENTS_QUEUE_URL": queue,
        "EVENTS_TTL_SECONDS": "90000",
        "COPIES": "1",
        "NEGATIVE_TTL_SECONDS": "3600",
    }
    directory = tmp_path_factory.mktemp("events")
    with Cluster(directory, moto.endpoint_url, bucket, 2, node_env=env) as cluster:
        yield Watched(cluster, moto.client, sqs, queue)
    assert cluster.tracebacks() == []


@pytest.fixture(scope="module")
def client(watched: Watched) -> Iterator[Milena]:
    with Milena(f"milena://{watched.cluster.address}") as client:
        yield client


def put(watched: Watched, key: str, value: bytes) -> None:
    watched.s3.put_object(Bucket=watched.cluster.bucket, Key=key, Body=value)


@pytest.mark.parametrize("below", ["queue/", "topic/"], ids=["sqs", "sns"])
def test_what_another_program_writes_is_seen_though_entries_are_fresh(
    watched: Watched, client: Milena, below: str
) -> None:
    keys = [below + key for key in KEYS]
    for key in keys:
        put(watched, key, b"first")
        assert client.get(key) == b"first"
    for key in keys:
        put(watched, key, b"second")
    wait_until("all are seen", lambda: [client.get(key) for key in keys] == [b"second"] * len(keys), SECONDS)
    for key in keys:
        watched.s3.delete_object(Bucket=watched.cluster.bucket, Key=key)
    wait_until("none is there", lambda: not any(client.get(key) for key in keys), SECONDS)
    for key in keys:
        put(watched, key, b"third")
    wait_until("they are back", lambda: [client.get(key) for key in keys] == [b"third"] * len(keys), SECONDS)
    assert all(node.metrics().value("milena_events_received_total") for node in watched.cluster.nodes)


def test_what_the_cluster_writes_itself_stays(watched: Watched, client: Milena) -> None:
    wait_until("the queue is empty", watched.is_empty, SECONDS)
    dropped = watched.metric("milena_events_changes_total", result="dropped")
    delivered = watched.metric("milena_events_delivered_total")
    keys = [f"queue/own/{number}" for number in range(10)]
    for key in keys:
        client.set(key, b"value", durability="through")
    wait_until(
        "their events have come", lambda: watched.metric("milena_events_delivered_total") >= delivered + 10, SECONDS
    )
    misses = watched.metric("milena_cache_misses_total")
    assert [client.get(key) for key in keys] == [b"value"] * 10
    assert watched.metric("milena_cache_misses_total") == misses
    assert watched.metric("milena_events_changes_total", result="dropped") == dropped


def test_messages_that_are_none_are_deleted_and_counted(watched: Watched) -> None:
    watched.sqs.send_message(QueueUrl=watched.queue, MessageBody="hello")
    watched.sqs.send_message(QueueUrl=watched.queue, MessageBody=json.dumps({"Event": "s3:TestEvent"}))
    wait_until("it is counted", lambda: watched.metric("milena_events_unreadable_total") == 1, SECONDS)
    wait_until("the queue is empty", watched.is_empty, SECONDS)


def test_one_node_writes_heartbeats_and_all_nodes_get_them(watched: Watched) -> None:
    wait_until("one is written", lambda: watched.metric("milena_events_heartbeats_total") >= 1, SECONDS)
    wait_until(
        "all nodes have got one",
        lambda: all(node.metrics().value("milena_events_lag_seconds") < 70 for node in watched.cluster.nodes),
        SECONDS,
    )


def test_a_message_stays_until_the_owner_has_replied(watched: Watched, client: Milena) -> None:
    """Of a node that is killed, the ring gives the slots to the other one, which then is the owner."""
    wait_until("the queue is empty", watched.is_empty, SECONDS)
    keys = [f"queue/late/{number}" for number in range(10)]
    for key in keys:
        put(watched, key, b"first")
        assert client.get(key) == b"first"
    wait_until("the queue is empty", watched.is_empty, SECONDS)
    watched.cluster.nodes[1].kill()
    for key in keys:
        put(watched, key, b"second")
    wait_until("all are seen", lambda: [client.get(key) for key in keys] == [b"second"] * len(keys), 2 * SECONDS)
    # What the killed node had received is there again after 30 s, so only the others are waited for.
    assert watched.cluster.nodes[0].metrics().value("milena_events_delivered_total") > 0
