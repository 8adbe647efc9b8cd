"""The codes of all problems, with what each means, how it shows and what to do. ddwd-problems(7) is made of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple


class Code(StrEnum):
    """The kind of a problem: the same word in every view, in JSON, alerts and metrics. A released code keeps its meaning."""

    POSTGRESQL_DOWN = "postgresql-down"
    DATABASE_REFUSES = "database-refuses"
    UNIT_DOWN = "unit-down"
    NOT_AT_BOOT = "not-at-boot"
    NO_SYSTEMD = "no-systemd"
    SETTINGS_INVALID = "settings-invalid"
    SETTINGS_NOT_APPLIED = "settings-not-applied"
    SETTINGS_LOSE_IMAGES = "settings-lose-images"
    PORT_HELD = "port-held"
    LOGIN_UNREADABLE = "login-unreadable"
    ORTHANC_SILENT = "orthanc-silent"
    ORTHANC_DATABASE = "orthanc-database"
    PLUGIN_MISSING = "plugin-missing"
    KNOWN_WEAKNESS = "known-weakness"
    DAEMON_SILENT = "daemon-silent"
    ECHO_SILENT = "echo-silent"
    PEER_UNREACHED = "peer-unreached"
    LEDGER_UNREACHED = "ledger-unreached"
    HOP_UNREACHED = "hop-unreached"
    HOP_STILL = "hop-still"
    HOP_SLOW = "hop-slow"
    VOLUME_READ_ONLY = "volume-read-only"
    VOLUME_UNREADABLE = "volume-unreadable"
    VOLUME_FULL = "volume-full"
    VOLUME_SHORT = "volume-short"
    FOLDER_MISSING = "folder-missing"
    FOLDER_OWNER = "folder-owner"
    OPEN_TO_ALL = "open-to-all"
    CLOCK_UNSYNCHRONISED = "clock-unsynchronised"
    CLOCK_DIFFERS = "clock-differs"
    CERTIFICATE_UNREADABLE = "certificate-unreadable"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_EXPIRES = "certificate-expires"
    NO_CERTIFICATE = "no-certificate"
    ASSOCIATIONS_FULL = "associations-full"
    SENDER_HELD_OFF = "sender-held-off"
    SENDER_REFUSED = "sender-refused"
    SENDER_WAS_REFUSED = "sender-was-refused"
    SENDER_SILENT = "sender-silent"
    SENDERS_OPEN = "senders-open"
    FIREWALL_MISSING = "firewall-missing"
    FIREWALL_LEFT = "firewall-left"
    NO_FIREWALL = "no-firewall"
    CHAIN_BROKEN = "chain-broken"
    CHAIN_BEHIND = "chain-behind"
    CHAIN_UNPUBLISHED = "chain-unpublished"
    NOT_COMPARED = "not-compared"
    IMAGES_LOST = "images-lost"
    IMAGES_REFUSED = "images-refused"
    STUDIES_WAIT = "studies-wait"
    STUDIES_HELD = "studies-held"
    TWO_PATIENTS = "two-patients"
    QUARANTINE = "quarantine"
    OBJECTS_ASIDE = "objects-aside"
    FILES_REJECTED = "files-rejected"
    PAUSED = "paused"
    DESTINATION_SILENT = "destination-silent"
    DESTINATION_REFUSES = "destination-refuses"
    DESTINATION_UNKNOWN = "destination-unknown"
    HOOKS_FAIL = "hooks-fail"
    RETENTION_OFF = "retention-off"
    RETENTION_FAILED = "retention-failed"
    RETENTION_KEEPS = "retention-keeps"
    RETENTION_LATE = "retention-late"
    SELF_TEST_FAILED = "self-test-failed"
    SELF_TEST_UNKNOWN = "self-test-unknown"
    NOT_CHECKED = "not-checked"
    CHECK_FAILED = "check-failed"


class Entry(NamedTuple):
    """What the reference says of a code: its part of the portal, how bad it is, what it means, how it shows, and what to do."""

    part: str
    severity: Literal["NOTE", "WARN", "BROKEN"]
    meaning: str
    shows: str
    to_do: str


ENTRIES: dict[Code, Entry] = {
    Code.POSTGRESQL_DOWN: Entry(
        "PostgreSQL",
        "BROKEN",
        "The PostgreSQL server that holds the indexes of the Orthancs takes no connection.",
        "Both Orthancs answer with errors or stop. Modalities are refused, and keep their images.",
        "`systemctl start postgresql`; its log: `journalctl -u 'postgresql@*' -n 50`.",
    ),
    Code.DATABASE_REFUSES: Entry(
        "PostgreSQL",
        "BROKEN",
        "A database server on another machine refuses the login of an Orthanc.",
        "That Orthanc does not start, or answers with errors.",
        "Check the server, its `pg_hba.conf`, and the password in `database.url`.",
    ),
    Code.UNIT_DOWN: Entry(
        "units",
        "BROKEN",
        "A unit of the portal is not active: it was stopped, masked, failed, or is starting.",
        "The hop that it serves stands still. Images wait before it, none is lost.",
        "Its log says why: `journalctl -u UNIT -n 50`. A stopped one: `systemctl start ddwd`.",
    ),
    Code.NOT_AT_BOOT: Entry(
        "units",
        "WARN",
        "`ddwd.service` is not enabled.",
        "After a reboot nothing is received.",
        "`systemctl enable ddwd`.",
    ),
    Code.NO_SYSTEMD: Entry(
        "units",
        "NOTE",
        "systemd does not run here, as in a container or with `ddwd try`.",
        "Units are not shown; the daemons are known by their heartbeats.",
        "Nothing.",
    ),
    Code.SETTINGS_INVALID: Entry(
        "settings",
        "BROKEN",
        "A value of `ddwd.yaml`, or of an addition to an Orthanc, is not valid.",
        "The portal runs with its former settings, and would not start with these.",
        "`ddwd config check` names the line and what to write instead.",
    ),
    Code.SETTINGS_NOT_APPLIED: Entry(
        "configuration",
        "WARN",
        "The settings were changed after the portal was started.",
        "The portal runs with its former settings.",
        "`systemctl restart ddwd`.",
    ),
    Code.SETTINGS_LOSE_IMAGES: Entry(
        "configuration",
        "BROKEN",
        "An Orthanc runs with a value that can lose images.",
        "Nothing yet.",
        "`systemctl restart ddwd`, which renders the configuration anew.",
    ),
    Code.PORT_HELD: Entry(
        "ports",
        "BROKEN",
        "A process that is not the portal's holds a port of the portal.",
        "The service of that port cannot start.",
        "End that process (`ss -ltnp`), or give the portal another port in `ddwd.yaml`.",
    ),
    Code.LOGIN_UNREADABLE: Entry(
        "Orthancs",
        "BROKEN",
        "The logins of the Orthancs cannot be read, by this user or at all.",
        "What the Orthancs hold is not shown.",
        "Run it with sudo or as a member of group ddwd. Where there is no file: `systemctl start ddwd`.",
    ),
    Code.ORTHANC_SILENT: Entry(
        "Orthancs",
        "BROKEN",
        "An Orthanc does not answer: it is stopped, hangs, cannot be reached, or refuses the portal's login.",
        "gateway: modalities are refused, and keep their images. storage: images wait on the gateway.",
        "`journalctl -u ddwd-gateway -n 50` or `journalctl -u ddwd-storage -n 50`; one that hangs is restarted by its watchdog.",
    ),
    Code.ORTHANC_DATABASE: Entry(
        "Orthancs",
        "BROKEN",
        "An Orthanc has its index elsewhere than in PostgreSQL.",
        "It does not show what it received before.",
        "`systemctl restart ddwd`.",
    ),
    Code.PLUGIN_MISSING: Entry(
        "Orthancs",
        "BROKEN",
        "An Orthanc runs without its DICOMweb plugin.",
        "The gateway cannot send by STOW-RS, or storage cannot receive.",
        "`apt install orthanc-dicomweb`, then `systemctl restart ddwd`.",
    ),
    Code.KNOWN_WEAKNESS: Entry(
        "versions",
        "WARN",
        "The Orthanc in use is of a version with a published weakness. Debian may have corrected it without a new number.",
        "Nothing.",
        "`apt upgrade`, and let only your modalities reach it.",
    ),
    Code.DAEMON_SILENT: Entry(
        "daemons",
        "BROKEN",
        "A daemon of the portal has not written its heartbeat, or says that it does not work.",
        "acceptor: modalities are refused. scp: nothing is retrieved. extractor: nothing is forwarded a second time or published.",
        "`journalctl -u ddwd-acceptor -u ddwd-scp -u ddwd-extractor -n 50`; one that hangs is restarted by its watchdog.",
    ),
    Code.ECHO_SILENT: Entry(
        "C-ECHO",
        "BROKEN",
        "A DICOM port does not answer a C-ECHO under its AE title.",
        "No association is accepted there.",
        "`ss -ltnp` shows who listens on the port; the log of its unit says why it does not answer.",
    ),
    Code.PEER_UNREACHED: Entry(
        "daemons",
        "BROKEN",
        "The extractor does not reach an Orthanc that answers others.",
        "Studies wait before that Orthanc.",
        "The text has the answer: HTTP 401 is about the login (`systemctl restart ddwd`), a time-out about the network between the machines.",
    ),
    Code.LEDGER_UNREACHED: Entry(
        "daemons",
        "BROKEN",
        "The shared ledger of several extractors does not answer.",
        "No extractor works; studies wait on storage.",
        "Start its PostgreSQL server; `ledger.shared` in `ddwd.yaml` says where it is.",
    ),
    Code.HOP_UNREACHED: Entry(
        "hops",
        "BROKEN",
        "A part of the portal does not reach the next one, though both run.",
        "Images wait before that hop.",
        "The log of the next part; between two machines also the firewall and `journalctl -u ddwd-tls@link`.",
    ),
    Code.HOP_STILL: Entry(
        "hops",
        "WARN",
        "Images have waited before a hop for 15 seconds, and none has passed.",
        "The studies of these images are not complete on disk.",
        "`ddwd trace STUDY` of one that waits.",
    ),
    Code.HOP_SLOW: Entry(
        "hops",
        "WARN",
        "For two minutes ever more images have waited before a hop.",
        "Studies are complete on disk later than usual.",
        "Compare the load of processor and disk (`top`, `iostat`) with what the modalities send.",
    ),
    Code.VOLUME_READ_ONLY: Entry(
        "disk",
        "BROKEN",
        "A volume that the portal writes to is read-only. Linux makes it so after an error of the disk.",
        "Nothing is retrieved; studies wait on storage.",
        "`dmesg` says why; then `mount -o remount,rw PATH`.",
    ),
    Code.VOLUME_UNREADABLE: Entry(
        "disk",
        "BROKEN",
        "A folder of the portal cannot be looked at.",
        "Nothing is written there.",
        "Mount the volume, or give the folder back its rights.",
    ),
    Code.VOLUME_FULL: Entry(
        "disk",
        "BROKEN",
        "A volume has so little room left that the portal stops a part of its work, before the volume is full.",
        "First nothing is retrieved, then nothing forwarded, at last modalities are refused. What was acknowledged stays.",
        "Make room, set `retention`, or move `output_dir` to a larger volume.",
    ),
    Code.VOLUME_SHORT: Entry(
        "disk",
        "WARN",
        "A volume gets short of room.",
        "Nothing yet.",
        "Make room, set `retention`, or move `output_dir` to a larger volume.",
    ),
    Code.FOLDER_MISSING: Entry(
        "permissions",
        "BROKEN",
        "A folder of the portal does not exist.",
        "The daemons that write there fail.",
        "`systemctl restart ddwd` makes it; that of the output: `install -d -o ddwd -g ddwd -m 0750 PATH`.",
    ),
    Code.FOLDER_OWNER: Entry(
        "permissions",
        "BROKEN",
        "A folder does not belong to user ddwd, or is not writable for it.",
        "What goes there stays in the hop before.",
        "`chown ddwd:ddwd PATH; chmod 750 PATH`.",
    ),
    Code.OPEN_TO_ALL: Entry(
        "permissions",
        "BROKEN",
        "Patient data or passwords can be read by every user of the machine.",
        "Nothing.",
        "`chmod o= PATH`.",
    ),
    Code.CLOCK_UNSYNCHRONISED: Entry(
        "clock",
        "WARN",
        "No time server sets the clock of the machine.",
        "Times in logs, audit records and alerts drift.",
        "`timedatectl set-ntp true`, or chrony.",
    ),
    Code.CLOCK_DIFFERS: Entry(
        "clock",
        "BROKEN",
        "The clock of an Orthanc differs from that of this machine by more than five seconds.",
        "Times of a study contradict each other.",
        "`systemctl restart ddwd`; on two machines, set both clocks from one time server.",
    ),
    Code.CERTIFICATE_UNREADABLE: Entry(
        "certificates",
        "BROKEN",
        "A file of the settings holds no certificate that can be read.",
        "The connection that it is for is not made.",
        "Put a certificate in PEM form there.",
    ),
    Code.CERTIFICATE_EXPIRED: Entry(
        "certificates",
        "BROKEN",
        "A certificate is past its end.",
        "Peers refuse the connection.",
        "Put a new one there, then `systemctl restart ddwd`.",
    ),
    Code.CERTIFICATE_EXPIRES: Entry(
        "certificates",
        "WARN",
        "A certificate ends within 30 days.",
        "Nothing yet.",
        "Put a new one there, then `systemctl restart ddwd`.",
    ),
    Code.NO_CERTIFICATE: Entry(
        "certificates",
        "NOTE",
        "No certificate is in use.",
        "DICOM and the web pages are not encrypted.",
        "docs/encryption.md, where the network is not trusted.",
    ),
    Code.ASSOCIATIONS_FULL: Entry(
        "senders",
        "BROKEN",
        "Four fifths or more of the associations of a part are open.",
        "When all are, every further one is rejected.",
        "See who holds them: `ddwd status`. For the gateway: `gateway.associations` in `ddwd.yaml`.",
    ),
    Code.SENDER_HELD_OFF: Entry(
        "senders",
        "BROKEN",
        "Images of one address ended the gateway again and again; the address is held off for some minutes.",
        "Its associations are rejected, those of all others are served.",
        "`journalctl -t ddwd-audit DDWD_EVENT=sender-held-off`; tell the vendor which object it was.",
    ),
    Code.SENDER_REFUSED: Entry(
        "senders",
        "BROKEN",
        "A modality is refused now: an association or an image, with the reason.",
        "Its images do not come in. The modality keeps them.",
        "docs/senders.md, by the reason; `ddwd-top`, key s, shows all of them.",
    ),
    Code.SENDER_WAS_REFUSED: Entry(
        "senders",
        "WARN",
        "A modality was refused within the last hour, and has sent successfully since, or given up.",
        "An image may not have come in.",
        "docs/senders.md, by the reason.",
    ),
    Code.SENDER_SILENT: Entry(
        "senders",
        "WARN",
        "A modality that has sent at this hour in each of the last weeks has not sent.",
        "Nothing comes from it.",
        "Look at the modality and its network; it may be switched off.",
    ),
    Code.SENDERS_OPEN: Entry(
        "senders",
        "WARN",
        "`senders` in `ddwd.yaml` is empty.",
        "Whoever reaches the DICOM port may send, by any AE title.",
        "List the modalities in `senders`.",
    ),
    Code.FIREWALL_MISSING: Entry(
        "firewall",
        "BROKEN",
        "`network.firewall` is true, and the table of nftables is missing.",
        "Ports that the firewall should close are open.",
        "`systemctl restart ddwd-firewall`; `journalctl -u ddwd-firewall -n 20`.",
    ),
    Code.FIREWALL_LEFT: Entry(
        "firewall",
        "WARN",
        "`network.firewall` is false, and the table of nftables still exists.",
        "Ports are closed that should be open.",
        "`systemctl restart ddwd-firewall`.",
    ),
    Code.NO_FIREWALL: Entry(
        "firewall",
        "NOTE",
        "The machine has no nftables, and the settings leave it at that.",
        "The Orthancs still answer this machine alone; any local user may take a port that is free.",
        "`apt install nftables`, then `systemctl restart ddwd-firewall`; or `network.firewall: false`.",
    ),
    Code.CHAIN_BROKEN: Entry(
        "chain",
        "BROKEN",
        "An entry of the chain of signed events was changed, removed or moved.",
        "No event is entered any more. Images flow.",
        "docs/custody-proof.md; `ddwd verify --all` names what is not as recorded.",
    ),
    Code.CHAIN_BEHIND: Entry(
        "chain",
        "BROKEN",
        "Events wait to be entered into the chain of signed events.",
        "They are in the journal, and are entered later.",
        "`journalctl -u ddwd-signer -n 50`.",
    ),
    Code.CHAIN_UNPUBLISHED: Entry(
        "chain",
        "BROKEN",
        "Signed heads of the chain do not get to the place that `chain` in `ddwd.yaml` names.",
        "A forgery by root would be seen only against older heads.",
        "The text has the reason; `journalctl -u ddwd-monitor -n 50`.",
    ),
    Code.NOT_COMPARED: Entry(
        "comparison",
        "WARN",
        "For a week not all studies were compared with both Orthancs and the disk.",
        "What was removed by hand may not be noticed.",
        "Check the load of the Orthancs, then `ddwd reconcile`.",
    ),
    Code.IMAGES_LOST: Entry(
        "waiting",
        "BROKEN",
        "An Orthanc is missing images of a published study, though retention did not remove them.",
        "The files on disk are there. An Orthanc does not show the images.",
        "`ddwd trace STUDY` says who removed them; `ddwd reconcile --dry-run` lists all.",
    ),
    Code.IMAGES_REFUSED: Entry(
        "waiting",
        "BROKEN",
        "Storage does not take an image, neither by STOW-RS nor by its REST interface.",
        "The study is not complete on disk. After some tries the image goes to quarantine, and the rest is published.",
        "`ddwd trace STUDY` has the words of storage.",
    ),
    Code.STUDIES_WAIT: Entry(
        "waiting",
        "BROKEN",
        "A step of a study failed twice or more in a row, and is tried again after a pause that grows.",
        "The study is not complete on disk.",
        "`ddwd trace STUDY` says which step and why; `ddwd retry STUDY` does not wait for the pause.",
    ),
    Code.STUDIES_HELD: Entry(
        "waiting",
        "BROKEN",
        "No route matches a study, so that it stays on the gateway.",
        "It is neither on storage nor on disk.",
        "`ddwd routes list`; add a route, or one without `when` as the last.",
    ),
    Code.TWO_PATIENTS: Entry(
        "waiting",
        "BROKEN",
        "A StudyInstanceUID is in use under the PatientIDs of two patients.",
        "The second of them is not published before somebody decides.",
        "`ddwd quarantine list`, then `ddwd quarantine release ID`.",
    ),
    Code.QUARANTINE: Entry(
        "waiting",
        "WARN",
        "Images are in quarantine, as those that came again with other content.",
        "They are not in the output.",
        "`ddwd quarantine list` says what differs.",
    ),
    Code.OBJECTS_ASIDE: Entry(
        "waiting",
        "WARN",
        "An Orthanc put aside objects of other content than the stored ones, and no extractor of this machine collects them.",
        "They are not in the output.",
        "Check and remove them.",
    ),
    Code.FILES_REJECTED: Entry(
        "waiting",
        "WARN",
        "A file in one of the portal's folders for requests is none that it can work with; it was renamed to `*.bad`.",
        "That request is not done.",
        "Look at the files, then remove them; make the request again.",
    ),
    Code.PAUSED: Entry(
        "waiting",
        "WARN",
        "An operator has paused the retrieval.",
        "Studies wait on storage.",
        "`ddwd resume`.",
    ),
    Code.DESTINATION_SILENT: Entry(
        "destinations",
        "BROKEN",
        "A destination does not answer.",
        "Studies wait for it. Storage and the output have them.",
        "`ddwd destinations list` has the answer; `ddwd destinations retry` does not wait for the next try.",
    ),
    Code.DESTINATION_REFUSES: Entry(
        "destinations",
        "WARN",
        "A destination answers, and refuses studies.",
        "These studies are not there.",
        "`ddwd destinations list` has the words of the destination.",
    ),
    Code.DESTINATION_UNKNOWN: Entry(
        "destinations",
        "NOTE",
        "ddwd-courier has not reported a destination yet.",
        "Its state is not shown.",
        "`systemctl status ddwd-courier`.",
    ),
    Code.HOOKS_FAIL: Entry(
        "waiting",
        "BROKEN",
        "The hook of a published study failed, and is tried again.",
        "The study is on disk; the system behind the hook has not been notified.",
        "`ddwd hooks list`.",
    ),
    Code.RETENTION_OFF: Entry(
        "disk",
        "WARN",
        "Room gets short, and retention has nothing to remove: it is off, or nothing is old enough.",
        "The volume fills up.",
        "Set `retention` in `ddwd.yaml` (docs/retention.md), or take a larger volume.",
    ),
    Code.RETENTION_FAILED: Entry(
        "disk",
        "WARN",
        "The last round of retention ended with an error.",
        "Room is not made.",
        "`ddwd status`; `ddwd retention --dry-run`.",
    ),
    Code.RETENTION_KEEPS: Entry(
        "disk",
        "WARN",
        "Studies whose time is over stay, since not every place that must have them does.",
        "They keep their room.",
        "`ddwd retention --dry-run`.",
    ),
    Code.RETENTION_LATE: Entry(
        "disk",
        "WARN",
        "For two days no round of retention has ended.",
        "Room is not made.",
        "`journalctl -u ddwd-extractor -n 50`.",
    ),
    Code.SELF_TEST_FAILED: Entry(
        "self test",
        "BROKEN",
        "The last test study did not come through all hops unchanged.",
        "A study of a modality may not either.",
        "`ddwd doctor --send` tries it again and says how far it came.",
    ),
    Code.SELF_TEST_UNKNOWN: Entry(
        "self test",
        "NOTE",
        "The self test has not run yet, or runs on another machine.",
        "Nothing.",
        "`ddwd doctor --send`.",
    ),
    Code.NOT_CHECKED: Entry(
        "any part",
        "NOTE",
        "This user may not see what the check needs.",
        "The part is not checked.",
        "Run it with sudo.",
    ),
    Code.CHECK_FAILED: Entry(
        "any part",
        "BROKEN",
        "A check of the doctor ended with an error.",
        "The part may not be well.",
        "`ddwd status`.",
    ),
}
