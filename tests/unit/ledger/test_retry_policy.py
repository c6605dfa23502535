"""The causes of another attempt: what may be asked for, and what a record of another program may say."""

from __future__ import annotations

import pytest

from mopsjobs.errors import OptionError
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.ledger.retry_policy import RetryPolicy, parse_causes, recorded_policy, retry_policy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "invalid retry_on '': expected some of oom, timeout, died and error:TYPE"),
        ("oom,", "invalid retry_on '': "),
        ("dead", "invalid retry_on 'dead': "),
        ("oomm", "Did you mean 'oom'?"),
        ("failed", "invalid retry_on 'failed': "),
        ("error:", "invalid retry_on 'error:': "),
        ("error:Value Error", "invalid retry_on 'error:Value Error': "),
        ("ConnectionError", "Did you mean 'error:ConnectionError'?"),
    ],
)
def test_an_unknown_cause_is_named(text: str, told: str) -> None:
    """`failed` is none: an error is only tried again by its type."""
    with pytest.raises(OptionError) as caught:
        parse_causes(text)
    assert told in str(caught.value)
    assert caught.value.fields == ("retry_on",)


def test_the_kernel_may_have_killed_a_task_for_the_memory_of_others() -> None:
    """So that counts as the death of a worker, too. A limit that the task itself exceeded does not."""
    policy = retry_policy(None, None)
    assert policy.tries_again(1, Outcome.OOM, "OutOfMemory")
    assert not policy.tries_again(2, Outcome.OOM, "OutOfMemory")
    assert not policy.tries_again(1, Outcome.OOM, "MemoryLimit")
    assert not policy.tries_again(1, Outcome.OOM, "MemoryError")
    assert retry_policy(3, "oom").tries_again(3, Outcome.OOM, "MemoryLimit")


def test_only_an_error_of_the_model_waits_for_its_next_attempt() -> None:
    policy = RetryPolicy()
    assert [policy.pause(attempt, Outcome.FAILED) for attempt in (1, 2, 3, 7, 99)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    assert {policy.pause(1, outcome) for outcome in (Outcome.OOM, Outcome.TIMEOUT, Outcome.DIED)} == {0.0}


def test_a_record_that_says_nonsense_stands_for_the_default() -> None:
    """Any writer of the registry may have written it."""
    assert recorded_policy({"retries": "3", "retry_on": "oom,error:OSError"}) == RetryPolicy(
        3, frozenset({"oom", "error:OSError"})
    )
    for recorded in ({"retries": "-3"}, {"retries": "9" * 30}, {"retry_on": "everything"}, {"retry_on": ""}):
        assert recorded_policy(recorded) == RetryPolicy()
