"""A throw-away Debian 13 machine (systemd-nspawn) with a network of its own and a modality beside it.

host -> image -> network -> machine -> installed, modality; `python -m tests.machine` is the command line, demo.py the
demonstration. Standard library only (demo.py apart), root, and nothing left on the host when it ends.
"""

from tests.machine.host import MachineError
from tests.machine.image import ensure_image
from tests.machine.installed import ensure_installed
from tests.machine.machine import Machine
from tests.machine.modality import Modality

__all__ = ["Machine", "MachineError", "Modality", "ensure_image", "ensure_installed"]
