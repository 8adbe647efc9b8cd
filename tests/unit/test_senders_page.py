"""Each row of docs/senders.md is held by tests. HELD names them, by the beginning of the row's first cell."""

from __future__ import annotations

import re

from tests import readme

PAGE = readme.DOCS / "senders.md"
ANSWERS, ACCEPTOR = "tests/dicom/test_acceptor_answers.py", "tests/dicom/test_acceptor.py"
REAL, STATES = "tests/integration/test_acceptor.py", "tests/unit/test_acceptor.py"
STATUS, DOOR = "tests/unit/test_status.py", "tests/appliance/test_door.py"
IS_A_PROBLEM = f"{STATES}::test_what_may_keep_an_image_away_is_a_problem_for_a_quarter_of_an_hour"
IS_OVER = f"{STATES}::test_a_problem_is_over_once_the_sender_has_had_the_success_it_was_refused"
IS_NONE = f"{STATES}::test_what_keeps_no_image_away_is_counted_and_never_a_problem"
IDENTIFIERS = f"{REAL}::test_each_fault_of_identifiers_has_its_status_and_its_reason"
IMAGES = f"{REAL}::test_each_refusal_has_a_status_that_is_true_and_a_reason"
FILTER = f"{ANSWERS}::test_what_the_admission_filter_refuses_has_its_reason_and_the_next_image_is_taken"
NO_RELEASE = f"{ANSWERS}::test_an_association_without_a_release_is_audited_and_a_problem_only_in_the_middle_of_an_image"

