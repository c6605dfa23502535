"""A versioned store in a DynamoDB table: a key is an item, its version a random number per write.

The cost of each operation, counted against dynalite 4.0 with boto3 1.44:

    get                     1 strongly consistent read
    put, create_if_absent   1 conditional write, never repeated here; `create_if_absent` makes a missing table
    delete                  1 conditional write, never repeated here
    list_keys, scan         1 query per MiB of values, strongly consistent; at least 16 if the prefix has no slash

*Partitions.* The first segment of a key decides its partition, one of 16 (`PARTITIONS`). The key itself is the sort
key. So all keys under `jobs/` are one query, in the order of code points, since DynamoDB compares the bytes of UTF-8.
All keys of the table are 16 queries, merged, without a table scan. See docs/decisions/0009-dynamodb-keys.md.

*Versions.* DynamoDB has none, so each write stores 128 random bits beside the value. A counter would start again after
a key was deleted and created once more. A random number never comes twice (ABA).
"""

from __future__ import annotations

import functools
import heapq
import re
import secrets
import time
import zlib
from typing import TYPE_CHECKING, Any

from mopsjobs.errors import MopsJobsError, StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.store.aws import client as aws
from mopsjobs.store.aws.urls import DYNAMODB_ENDPOINT
from mopsjobs.store.base import Entry, Versioned, VersionToken, WantsValues, always, check_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


CONDITION_FAILED = "ConditionalCheckFailedException"

NO_TABLE = "ResourceNotFoundException"

TABLE_EXISTS = "ResourceInUseException"

_PERMISSIONS = (
    "Allow dynamodb:GetItem and dynamodb:Query on the table; a writer needs dynamodb:PutItem and dynamodb:DeleteItem, "
    "too. The first write needs dynamodb:CreateTable and dynamodb:DescribeTable."
)

_CHECKSUM = "x-amz-crc32"


def check_whole(status: int, headers: Mapping[str, str], body: bytes, location: str) -> None:
    """Check that a reply is a complete one of DynamoDB, which sends the length and a checksum of each reply.

    The standard library accepts incomplete headers. boto3 accepts half of a reply with status 200, or the page of a
    captive portal, as an empty reply such as "no such item".

    Raises:
        StoreUnavailableError: if it is not. After a write the outcome is unknown.
    """
    problem = ""
    checksum = headers.get(_CHECKSUM)
    if not aws.is_framed(headers):
        problem = "a reply broke off in its headers"
    elif checksum is not None and checksum != str(zlib.crc32(body)):
        problem = "a reply was damaged on its way"
    elif checksum is None and status < 300:
        problem = "the server there is not DynamoDB"
    if problem:
        raise StoreUnavailableError(f"Cannot reach {location}: {problem}.", hint=aws.network_hint(DYNAMODB_ENDPOINT))


def explain(error: Exception, location: str, credential_source: str) -> MopsJobsError:
    """Return the error of the store's contract, in one sentence without secrets."""
    failure = aws.explain(error, location, credential_source, DYNAMODB_ENDPOINT, _PERMISSIONS)
    if aws.error_code(error) == "ValidationException":
        failure.hint = "Use a table that mops-jobs has made."
    return failure


PARTITIONS = 16
"""Partitions of a table. Part of the format: with another number, existing keys would not be found."""

PARTITION = "mops_partition"

KEY = "mops_key"

VERSION = "mops_version"

VALUE = "mops_value"

MAX_ITEM_BYTES = 400 * 2**10
"""DynamoDB's limit for an item: its values, and the names of its attributes."""

MAX_PREFIX_BYTES = 1024
"""DynamoDB's limit for a sort key, and for what one is compared with."""

TABLE_SECONDS = 60
"""How long a writer waits for a new table. AWS takes about ten seconds."""

_VERSION = re.compile(r"[0-9a-f]{32}")

_EXISTS = f"attribute_exists({KEY})"

_IS_ABSENT = f"attribute_not_exists({KEY})"

_IS_CURRENT = f"{VERSION} = :current"


