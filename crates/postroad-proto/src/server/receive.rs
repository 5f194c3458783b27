//! What the input is taken for: command lines, responses of AUTH, content, or nothing.

use std::mem;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use postroad_mail::replies;

use super::session::Session;
use super::state::State;
use super::{AUTH_LINE_MAX, Output};
use crate::command::announces_content;
use crate::content::Failure;
use crate::data::Step;
use crate::lines::{Found, LineEnd, Overlong};
use crate::params::COMMAND_LINE;

impl Session {
    pub(super) fn receive_line(&mut self, now: Instant, input: &mut BytesMut) -> Option<Output> {
        let response = matches!(self.state, State::Authenticating(_));
        let limits = self.line_limits;
        // What is decided upon before the end of a line is decided by as much of it as there is in
        // any case, so that the split of the input does not matter.
        let start = |line: &[u8]| announces_content(line.get(..COMMAND_LINE).unwrap_or(line));
        let found = self.lines.find(input, |line| {
            if response || starts_auth(line) {
                (AUTH_LINE_MAX + 2, Overlong::Auth)
            } else if start(line) {
                (limits.of(line), Overlong::BeforeContent)
            } else {
                (limits.of(line), Overlong::Command)
            }
        });
        let (text, all, end) = match found {
            Found::More => return self.wait(now),
            Found::TooLong(overlong) => {
                self.too_long(now, overlong);
                return None;
            }
            Found::Line { text, all, end } => (text, all, end),
        };
        let line = input.get(..text).unwrap_or_default();
        let result = match end {
            LineEnd::BareLf if self.normalizes() && response => self.respond(line),
            LineEnd::BareLf if self.normalizes() => self.command(now, line),
            LineEnd::BareCr | LineEnd::BareLf => {
                if !response {
                    self.close_before_content(line);
                }
                Err(replies::BARE_NEWLINE)
            }
            LineEnd::CrLf if response => self.respond(line),
            LineEnd::CrLf => self.command(now, line),
        };
        if (response || starts_auth(line))
            && let Some(secret) = input.get_mut(..all)
        {
            secret.fill(0);
        }
        input.advance(all);
        if !matches!(
            self.state,
            State::Data(_) | State::Chunk(_) | State::Skip(_)
        ) {
            self.await_command(now);
        }
        if let Err(reply) = result {
            self.leave_auth();
            self.refuse(now, reply);
        }
        None
    }

    fn too_long(&mut self, now: Instant, overlong: Overlong) {
        self.leave_auth();
        let reply = match overlong {
            Overlong::Command => replies::LINE_TOO_LONG,
            Overlong::Auth => replies::AUTH_LINE_TOO_LONG,
            Overlong::BeforeContent => {
                self.close();
                replies::LINE_TOO_LONG
            }
        };
        self.refuse(now, reply);
        self.await_command(now);
    }

    /// Closes where a line that is not obeyed may have been meant to announce content. A client
    /// that pipelines sends that next, and what a sender of mail wrote would be taken for commands
    /// (the way of SMTP smuggling).
    pub(super) fn close_before_content(&mut self, line: &[u8]) {
        if announces_content(line) {
            self.close();
        }
    }

    pub(super) fn receive_content(&mut self, now: Instant, input: &mut BytesMut) -> Option<Output> {
        let before = input.len();
        let step = match &mut self.state {
            State::Data(data) => data.step(input),
            State::Chunk(chunk) => chunk.step(input),
            _ => return None,
        };
        if input.len() < before {
            self.await_content(now);
        }
        match step {
            Step::Body(piece) => Some(Output::Body(piece)),
            Step::Failed => Some(Output::Abandon),
            Step::More => self.wait(now),
            Step::End(failure) => {
                self.end_content(now, failure);
                None
            }
            Step::Endless(failure) => {
                self.end_content(now, Some(failure));
                self.close();
                None
            }
        }
    }

    fn end_content(&mut self, now: Instant, failure: Option<Failure>) {
        self.await_command(now);
        let (last, content) = match mem::replace(&mut self.state, State::Ready) {
            State::Chunk(chunk) => (chunk.is_last(), Some(chunk.into_content())),
            _ => (true, None),
        };
        match (failure, content) {
            (None, _) if last => self.state = State::Committing,
            // A bare newline is answered once, behind the last chunk.
            (None | Some(Failure::BareNewline), Some(content)) if !last && !content.exceeds(0) => {
                self.state = State::Chunks(Box::new(content));
                self.reply(&replies::CHUNK_OK);
            }
            (None, _) => self.state = State::Ready,
            (Some(failure), _) => {
                if !last {
                    self.state = State::Broken;
                }
                self.refuse(now, failure.reply());
                if failure == Failure::BareNewline {
                    self.close();
                }
            }
        }
    }

    pub(super) fn skip(&mut self, now: Instant, input: &mut BytesMut) -> Option<Output> {
        let State::Skip(skip) = &mut self.state else {
            return None;
        };
        let octets = usize::try_from(skip.left).map_or(input.len(), |left| left.min(input.len()));
        input.advance(octets);
        skip.left -= octets as u64;
        if skip.left > 0 {
            if octets > 0 {
                self.await_content(now);
            }
            return self.wait(now);
        }
        if let State::Skip(skip) = mem::replace(&mut self.state, State::Closed) {
            self.state = skip.then;
            self.await_command(now);
            self.refuse(now, skip.reply);
        }
        None
    }

    fn leave_auth(&mut self) {
        if matches!(self.state, State::Authenticating(_)) {
            self.state = State::Ready;
        }
    }
}

/// Whether a line, complete or not, is one that may be as long as AUTH's.
fn starts_auth(line: &[u8]) -> bool {
    line.get(..5)
        .is_some_and(|word| word.eq_ignore_ascii_case(b"AUTH "))
}
