"""Shell. The queue of S3's events: SQS, through boto3.

boto3 is here for S3 already, with the credentials and their renewal. Its calls block, so they run on threads: one
of them waits for messages most of the time. (aiobotocore would pin botocore to some other version; what SQS sends
over HTTP, signed by hand, would be a protocol more to keep up with.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import botocore.exceptions as botocore_errors

from milena_cache.events.queue import MAX_MESSAGES, Message, QueueFailure
from milena_cache.origin.clients.boto3_session import make_queue_client
from milena_cache.origin.s3.credentials import Credentials, CredentialsUnavailable, Held
from milena_cache.origin.s3.event_queue import EventSettings
from milena_cache.origin.s3.proxy import Proxy

T = TypeVar("T")

# Seconds that a request for messages waits for some, which is SQS's greatest.
WAIT_SECONDS: Final = 20
# Seconds for which no other reader gets a message that was received.
VISIBILITY_SECONDS: Final = 30
# One request for messages, and those of the batches that are delivered meanwhile.
THREADS: Final = 5
# Codes of errors after which the credentials may have expired earlier than their source had said.
EXPIRED: Final = ("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException")


class Boto3Queue:
    """A queue of SQS. Raises ConfigError if the file with its proxy cannot be used."""

    def __init__(self, credentials: Credentials, settings: EventSettings) -> None:
        self._credentials = credentials
        self._settings = settings
        self._proxy = Proxy(settings.service)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sqs")
        self._client: Any = None
        self._made_for: tuple[object, ...] = ()

    async def receive(self) -> Sequence[Message]:
        """Do `Queue.receive`."""
        response = await self._call(
            lambda client: client.receive_message(
                QueueUrl=self._settings.queue_url,
                MaxNumberOfMessages=MAX_MESSAGES,
                WaitTimeSeconds=WAIT_SECONDS,
                VisibilityTimeout=VISIBILITY_SECONDS,
                # Newer names of it are not known to every implementation of SQS.
                AttributeNames=["ApproximateReceiveCount"],
            )
        )
        return [
            Message(
                found.get("Body", ""),
                found["ReceiptHandle"],
                int(found.get("Attributes", {}).get("ApproximateReceiveCount", "1")),
            )
            for found in response.get("Messages", ())
        ]

    async def delete(self, receipts: Sequence[str]) -> None:
        """Do `Queue.delete`."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        self._check(
            await self._call(
                lambda client: client.delete_message_batch(QueueUrl=self._settings.queue_url, Entries=entries)
            )
        )

    async def postpone(self, messages: Sequence[tuple[str, int]]) -> None:
        """Do `Queue.postpone`."""
        entries = [
            {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
            for number, (receipt, seconds) in enumerate(messages)
        ]
        self._check(
            await self._call(
                lambda client: client.change_message_visibility_batch(
                    QueueUrl=self._settings.queue_url, Entries=entries
                )
            )
        )

    def _check(self, response: Any) -> None:
        """Raise QueueFailure if the request failed for a part of its messages."""
        failed = response.get("Failed", ())
        if failed:
            raise QueueFailure(f"{len(failed)} messages: {failed[0].get('Code')}: {failed[0].get('Message')}"[:300])

    async def _call(self, request: Callable[[Any], T]) -> T:
        credentials = self._credentials
        generation = credentials.generation
        try:
            held = await credentials.obtain()
        except CredentialsUnavailable as error:
            raise QueueFailure(f"no credentials: {error}") from None
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: request(self._client_for(held))
            )
        except botocore_errors.ClientError as error:
            about = error.response.get("Error", {})
            if about.get("Code") in EXPIRED:
                await credentials.renew(generation)
            raise QueueFailure(self._redact(f"{about.get('Code')}: {about.get('Message')}")) from None
        except (botocore_errors.BotoCoreError, botocore_errors.HTTPClientError, OSError, ValueError) as error:
            raise QueueFailure(self._redact(f"{type(error).__name__}: {error}")) from None

    def _client_for(self, held: Held) -> Any:
        """Return the client with these credentials, created at their first use. On a thread."""
        proxy = self._proxy.url()
        made_for = (*held[:3], proxy)
        with self._credentials.making:
            if self._client is None or self._made_for != made_for:
                self._client = make_queue_client(self._settings.service, held, proxy, WAIT_SECONDS)
                self._made_for = made_for
            return self._client

    def _redact(self, text: str) -> str:
        return self._proxy.redact(self._credentials.redact(text))[:300]

    def close(self) -> None:
        """End the threads without waiting for a request for messages: the queue returns later what it brings."""
        self._threads.shutdown(wait=False, cancel_futures=True)
