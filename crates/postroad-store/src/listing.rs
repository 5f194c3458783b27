//! The queue as operators look at it, and what they do to it.

use std::collections::BTreeSet;

use postroad_mail::Timestamp;
use postroad_queue::{Evidence, Filter, Listed, ListedRecipient, Operation, QueueId, StoreError};

use crate::inner::Inner;
use crate::place::Place;
use crate::read::Described;
use crate::record::State;

impl Inner {
    /// Messages that match, behind `after`; read from disk a few at a time. Blocks.
    pub(crate) fn page(
        &self,
        filter: &Filter,
        mut after: Option<QueueId>,
        max: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        const AT_ONCE: usize = 256;
        let (mut page, mut recipients) = (Vec::new(), 0);
        let ids: BTreeSet<QueueId> = filter.ids.iter().copied().collect();
        while page.len() < max {
            let some: Vec<_> = {
                let table = self.table();
                if filter.ids.is_empty() {
                    let some = table.after(after).take(AT_ONCE);
                    some.map(|(id, e)| (id, e.place)).collect()
                } else {
                    let behind = ids
                        .iter()
                        .filter(|id| after.is_none_or(|after| **id > after));
                    let some = behind.filter_map(|id| Some((*id, table.get(*id)?.place)));
                    some.take(AT_ONCE).collect()
                }
            };
            let Some(&(last, _)) = some.last() else {
                break;
            };
            after = Some(last);
            for (id, place) in some {
                let listed = self.list(id, place).filter(|listed| filter.matches(listed));
                recipients += listed.as_ref().map_or(0, |listed| listed.recipients.len());
                page.extend(listed);
                if page.len() >= max || recipients >= Listed::RECIPIENTS_MAX {
                    return Ok(page);
                }
            }
        }
        Ok(page)
    }

    fn list(&self, id: QueueId, place: Place) -> Option<Listed> {
        let described = self.at_place(id, place, |place| {
            let described = self.describe(id, place)?;
            let evidence = self.evidence(id, place, &described.meta);
            Ok((described, evidence))
        });
        match described {
            Ok((described, evidence)) => listed(self, described, &evidence),
            Err(error) => {
                if self.table().get(id).is_some() {
                    tracing::error!(queue_id = %id, %error, "message not readable: not listed");
                }
                None
            }
        }
    }

    /// Blocks.
    pub(crate) fn operate(
        &self,
        now: Timestamp,
        operation: Operation,
        filter: &Filter,
    ) -> Result<u64, StoreError> {
        let done = self.operate_all(now, operation, filter);
        // Whoever gave the order may count on it. Where it cannot be synced it holds all the same,
        // until a power loss; and whoever watches the queue is told.
        if let Err(error) = self.sync_state() {
            self.unsynced(&error);
        }
        // Also where it failed half way.
        self.wakers.wake();
        done
    }

    fn operate_all(
        &self,
        now: Timestamp,
        operation: Operation,
        filter: &Filter,
    ) -> Result<u64, StoreError> {
        const AT_ONCE: usize = 256;
        let named = Filter {
            ids: filter.ids.clone(),
            ..Filter::default()
        };
        if !filter.ids.is_empty() && *filter == named {
            // These need not be looked at, and so can be damaged.
            let ids: BTreeSet<_> = filter.ids.iter().collect();
            return ids.into_iter().try_fold(0, |done, &id| {
                Ok(done + u64::from(self.operate_one(now, operation, id)?))
            });
        }
        let (mut done, mut after) = (0, None);
        loop {
            let ids: Vec<QueueId> = if filter.is_all() {
                let table = self.table();
                let some = table.after(after).take(AT_ONCE);
                some.map(|(id, _)| id).collect()
            } else {
                let page = self.page(filter, after, AT_ONCE)?;
                page.into_iter().map(|listed| listed.id).collect()
            };
            let Some(&last) = ids.last() else {
                return Ok(done);
            };
            after = Some(last);
            for id in ids {
                done += u64::from(self.operate_one(now, operation, id)?);
            }
        }
    }

    fn operate_one(
        &self,
        now: Timestamp,
        operation: Operation,
        id: QueueId,
    ) -> Result<bool, StoreError> {
        let state = match operation {
            Operation::Hold => State::Hold,
            Operation::Release => State::Release,
            Operation::Retry => State::Retry(now),
            Operation::Remove => State::Removed,
        };
        let _whole = self.change();
        if self.table().get(id).is_none() {
            return Ok(false);
        }
        // Unlike an attempt's, an operator's word is worth nothing unless written down.
        self.write_state(id, &state)?;
        let done = if operation == Operation::Remove {
            let entry = self.table().remove(id);
            let there = entry.is_some();
            self.finished(id, entry, true);
            there
        } else {
            self.table().operate(now, operation, id)
        };
        tracing::info!(queue_id = %id, ?operation, "an operator's order");
        Ok(done)
    }
}

fn listed(inner: &Inner, described: Described, evidence: &[Option<Evidence>]) -> Option<Listed> {
    let table = inner.table();
    let header = &described.header;
    let entry = table.get(header.id)?;
    let recipients = described.meta.envelope.recipients().iter();
    let recipients = recipients
        .zip(&described.meta.lanes)
        .zip(evidence)
        .enumerate();
    let recipients = recipients.map(|(place, ((recipient, lane), last))| {
        let address = &recipient.address;
        ListedRecipient::new(&table, header.id, entry, place, address, lane, last)
    });
    let recipients = recipients.collect();
    Some(Listed {
        id: header.id,
        recipients,
        arrived: header.arrived,
        size: header.size(),
        held: entry.held(),
        envelope: described.meta.envelope,
        origin: described.meta.origin,
    })
}
