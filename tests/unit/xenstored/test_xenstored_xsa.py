"""Which test holds which lesson of the Xen security advisories on xenstored."""

import ast
from pathlib import Path

import pytest

LESSONS = {
    "XSA-72 an answer longer than a message": "requests::test_long_directory_needs_parts",
    "XSA-115 events of unreadable nodes": "watches::test_unreadable_nodes_are_not_told",
    "XSA-115 special events are privileged": "watches::test_special_events_are_privileged",
    "XSA-115 IS_DOMAIN_INTRODUCED is privileged": "requests::test_only_the_control_domain",
    "XSA-115 WATCH ignores its transaction": "requests::test_transaction_that_is_not_there",
    "XSA-206 one writer starves others": "quotas::test_writer_with_others_transactions_open_is_slowed_down",
    "XSA-322 nodes and permissions of a domain that is gone": "domains::test_release_removes_nodes_and_permissions",
    "XSA-323 length of a path": "paths::test_lengths",
    "XSA-324 an event longer than a message": "watches::test_event_that_fits_no_message_is_dropped",
    "XSA-325 a bad client loses its @releaseDomain": "quotas::test_oversize_message_ends_the_connection_alone",
    "XSA-326 unread answers": "quotas::test_outstanding_answers_stop_the_reading",
    "XSA-326 unread events": "quotas::test_events_that_others_do_not_read_stop_the_reading",
    "XSA-326 memory": "quotas::test_unread_events_of_a_guest_are_bounded_by_its_memory",
    "XSA-326 events that are never read": "quotas::test_events_unread_for_20_seconds_are_dropped",
    "XSA-326 equal events": "watches::test_equal_unsent_events_are_merged",
    "XSA-326 nodes of a transaction": "quotas::test_transaction_touches_at_most_1024_nodes",
    "XSA-330 RESET_WATCHES and every index": "watches::test_reset_removes_from_every_index",
    "XSA-352 the owner is changed by the control domain": "permissions::test_only_the_control_domain_changes_the_owner",
    "XSA-353 the root's permissions": "permissions::test_root_is_checked",
    "XSA-414 a creation that fails half way": "transactions::test_failed_creation_outside_a_transaction_leaves_nothing",
    "XSA-415 half of a transaction": "transactions::test_failed_creation_spoils_the_transaction",
    "XSA-416 open transactions' memory": "quotas::test_open_transactions_count_as_memory",
    "XSA-417 an id is used again": "domains::test_id_used_again_inherits_nothing",
    "XSA-418 recursion on a deep path": "paths::test_1500_levels",
    "XSA-419 nodes of others below a domain that is gone": "domains::test_release_removes_nodes_and_permissions",
    "XSA-420 an impossible length": "quotas::test_oversize_message_ends_the_connection_alone",
    "XSA-421 made and removed in one transaction": "transactions::test_created_and_deleted_in_the_same_transaction",
    "XSA-425 a connection dies while others are told": "domains::test_connection_that_dies_while_others_are_told",
    "XSA-481 odd paths": "paths::test_canonical_form_is_good_or_refused",
    "XSA-483 quota usage of a domain that is gone": "domains::test_release_leaves_no_account",
    "XSA-484 RESET_WATCHES within a transaction": "transactions::test_reset_within_a_transaction_drops_it",
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson_has_its_test(lesson: str) -> None:
    file, _, function = LESSONS[lesson].partition("::")
    tree = ast.parse(Path(__file__).with_name(f"test_xenstored_{file}.py").read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
