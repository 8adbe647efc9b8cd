"""Each row of the threat model in docs/security.md is held by tests. HELD names them, by the beginning of the row's first cell."""

from __future__ import annotations

import re

from tests import readme

PAGE = readme.DOCS / "security.md"
PORTS, TLS, WEB = (
    "tests/appliance/test_ports.py",
    "tests/appliance/test_tls.py",
    "tests/appliance/test_web.py",
)
SENDERS, INSTALL = "tests/appliance/test_senders.py", "tests/appliance/test_install.py"
SILENT, LOCAL = "tests/appliance/test_silent_connections.py", "tests/appliance/test_local_users.py"
CONFINED, SECRETS = "tests/appliance/test_confinement.py", "tests/appliance/test_secrets.py"
HOSTILE, DOOR = "tests/appliance/test_hostile.py", "tests/appliance/test_door.py"
BACKUP, PROOF = "tests/appliance/test_backup.py", "tests/appliance/test_custody_proof.py"
RECEIVER, ACCEPTOR = "tests/dicom/test_hostile.py", "tests/dicom/test_acceptor.py"
LOST, LOGINS = "tests/unit/test_lost_images.py", "tests/unit/test_credentials.py"
RACED = "tests/appliance/test_planted_links.py::test_no_verb_of_root_changes_anything_elsewhere"
OWN_FOLDERS = f"{CONFINED}::test_a_unit_taken_over_writes_to_its_own_folders_alone"
NO_PASSWORDS = f"{CONFINED}::test_a_unit_taken_over_reads_no_passwords_unless_it_logs_in"
NO_SIGNALS = f"{CONFINED}::test_a_unit_taken_over_can_neither_stop_another_nor_look_into_it"