class DynamoDBVersionedStore(aws.AwsStore):
    """The contract of `VersionedStore` over one table, which the first write creates (on-demand billing).

    Reading needs `dynamodb:GetItem` and `dynamodb:Query`, and no other permission. boto3 finds credentials, region and
    endpoint at the first use.

    Args:
        table: its name.
        page_size: items per page of a listing; None for DynamoDB's own limit of 1 MiB.
        sleep: waits for a number of seconds between two attempts at a read.
        clock: returns the seconds from any start, and never goes back.
    """

    max_value_bytes = MAX_ITEM_BYTES - 8 * 2**10
    """The largest value, about: its item has the key, too."""

    def __init__(
        self,
        table: str,
        *,
        page_size: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            "dynamodb", f"dynamodb://{table}", explain, on_reply=self._check_whole, sleep=sleep, clock=clock
        )
        self._table = table
        self._page_size = page_size

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""
        check_key(key)
        reply = self._query_or_get("get_item", Key=_place(key), ConsistentRead=True)
        item = None if reply is None else reply.get("Item")
        if item is None:
            return None
        entry = self._entry(item)
        if entry.key != key or entry.value is None:
            raise StoreError(f"unexpected response from {self.location}: not the item of the key.")
        return Versioned(entry.value, entry.version)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`."""
        item = _item(check_key(key), value)
        # A version in another form never matches, and may be too long for an expression.
        current = version.value if _VERSION.fullmatch(version.value) else "none"
        landed = self._write(
            "put_item",
            Item=item,
            ConditionExpression=_IS_CURRENT,
            ExpressionAttributeValues={":current": {"S": current}},
        )
        return VersionToken(item[VERSION]["S"]) if landed else None

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`."""
        item = _item(check_key(key), value)
        create = functools.partial(self._write, "put_item", Item=item, ConditionExpression=_IS_ABSENT)
        landed = create()
        if landed is None:
            self._create_table()
            landed = create()
        return VersionToken(item[VERSION]["S"]) if landed else None

    def delete(self, key: str) -> bool:
        """See `VersionedStore.delete`."""
        return bool(self._write("delete_item", Key=_place(check_key(key)), ConditionExpression=_EXISTS))

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list_keys`. Costs as much as `scan`: DynamoDB bills what it reads, not what it sends."""
        return (entry.key for entry in self._entries(prefix, (KEY, VERSION)))

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`. Each entry has its value."""
        return self._entries(prefix, (KEY, VERSION, VALUE), after)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _send(self, operation: str, **arguments: Any) -> Any:
        return getattr(self.connect(), operation)(TableName=self._table, **arguments)

    def _check_whole(self, response_dict: Mapping[str, Any]) -> None:
        check_whole(response_dict["status_code"], response_dict["headers"], response_dict["body"], self.location)

    def _query_or_get(self, operation: str, **arguments: Any) -> Any:
        """Return the reply to a read; None if there is no table."""

        def attempt() -> Any:
            try:
                return self._send(operation, **arguments)
            except Exception as error:
                if aws.error_code(error) == NO_TABLE:
                    return None
                raise

        return self._read(attempt, is_small=operation == "get_item")

    def _write(self, operation: str, **arguments: Any) -> bool | None:
        """Send a write, once. Return False if its condition does not hold, None if there is no table."""
        try:
            self._send(operation, **arguments)
        except Exception as error:  # noqa: BLE001 - as in `connect`
            if aws.error_code(error) == CONDITION_FAILED:
                return False
            if aws.error_code(error) == NO_TABLE:
                return None
            raise self.explain(error) from None
        return True

    def _create_table(self) -> None:
        """Create the table, unless another writer does, and wait until it is ready."""
        names = {PARTITION: "HASH", KEY: "RANGE"}
        try:
            try:
                self._send(
                    "create_table",
                    AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
                    KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
                    BillingMode="PAY_PER_REQUEST",
                )
            except Exception as error:
                if aws.error_code(error) != TABLE_EXISTS:
                    raise
            waiter = self.connect().get_waiter("table_exists")
            waiter.wait(TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": TABLE_SECONDS})
        except Exception as error:  # noqa: BLE001 - as in `connect`
            raise self.explain(error) from None

    # --- listings ---------------------------------------------------------------------------------------------------

    def _entries(self, prefix: str, attributes: tuple[str, ...], after: str = "") -> Iterator[Entry]:
        segment, slash, _ = prefix.partition("/")
        partitions = [_partition(segment)] if slash else [f"{number:x}" for number in range(PARTITIONS)]
        streams = [self._query(partition, prefix, attributes, after) for partition in partitions]
        return heapq.merge(*streams, key=lambda entry: entry.key)

    def _query(self, partition: str, prefix: str, attributes: tuple[str, ...], after: str) -> Iterator[Entry]:
        """Yield the entries of one partition under a prefix and after a key, in the order of the sort keys."""
        arguments: dict[str, Any] = {
            "KeyConditionExpression": f"{PARTITION} = :partition",
            "ExpressionAttributeValues": {":partition": {"S": partition}},
            "ProjectionExpression": ", ".join(attributes),
            "ConsistentRead": True,
        }
        if self._page_size is not None:
            arguments["Limit"] = self._page_size
        if after > prefix:
            # A query takes one condition on the sort key, so it may read a page behind the prefix.
            arguments["KeyConditionExpression"] += f" AND {KEY} >= :first"
            arguments["ExpressionAttributeValues"][":first"] = {"S": _head(after)}
        elif prefix:
            arguments["KeyConditionExpression"] += f" AND begins_with({KEY}, :prefix)"
            arguments["ExpressionAttributeValues"][":prefix"] = {"S": _head(prefix)}
        while True:
            reply = self._query_or_get("query", **arguments)
            if reply is None:
                if "ExclusiveStartKey" in arguments:
                    raise StoreError(f"{self.location} was deleted while it was listed.")
                return
            if "Items" not in reply:
                raise StoreError(f"unexpected response from {self.location}: not a page of items.")
            for item in reply["Items"]:
                entry = self._entry(item)
                if entry.key.startswith(prefix) and entry.key > after:
                    yield entry
                elif entry.key > prefix and not entry.key.startswith(prefix):
                    return
            if not reply.get("LastEvaluatedKey"):
                return
            arguments["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

    def _entry(self, item: dict[str, Any]) -> Entry:
        try:
            key, version = item[KEY]["S"], item[VERSION]["S"]
            value = item[VALUE]["B"] if VALUE in item else None
        except (KeyError, TypeError):
            raise StoreError(f"{self.location} has an item of another program.") from None
        return Entry(key, VersionToken(version), value, None if value is None else len(value))


def _partition(segment: str) -> str:
    return f"{zlib.crc32(segment.encode()) % PARTITIONS:x}"


def _head(text: str) -> str:
    """Return as much of a prefix, or of the key before a listing, as a condition may have."""
    return text.encode()[:MAX_PREFIX_BYTES].decode(errors="ignore")


def _place(key: str) -> dict[str, Any]:
    """Return the primary key of the item for `key`."""
    return {PARTITION: {"S": _partition(key.partition("/")[0])}, KEY: {"S": key}}


def _item(key: str, value: bytes) -> dict[str, Any]:
    """Return the item for `key`, with a new version.

    Raises:
        ValueTooLargeError: if it is larger than an item of DynamoDB may be.
    """
    item = {**_place(key), VERSION: {"S": secrets.token_hex(16)}, VALUE: {"B": bytes(value)}}
    size = sum(len(name) + len(field.get("B") or field.get("S", "").encode()) for name, field in item.items())
    if size > MAX_ITEM_BYTES:
        most = MAX_ITEM_BYTES - (size - len(value))
        raise ValueTooLargeError(
            f"invalid value for {key} of {len(value)} bytes: expected at most {most} in DynamoDB.",
            hint="For large outputs and bundles, use a registry in Azure or in a SQLite file.",
        )
    return item