HELD: dict[str, dict[str, tuple[str, ...]]] = {
    "refused": {
        "an image with 0xA900 or 0xC000": (IS_A_PROBLEM, IS_OVER),
        "an image with 0xA700; an association that ends": (IS_A_PROBLEM, IS_OVER, NO_RELEASE),
        "an association, by AE title": (
            IS_A_PROBLEM, IS_OVER, f"{ACCEPTOR}::test_a_refused_modality_is_a_problem",
        ),
        "a TLS handshake, for the certificate": (
            IS_A_PROBLEM, f"{ANSWERS}::test_a_certificate_of_another_authority_ends_the_handshake_and_is_a_problem",
        ),
        "all contexts": (
            IS_A_PROBLEM,
            f"{STATES}::test_an_association_without_any_context_for_its_images_is_another_kind_than_a_vendors_long_list",
        ),
        "some contexts": (IS_NONE, f"{ACCEPTOR}::test_normal_traffic_and_port_scans_are_no_problem"),
        "an association that ends between": (IS_NONE, NO_RELEASE),
        "a connection that is no DICOM": (
            IS_NONE,
            f"{ANSWERS}::test_what_is_not_dicom_is_aborted_audited_and_no_problem",
            f"{ANSWERS}::test_no_certificate_and_no_tls_end_the_handshake_and_are_no_problem",
        ),
    },
    "what the sender does": {
        "calls another AE title": (
            f"{ACCEPTOR}::test_a_rejected_association_is_audited",
            f"{ACCEPTOR}::test_the_called_title_may_be_written_in_any_case_and_reaches_the_gateway_as_it_is_set",
        ),
        "has no calling AE title": (f"{ACCEPTOR}::test_a_rejected_association_is_audited",),
        "is not in `senders`": (
            f"{ACCEPTOR}::test_a_sender_that_is_not_listed_is_rejected",
            "tests/unit/test_who_may_send.py::test_the_pair_of_title_and_address_decides",
        ),
        "has `gateway.associations_each`": (
            f"{ACCEPTOR}::test_one_address_cannot_use_up_all_associations",
            f"{ANSWERS}::test_all_senders_together_cannot_have_more_than_the_limit",
            f"{STATUS}::test_four_fifths_of_all_associations_are_a_problem_that_names_who_has_the_most",
        ),
        "sends images that ended ORTHANC1": (
            f"{ANSWERS}::test_three_crashes_of_the_gateway_hold_a_sender_off_and_are_audited",
            "tests/unit/test_hold_off.py::test_an_address_is_held_off_for_ten_minutes_after_three_crashes_within_ten",
            f"{STATUS}::test_an_address_that_is_held_off_is_a_problem",
        ),
        "comes while ORTHANC1 is down": (
            f"{ACCEPTOR}::test_a_gateway_that_is_down_is_a_transient_rejection",
            f"{ANSWERS}::test_a_gateway_that_is_down_is_waited_for_and_then_a_congestion",
            f"{ANSWERS}::test_the_figures_that_the_page_names",
        ),
        "by TLS: has no certificate": (
            f"{ANSWERS}::test_a_certificate_of_another_authority_ends_the_handshake_and_is_a_problem",
            f"{ANSWERS}::test_no_certificate_and_no_tls_end_the_handshake_and_are_no_problem",
        ),
        "asks for storage commitment": (
            "tests/appliance/test_commitment.py::test_who_is_not_in_the_list_is_refused_and_told",
        ),
        "sends something that is not DICOM": (
            f"{ANSWERS}::test_what_is_not_dicom_is_aborted_audited_and_no_problem",
        ),
        "begins an A-ASSOCIATE-RQ": (
            f"{ANSWERS}::test_a_request_that_does_not_come_whole_is_closed_and_no_event",
        ),
        "has the most of such connections": (
            f"{ACCEPTOR}::test_slow_connections_of_many_addresses_leave_room_for_one_of_another",
            f"{ANSWERS}::test_the_figures_that_the_page_names",
        ),
        "connects and sends nothing": (f"{ACCEPTOR}::test_a_connection_that_says_nothing_is_not_even_accepted",),
        "keeps an association open": (
            f"{ACCEPTOR}::test_an_idle_association_holds_none_at_the_gateway_and_goes_on",
            f"{ANSWERS}::test_an_idle_association_is_ended_in_the_end_and_is_no_problem",
            f"{ANSWERS}::test_a_peer_that_does_not_answer_the_kernel_is_gone_after_two_minutes",
            f"{ANSWERS}::test_the_figures_that_the_page_names",
        ),
        "falls silent in the middle": (
            f"{ACCEPTOR}::test_a_sender_that_falls_silent_in_an_image_is_ended_and_an_idle_one_later",
            f"{ANSWERS}::test_the_figures_that_the_page_names",
            NO_RELEASE,
        ),
        "aborts or closes the connection between": (NO_RELEASE,),
        "sends a message that DICOM does not allow": (
            f"{ACCEPTOR}::test_nonsense_ends_the_association_and_is_audited",
        ),
    },
    "what the sender proposes": {
        "a storage class of the standard": (
            f"{REAL}::test_every_storage_class_is_taken_in_each_transfer_syntax_that_orthanc_knows",
        ),
        "the same in a transfer syntax": (f"{REAL}::test_other_transfer_syntaxes_are_declined_and_named",),
        "C-ECHO, storage commitment": (f"{REAL}::test_echo_and_storage_commitment_are_accepted",),
        "C-FIND, C-MOVE": (f"{REAL}::test_no_query_is_offered",),
        "any other class": (
            f"{REAL}::test_a_class_without_images_of_a_patient_is_rejected_and_named",
            f"{REAL}::test_a_class_that_orthanc_does_not_know_is_taken_for_a_storage_class",
        ),
    },
    "what is wrong with the image": {
        "nothing": (f"{ACCEPTOR}::test_images_reach_the_gateway_and_its_answers_the_sender",),
        "nothing, but other content": (
            f"{DOOR}::test_a_corrected_image_under_the_same_uid_changes_nothing_on_disk_and_is_kept",
        ),
        "nothing, but its study": (
            "tests/unit/test_two_patients.py::test_both_studies_stay_and_the_later_one_waits_for_somebody_to_decide",
            f"{DOOR}::test_the_same_uids_under_two_patient_ids_are_two_studies",
        ),
        "standard elements have VR UN": (
            "tests/integration/test_forward.py::test_standard_elements_of_vr_un_are_published_with_the_images_beside_them",
        ),
        "SOP class or SOP instance UID have VR UN": (IDENTIFIERS,),
        "no SOPClassUID or SOPInstanceUID": (IDENTIFIERS,),
        "SOP class or SOP instance UID of the command and": (IMAGES, IDENTIFIERS),
        "a SOP class or SOP instance UID of more": (IMAGES, f"{ACCEPTOR}::test_a_uid_that_is_too_long_is_refused_with_its_reason"),
        "a PatientID, StudyInstanceUID or": (
            f"{REAL}::test_identifiers_longer_than_the_standard_allows_are_taken_and_published",
        ),
        "one of more than 256": (IDENTIFIERS,),
        "sequences nested": (FILTER, "tests/unit/test_nesting.py::test_the_door_refuses_what_is_too_deep"),
        "its encoding breaks PS3.5": (
            f"{REAL}::test_a_malformed_image_is_refused_and_the_next_one_taken_on_the_same_association",
            f"{REAL}::test_an_implicit_body_under_an_explicit_context_is_refused_in_time",
        ),
        "the disk has less free space": (FILTER, f"{DOOR}::test_without_the_reserve_the_modality_keeps_its_images"),
        "ORTHANC1 cannot store it": (
            f"{REAL}::test_what_orthanc_cannot_write_is_refused_so_that_it_is_sent_again",
            f"{ACCEPTOR}::test_a_failure_status_of_the_gateway_is_passed_on_with_its_reason",
            f"{DOOR}::test_what_cannot_be_kept_aside_is_not_acknowledged",
        ),
        "ORTHANC1 takes more than": (
            f"{ACCEPTOR}::test_a_gateway_that_hangs_costs_the_sender_a_failure_in_time",
            f"{ANSWERS}::test_a_gateway_has_a_second_more_for_each_10_mb",
            f"{ANSWERS}::test_the_figures_that_the_page_names",
        ),
        "for `gateway.answer_within` seconds": (
            f"{ACCEPTOR}::test_an_image_whose_turn_does_not_come_is_refused_and_may_come_again",
        ),
        "ORTHANC1 ended while": (
            f"{ACCEPTOR}::test_a_gateway_that_dies_with_an_image_costs_a_failure_that_says_try_again",
        ),
        "it comes while ORTHANC1 is down": (
            f"{ANSWERS}::test_an_image_that_comes_while_the_gateway_is_down_is_refused_and_the_next_one_taken",
        ),
    },
}  # fmt: skip
"""First heading of a table -> beginning of a row -> the tests that hold it."""


def test_every_table_and_every_row_is_held_and_nothing_else() -> None:
    headings = re.findall(r"^\| ([^|]+) \|.*\n\| ---", readme.text(PAGE), re.MULTILINE)
    assert headings == list(HELD)
    for heading, held in HELD.items():
        rows = [row[0] for row in readme.table(PAGE, heading)]
        assert readme.keys_of(rows, held) == list(held)


def test_every_test_named_exists() -> None:
    assert readme.not_held(HELD) == []
