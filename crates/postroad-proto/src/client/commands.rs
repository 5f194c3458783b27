//! MAIL and RCPT as a server can take them.

use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use postroad_mail::{Address, AuthParam, BodyKind, Recipient, Ret, xtext_encode};

use super::Transaction;
use crate::ehlo::Extensions;
use crate::params::XTEXT_MAX;

fn put(out: &mut BytesMut, arguments: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(arguments);
}

/// With SMTPUTF8 as it is, without it the domain in A-labels.
fn put_address(address: &Address, smtputf8: bool, out: &mut BytesMut) {
    if smtputf8 || address.is_ascii() {
        put(out, format_args!("{address}"));
    } else {
        out.put_slice(address.to_ascii_domain().as_bytes());
    }
}

pub(crate) fn put_mail(transaction: &Transaction, extensions: &Extensions, out: &mut BytesMut) {
    out.put_slice(b"MAIL FROM:<");
    if let Some(address) = transaction.from.address() {
        put_address(address, transaction.smtputf8, out);
    }
    out.put_u8(b'>');
    if extensions.size.is_some() {
        put(out, format_args!(" SIZE={}", transaction.size));
    }
    match transaction.body {
        BodyKind::SevenBit => {}
        BodyKind::EightBitMime => out.put_slice(b" BODY=8BITMIME"),
        BodyKind::BinaryMime => out.put_slice(b" BODY=BINARYMIME"),
    }
    if transaction.smtputf8 {
        out.put_slice(b" SMTPUTF8");
    }
    if transaction.require_tls {
        out.put_slice(b" REQUIRETLS");
    }
    if extensions.dsn {
        match transaction.ret {
            Some(Ret::Full) => out.put_slice(b" RET=FULL"),
            Some(Ret::Headers) => out.put_slice(b" RET=HDRS"),
            None => {}
        }
        if let Some(envid) = &transaction.envid {
            put(out, format_args!(" ENVID={}", xtext_encode(envid)));
        }
    }
    if !extensions.auth.is_empty() {
        match &transaction.auth {
            Some(AuthParam::Unknown) => out.put_slice(b" AUTH=<>"),
            Some(AuthParam::Identity(identity)) => {
                put(out, format_args!(" AUTH={}", xtext_encode(identity)));
            }
            None => {}
        }
    }
    out.put_slice(b"\r\n");
}

pub(crate) fn put_rcpt(
    recipient: &Recipient,
    smtputf8: bool,
    extensions: &Extensions,
    out: &mut BytesMut,
) {
    out.put_slice(b"RCPT TO:<");
    put_address(&recipient.address, smtputf8, out);
    out.put_u8(b'>');
    if extensions.dsn {
        if let Some(notify) = recipient.notify {
            put(out, format_args!(" NOTIFY={notify}"));
        }
        if let Some(original) = &recipient.original {
            let value = if smtputf8 {
                original.to_unitext()
            } else {
                original.to_string()
            };
            // Better none than one for which the server must refuse the recipient.
            if value.len() <= XTEXT_MAX {
                put(out, format_args!(" ORCPT={value}"));
            }
        }
    }
    out.put_slice(b"\r\n");
}
