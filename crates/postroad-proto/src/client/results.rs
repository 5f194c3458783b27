use postroad_mail::Reply;

use super::{Phase, RecipientResult, Report};

/// What has become of the recipients of a transaction so far.
#[derive(Debug)]
pub(crate) struct Results {
    /// None while open: not answered yet, or accepted.
    of: Vec<Option<RecipientResult>>,
    accepted: usize,
}

impl Results {
    pub(crate) fn new(recipients: usize) -> Self {
        Self {
            of: vec![None; recipients],
            accepted: 0,
        }
    }

    /// Whether a message would go to anybody.
    pub(crate) const fn any_accepted(&self) -> bool {
        self.accepted > 0
    }

    /// Those that nothing final is known of.
    pub(crate) fn open(&self) -> impl Iterator<Item = usize> {
        let open = self.of.iter().enumerate().filter(|(_, r)| r.is_none());
        open.map(|(index, _)| index)
    }

    /// The reply to RCPT; `last`: nothing more will be asked for it.
    pub(crate) fn recipient(&mut self, index: usize, reply: Reply, last: bool) {
        // Where there is a result, MAIL was refused: that is why this is.
        let Some(result @ None) = self.of.get_mut(index) else {
            return;
        };
        if reply.is_success() {
            self.accepted += 1;
            if last {
                *result = Some(RecipientResult::Accepted(reply));
            }
        } else {
            let phase = Phase::Rcpt;
            *result = Some(RecipientResult::Refused { phase, reply });
        }
    }

    /// The reply to the end of the message for one.
    pub(crate) fn ended(&mut self, index: usize, reply: Reply) {
        if let Some(result) = self.of.get_mut(index) {
            *result = Some(ended(reply));
        }
    }

    /// All that are open are refused.
    pub(crate) fn refuse(&mut self, phase: Phase, reply: &Reply) {
        self.accepted = 0;
        for result in self.of.iter_mut().filter(|result| result.is_none()) {
            *result = Some(RecipientResult::Refused {
                phase,
                reply: reply.clone(),
            });
        }
    }

    /// The end of it: what is open becomes this.
    pub(crate) fn report(&mut self, open: impl Fn() -> RecipientResult) -> Report {
        let of = self.of.iter_mut();
        let recipients = of.map(|result| result.take().unwrap_or_else(&open));
        Report {
            recipients: recipients.collect(),
        }
    }
}

/// What the reply to the end of the message means for a recipient.
pub(crate) fn ended(reply: Reply) -> RecipientResult {
    if reply.is_success() {
        RecipientResult::Accepted(reply)
    } else {
        RecipientResult::Refused {
            phase: Phase::EndOfData,
            reply,
        }
    }
}
