"""A STOW-RS peer that reads the whole request and answers 503, having stored nothing. Runs inside the machine, standard library only."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Swallow(BaseHTTPRequestHandler):
    """Reads a body of either form (RFC 9112 section 6), then refuses."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read, then refuse."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while (size := int(self.rfile.readline().split(b";")[0], 16)) > 0:
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing to the journal: the faults' own line tells."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Swallow).serve_forever()
