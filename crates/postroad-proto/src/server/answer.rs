//! What each answer does.

use std::mem;
use std::time::Instant;

use postroad_mail::{Reply, replies};

use super::session::{Asked, Session};
use super::state::{Opening, Skip, State, Transaction};
use super::{Answer, Hello, Mail};
use crate::sasl::{Decision, Exchange};

impl Session {
    /// Answers the open question. An answer that is none to it counts as a local error; with no
    /// question open, nothing happens.
    pub fn answer(&mut self, now: Instant, answer: Answer) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        self.question = None;
        self.await_command(now);
        match asked {
            Asked::Connect => self.connect_decided(accepted(answer)),
            Asked::Hello(hello) => self.hello_decided(now, hello, accepted(answer)),
            Asked::Sasl(exchange) => self.sasl_decided(now, exchange, answer),
            Asked::Mail(mail) => self.mail_decided(now, *mail, accepted(answer)),
            Asked::Rcpt(recipient) => {
                let verdict = accepted(answer);
                if let State::Transaction(transaction) = &mut self.state {
                    match verdict {
                        Ok(()) => {
                            transaction.push(*recipient);
                            self.reply(&replies::RECIPIENT_OK);
                        }
                        Err(reply) => {
                            transaction.refuse_one();
                            self.refuse(now, reply);
                        }
                    }
                }
            }
            Asked::Data => self.data_decided(now, accepted(answer)),
            Asked::Commit => self.commit_decided(now, answer),
            Asked::Lookup => match answer {
                Answer::Lines(lines) if !lines.is_empty() => {
                    self.reply(&replies::OK.with_text(lines.join("\n")));
                }
                Answer::Forward(address) => {
                    let text = format!("{} {address}", replies::WILL_FORWARD.text);
                    self.reply(&replies::WILL_FORWARD.with_text(text));
                }
                Answer::Accept => self.reply(&replies::CANNOT_VERIFY),
                other => self.refuse(now, refusal(other)),
            },
        }
    }

    fn connect_decided(&mut self, verdict: Result<(), Reply>) {
        match verdict {
            Ok(()) => {
                let text = format!(
                    "{} {}",
                    self.config.hostname.ascii(),
                    replies::GREETING.text
                );
                self.reply(&replies::GREETING.with_text(text));
                self.state = State::Start;
            }
            Err(reply) => {
                self.state = State::Refused;
                self.reply(&reply);
                if reply.code == replies::SHUTTING_DOWN.code {
                    self.close();
                }
            }
        }
    }

    fn hello_decided(&mut self, now: Instant, hello: Hello, verdict: Result<(), Reply>) {
        if let Err(reply) = verdict {
            self.refuse(now, reply);
            return;
        }
        // RFC 5321 section 4.1.4: EHLO in a transaction is also a RSET.
        self.drop_content();
        self.state = State::Ready;
        let hostname = self.config.hostname.ascii();
        if hello.extended {
            self.offered.write_reply(hostname, &mut self.replies);
        } else {
            let reply = replies::HELLO.with_text(hostname.to_owned());
            self.reply(&reply);
        }
        self.info.hello = Some(hello);
    }

    fn sasl_decided(&mut self, now: Instant, exchange: Exchange, answer: Answer) {
        let decision = match answer {
            Answer::Identity(identity) => Decision::Identity(identity),
            other => Decision::Reject(refusal(other)),
        };
        if let Err(reply) = self.sasl(exchange.decided(decision)) {
            self.refuse(now, reply);
        }
    }

    fn mail_decided(&mut self, now: Instant, mail: Mail, verdict: Result<(), Reply>) {
        match verdict {
            Ok(()) => {
                self.state = State::Transaction(Transaction::new(mail));
                self.reply(&replies::SENDER_OK);
            }
            Err(reply) => self.refuse(now, reply),
        }
    }

    fn data_decided(&mut self, now: Instant, verdict: Result<(), Reply>) {
        let State::Opening(opening) = mem::replace(&mut self.state, State::Ready) else {
            return;
        };
        match (verdict, opening) {
            (Ok(()), Opening::Data(data)) => {
                self.reply(&replies::START_DATA);
                self.state = State::Data(data);
                self.await_content(now);
            }
            (Ok(()), Opening::Chunk(chunk)) => {
                self.state = State::Chunk(chunk);
                self.await_content(now);
            }
            (Err(reply), Opening::Data(_)) => self.refuse(now, reply),
            (Err(reply), Opening::Chunk(chunk)) => {
                let left = chunk.left();
                let then = if chunk.is_last() {
                    State::Ready
                } else {
                    State::Broken
                };
                self.state = State::Skip(Box::new(Skip { left, reply, then }));
                self.await_content(now);
            }
        }
    }

    /// The one place that says a message has been taken.
    fn commit_decided(&mut self, now: Instant, answer: Answer) {
        self.state = State::Ready;
        match answer {
            Answer::Queued(id) => {
                let text = format!("{} as {id}", replies::QUEUED.text);
                self.reply(&replies::QUEUED.with_text(text));
            }
            other => self.refuse(now, refusal(other)),
        }
    }
}

fn accepted(answer: Answer) -> Result<(), Reply> {
    match answer {
        Answer::Accept => Ok(()),
        other => Err(refusal(other)),
    }
}

/// The reply of a refusal; an answer of the wrong kind is a fault of ours.
fn refusal(answer: Answer) -> Reply {
    match answer {
        Answer::Reject(reply) => reply,
        Answer::Accept
        | Answer::Queued(_)
        | Answer::Identity(_)
        | Answer::Lines(_)
        | Answer::Forward(_) => replies::LOCAL_ERROR,
    }
}
