"""Sends one message with smtplib: host port mode(starttls|tls|plain) user password from message-file options to..."""
import smtplib
import ssl
import sys

host, port, mode, user, password, sender, path, options, *recipients = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if mode == "tls":
    client = smtplib.SMTP_SSL(host, int(port), local_hostname="python.test", context=context, timeout=60)
else:
    client = smtplib.SMTP(host, int(port), local_hostname="python.test", timeout=60)
with client, open(path, "rb") as message:
    if mode == "starttls":
        client.starttls(context=context)
    if user:
        client.login(user, password)
    text = message.read().replace(b"\n", b"\r\n")
    refused = client.sendmail(sender, recipients, text, mail_options=options.split())
for recipient, (code, text) in refused.items():
    print(recipient, code, text.decode())
