"""Takes pushed batches: verifies the signature, answers a repeat once, and acks with 204.

Run with `pip install standardwebhooks` and `WEBHOOK_SECRET=whsec_... python receiver.py 8080`.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["WEBHOOK_SECRET"])
answered: set[str] = set()  # Yours belongs into a database, and forgets after a day.


def answer(batch: dict[str, Any]) -> None:
    texts = [one["message"].get("text", "") for one in batch["messages"]]
    print(f"{batch['info']['conversation']['conversation']} wrote: {' / '.join(texts)}", flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            webhook.verify(body, dict(self.headers), json_parse=False)
        except WebhookVerificationError:
            return self.end(401)
        batch_id = self.headers["webhook-id"]
        if batch_id not in answered:
            answer(json.loads(body))
            answered.add(batch_id)
        return self.end(204)

    def end(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print(f"listening on port {server.server_port}", flush=True)
    server.serve_forever()
