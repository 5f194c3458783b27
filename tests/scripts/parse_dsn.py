"""Reads a delivery status notification on standard input with Python's own parser, prints it as JSON."""
import email
import email.policy
import json
import sys

message = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.default)
parts = list(message.iter_parts())


def blocks(part):
    """Of a message/delivery-status; of its sister in UTF-8 (RFC 6533), which Python does not know."""
    if part.get_content_type() == "message/delivery-status":
        return [dict((k.lower(), str(v)) for k, v in block.items()) for block in part.get_payload()]
    text = part.get_payload()[0].as_bytes().decode().strip().replace("\r\n", "\n").replace("\n ", " ")
    split = (block.splitlines() for block in text.split("\n\n"))
    return [dict((k.lower(), v.strip()) for k, v in (line.split(":", 1) for line in block)) for block in split]


status = blocks(parts[1])
returned = parts[2] if len(parts) > 2 else None
if returned is None:
    original = ""
elif returned.get_content_type() in ("message/rfc822", "message/global"):
    original = returned.get_payload()[0].as_string()
else:
    original = returned.get_content()
json.dump(
    {
        "headers": {k.lower(): str(v) for k, v in message.items()},
        "type": message.get_content_type(),
        "report_type": message.get_param("report-type"),
        "parts": [part.get_content_type() for part in parts],
        "text": parts[0].get_content(),
        "message": status[0],
        "recipients": status[1:],
        "returned": original if isinstance(original, str) else original.decode(),
        "defects": [str(d) for d in message.defects] + [str(d) for p in message.walk() for d in p.defects],
    },
    sys.stdout,
)
