"""Changes of the bucket by other programs, as S3 reports them to a queue (S3_EVENTS_QUEUE_URL).

    S3 ─▶ (SNS, EventBridge) ─▶ SQS ─▶ sqs ─▶ consumer ─▶ delivery ─▶ the owner's changes ─▶ memory, blocks

`message` reads a message, `consumer` has its changes delivered, and `delivery` passes each to the node that owns
the object. Each node reads a share of the queue: SQS gives a message to one reader at a time. `heartbeat` has one
node write an object whose own events measure how late events are, and `trust` concludes from them up to which age
entries are as good as fresh.

Invariants:
1. An event has no value: it only has a node read S3 again. So it may come twice, late, and in any order.
2. A message is deleted from the queue only after all nodes that it concerns have replied that they have dropped
   what they had. Otherwise the queue returns it, to any node.
3. The owner drops what it has before it says whether it still is the owner: whatever a ring that changes does, some
   node that serves the object afterwards gets the event.
4. Without events for a while, an entry is served as long as it would be without a queue.
"""
