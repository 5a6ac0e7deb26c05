"""Publish/subscribe: which connections get which messages, and the replies of its commands. For nodes and routers.

- `channels`: the subscriptions of the clients of one process, and the delivery of messages to them.
- `replies`: what SUBSCRIBE, UNSUBSCRIBE and PUBSUB reply, and the rule for RESP2 connections with a subscription.
- `between`: the commands by which a router subscribes at nodes.
"""
