"""The XML of Azure's listings, and how many keys the next page asks for. A real server: tests/contract/."""

from __future__ import annotations

import gc
import weakref

import pytest

from mopsjobs.store import open_store
from mopsjobs.store.azure import listing
from mopsjobs.store.azure.listing import FIRST_PAGE_KEYS, MAX_PAGE_KEYS, Blob, ListingError, Page, next_size, parse

BLOB = (
    "<Blob><Name>{name}</Name><Properties><Etag>0x1</Etag><Content-Length>3</Content-Length>"
    "<Content-MD5>bWQ1</Content-MD5></Properties>{rest}</Blob>"
)

FOLDER = "<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>"
"""What marks a folder, together with a length of 0."""


def page(*blobs: str, end: str = "<NextMarker/>") -> bytes:
    return (
        f'<?xml version="1.0"?><EnumerationResults><Blobs>{"".join(blobs)}</Blobs>{end}</EnumerationResults>'.encode()
    )


def blob(name: str, rest: str = "") -> str:
    return BLOB.format(name=name, rest=rest)


def test_a_page_tells_of_each_blob_and_where_to_go_on() -> None:
    body = page(
        blob("a", "<Metadata><mopsvalue>eJw=</mopsvalue></Metadata>"),
        blob("b/", FOLDER).replace(">3<", ">0<"),
        blob("c"),
        end="<NextMarker>2!88!x</NextMarker>",
    )
    assert parse(body) == Page(
        [
            Blob("a", "0x1", 3, "bWQ1", "eJw=", is_folder=False),
            Blob("b/", "0x1", 0, "bWQ1", None, is_folder=True),
            Blob("c", "0x1", 3, "bWQ1", None, is_folder=False),
        ],
        "2!88!x",
        len(body),
    )


def test_metadata_alone_make_no_folder() -> None:
    """Any writer may set them: a blob with content, or named like a record, is listed whatever they say."""
    body = page(
        blob("a", FOLDER),
        blob("jobs/b/state.json", FOLDER),
        blob("jobs/c/state.json", FOLDER).replace(">3<", ">0<"),
        blob("jobs/c", FOLDER).replace(">3<", ">0<"),
    )
    assert [one.key for one in parse(body).blobs if one.is_folder] == ["jobs/c"]


def test_a_page_without_blobs_is_the_last() -> None:
    assert parse(page()) == Page([], "", len(page()))


def test_an_encoded_name_is_decoded_and_no_other() -> None:
    encoded = blob("x").replace("<Name>", '<Name Encoded="true">').replace("x<", "a%FFb%00<")
    names = [one.key for one in parse(page(blob("a%20b"), encoded)).blobs]
    assert names == ["a%20b", "a�b\0"]


@pytest.mark.parametrize(
    "name", ["Blob", "Blobs", "NextMarker", "Name", "Properties", "Metadata", "EnumerationResults"]
)
def test_metadata_may_be_called_like_parts_of_the_listing(name: str) -> None:
    """A writer of blobs chooses their names, and must not be able to lead the listing astray."""
    body = page(blob("a", f"<Metadata><{name}>jobs/z</{name}></Metadata>"), blob("b"))
    assert [one.key for one in parse(body).blobs] == ["a", "b"]
    assert parse(body).following == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Sign in",
        b"<html/>",
        page()[:-1],
        page().replace(b"EnumerationResults", b"Results"),
        page(blob("a").replace("<Name>a</Name>", "")),
        page(blob("")),
        page(blob("a").replace(">3<", ">three<")),
        page(blob("a").replace("Properties", "Other")),
        page("<Blob/>"),
        page(blob("a", blob("b"))),
        page(f"<Folder>{blob('a')}</Folder>"),
        b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>]>" + page(blob("&a;&b;")),
    ],
    ids=[
        "nothing", "no XML", "HTML", "cut", "other root", "no name", "empty name", "no length", "no properties",
        "empty blob", "nested", "elsewhere", "unknown entity",
    ],
)  # fmt: skip
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    """It would look like blobs that are not there."""
    with pytest.raises(ListingError):
        parse(body)


def test_a_page_is_as_large_as_the_server_allows() -> None:
    """Smaller where it is so slow that it would look unreachable, or where other programs write 8 KiB of metadata."""
    assert next_size(10, 0.1) == FIRST_PAGE_KEYS
    assert next_size(1000, 0.1) == 2000
    assert next_size(4000, 0.2) == MAX_PAGE_KEYS
    assert next_size(1000, 0.8) == next_size(5000, 4.0) == 1250
    assert next_size(1000, 60) == listing.MIN_PAGE_KEYS
    assert next_size(2000, 0.2, page_bytes=2 * listing.MAX_PAGE_BYTES) == 1000


# --- A store over a container, without a server ----------------------------------------------------------------------

CONNECTION = "AccountName=acme;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/acme;"


def test_a_dropped_store_is_freed_without_a_garbage_collection() -> None:
    """Its connections end with it. A process that opens many stores would else run out of open files."""
    gc.collect()
    gc.disable()
    try:
        store = open_store("azure://jobs", {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION})
        freed = weakref.ref(store)
        del store
        assert freed() is None
    finally:
        gc.enable()