HELD: dict[str, dict[str, tuple[str, ...]]] = {
    "another machine of the network": {
        "send images": (
            f"{SENDERS}::test_the_pair_of_title_and_address_decides",
            f"{TLS}::test_a_sender_without_a_valid_certificate_sends_nothing_by_tls",
            f"{TLS}::test_only_closes_the_plain_port_and_the_self_test_goes_by_tls_too",
        ),
        "read or delete images by DICOM": (
            f"{PORTS}::test_as_installed_only_the_port_of_the_modalities_is_found",
            f"{SILENT}::test_what_is_for_this_machine_alone_answers_no_other_machine",
            f"{SENDERS}::test_storage_answers_the_extractor_of_this_machine_alone",
            f"{SENDERS}::test_a_receiver_that_listens_everywhere_still_speaks_to_this_machine_alone",
            "tests/integration/test_acceptor.py::test_no_query_is_offered",
        ),
        "read or delete images by the web": (
            f"{INSTALL}::test_http_from_the_lan_is_refused_even_with_the_right_login",
            f"{INSTALL}::test_the_default_login_of_orthanc_is_refused",
            f"{WEB}::test_no_password_is_one_that_is_known",
            f"{WEB}::test_pages_are_opened_by_https_and_login_and_in_no_other_way",
        ),
        "listen on the cable": (f"{TLS}::test_a_study_goes_by_tls_over_every_hop",),
        "keep the portal busy": (
            f"{SILENT}::test_a_study_goes_through_beside_a_thousand_connections_at_every_port",
            f"{SILENT}::test_people_use_up_few_places_and_the_portal_keeps_the_others",
            f"{ACCEPTOR}::test_the_oldest_connection_of_the_address_with_the_most_makes_room",
        ),
        "exhaust memory": (
            f"{RECEIVER}::test_the_receiver_lives_on_in_bounds_and_leaves_nothing",
            f"{CONFINED}::test_every_unit_has_limits_of_its_own",
            f"{DOOR}::test_without_the_reserve_the_modality_keeps_its_images",
        ),
    },
    "a modality that was taken over": {
        "reach more": (
            f"{TLS}::test_the_inner_hops_let_in_the_portals_own_certificates_alone",
            "tests/integration/test_acceptor.py::test_no_query_is_offered",
        ),
        "replace an image": (
            f"{DOOR}::test_a_corrected_image_under_the_same_uid_changes_nothing_on_disk_and_is_kept",
            f"{SENDERS}::test_a_known_image_with_other_content_of_a_stranger_is_not_acknowledged",
        ),
        "put a second line": (
            "tests/unit/test_printable.py::test_one_record_is_one_line",
            "tests/unit/test_printable.py::test_a_traceback_forges_no_line",
            "tests/unit/test_proof.py::test_a_name_cannot_command_the_terminal",
        ),
    },
    "a file, its content hostile,": {
        "leave its folder": (
            "tests/unit/test_identifiers.py::test_every_identifier_is_one_harmless_component",
            f"{HOSTILE}::test_hostile_identifiers_are_published_below_the_output_and_traced_by_their_real_name",
        ),
        "make a parser": (
            f"{RECEIVER}::test_the_receiver_lives_on_in_bounds_and_leaves_nothing",
            "tests/unit/test_fuzz.py::test_what_was_found_breaks_nothing",
        ),
        "end an Orthanc": (
            "tests/unit/test_nesting.py::test_the_door_refuses_what_is_too_deep",
            f"{HOSTILE}::test_a_crash_of_the_gateway_loses_no_acknowledged_image",
            f"{HOSTILE}::test_a_sender_whose_images_end_the_gateway_again_and_again_is_held_off",
        ),
        "be run": (f"{HOSTILE}::test_a_preamble_that_is_a_program_does_not_come_out",),
        "break out": (
            "tests/unit/test_inbox.py::test_a_zip_that_lists_millions_is_not_read",
            OWN_FOLDERS,
            NO_PASSWORDS,
        ),
    },
    "a user of the machine without rights": {
        "read images": (
            f"{CONFINED}::test_delivered_studies_are_for_user_and_group_ddwd_alone",
            f"{SECRETS}::test_no_password_can_be_read_by_any_other_user",
            f"{SECRETS}::test_nothing_of_a_patient_can_be_read_by_any_other_user",
        ),
        "take a port": (
            f"{LOCAL}::test_who_takes_a_port_while_its_service_restarts_hears_nothing_in_fifty_restarts",
            f"{LOCAL}::test_no_user_of_the_machine_takes_a_port_in_fifty_restarts",
            f"{LOCAL}::test_the_ports_stay_reserved_while_the_portal_is_stopped_and_after_a_boot",
            f"{LOCAL}::test_without_the_firewall_the_same_stranger_hears_the_portal",
            "tests/unit/test_doctor.py::test_who_holds_a_port_of_the_portal_is_named",
        ),
        "speak to": (
            f"{LOCAL}::test_the_inner_ports_answer_the_portal_and_root_and_nobody_else",
            f"{LOCAL}::test_a_user_without_rights_cannot_have_a_study_sent",
        ),
        "use up": (f"{LOCAL}::test_all_strangers_together_hold_few_connections_to_a_rest_interface",),
        "write audit records": (
            "tests/appliance/test_audit.py::test_what_a_local_user_forges_is_in_no_view_in_no_bundle_and_not_at_the_repository",
            "tests/appliance/test_chain.py::test_what_others_write_under_the_trail_s_name_is_not_entered",
        ),
    },
    "a member of group `ddwd`": {
        "change, delete or sign": (
            f"{PROOF}::test_nobody_but_the_signer_can_write_the_chain_or_read_its_key",
        ),
        "act under": (
            "tests/unit/test_requests.py::test_who_asked_is_the_owner_of_the_file_whatever_stands_in_it",
        ),
        "delete images": (
            f"{WEB}::test_a_change_leaves_an_event_that_says_who_what_and_from_where",
            f"{WEB}::test_who_deletes_images_is_named_by_every_view_until_they_are_back",
        ),
        "have root write": (RACED,),
    },
    "an Orthanc that was taken over": {
        "become superuser": (
            f"{BACKUP}::test_no_function_that_orthanc1_left_in_its_database_ever_runs_as_superuser",
            f"{BACKUP}::test_a_table_of_orthancs_with_a_trap_in_it_is_refused_and_the_portal_runs_on",
        ),
        "keep the extractor busy": (
            "tests/appliance/test_planted_links.py::test_what_the_gateway_s_user_planted_keeps_the_extractor_from_nothing",
            "tests/unit/test_conflicts.py::test_what_the_orthanc_s_user_planted_is_put_aside_and_keeps_nobody_waiting",
        ),
        "change images": (
            f"{BACKUP}::test_ten_bytes_changed_in_a_storage_area_or_in_the_backup_are_named_and_neither_touches_the_other",
            "tests/unit/test_proof.py::test_a_copy_that_changed_on_storage_is_named_with_storage_only",
        ),
        "acknowledge an image": (
            f"{LOST}::test_half_a_study_deleted_on_both_is_lost_on_both",
            f"{LOST}::test_a_study_that_is_gone_from_both_orthancs_is_in_neither_list_and_found_all_the_same",
        ),
        "read what another unit may": (
            OWN_FOLDERS,
            NO_PASSWORDS,
            f"{SECRETS}::test_an_orthanc_can_read_its_own_rendered_configuration_and_no_other_password",
        ),
    },
    "another service of ours that was taken over": {
        "become root": (RACED,),
        "read the others' passwords": (OWN_FOLDERS, NO_PASSWORDS, NO_SIGNALS),
        "change images and records": (
            f"{PROOF}::test_pixels_sha256_and_checksum_changed_together_by_user_ddwd_are_named",
            f"{PROOF}::test_a_record_that_user_ddwd_deletes_is_named",
            "tests/unit/test_chain_records.py::test_whatever_user_ddwd_does_to_records_and_images_is_found",
        ),
        "use its login": (
            f"{WEB}::test_a_login_of_a_unit_that_is_stolen_opens_nothing_else",
            f"{LOGINS}::test_a_unit_may_do_its_work_and_nothing_else",
        ),
        "replace the program": (
            "tests/unit/test_config.py::test_a_hook_that_others_can_write_or_replace_is_refused_in_one_line",
        ),
    },
}  # fmt: skip
"""First heading of a table, without "tries to" -> beginning of a row -> the tests that hold it."""


def test_every_position_and_every_row_is_held_and_nothing_else() -> None:
    headings = re.findall(r"^\| ([^|]+) tries to \|", readme.text(PAGE), re.MULTILINE)
    assert headings == list(HELD)
    for heading, held in HELD.items():
        rows = [row[0] for row in readme.table(PAGE, f"{heading} tries to")]
        assert readme.keys_of(rows, held) == list(held)


def test_every_test_named_exists() -> None:
    assert readme.not_held(HELD) == []
