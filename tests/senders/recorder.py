"""A plain SCP that accepts everything and keeps the bytes: what a stack makes of a file before the portal has seen it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class Recorder:
    """Write each received object as a DICOM file into a folder, in the order of arrival; a context manager."""

    TITLE = "RECORDER"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.files: list[Path] = []
        application = AE(self.TITLE)
        application.add_supported_context(Verification)
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        server = application.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)]
        )
        assert server is not None  # as block is False
        self._server = server
        self.port = int(server.server_address[1])

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    def _keep(self, event: Any) -> int:
        with self._lock:
            path = self._folder / f"{len(self.files) + 1:05}.dcm"
            self.files.append(path)
        path.write_bytes(event.encoded_dataset())
        return 0
