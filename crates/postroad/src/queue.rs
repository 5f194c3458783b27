mod stats;
mod whole;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use postroad_mail::Timestamp;
use postroad_message::rfc5322_date;
use postroad_queue::{Filter, Listed, Operation, QueueId};
use postroad_service::config::Config;
use postroad_service::queue::{Queue, so_long_ago};

use crate::cli::{Change, QueueOrder, Which};
use crate::output::line;

pub(crate) async fn run(order: QueueOrder, config: &Config) -> anyhow::Result<ExitCode> {
    let queue = Queue::of(config).await?;
    let done = carry_out(order, &queue).await;
    queue.close().await?;
    done
}

async fn carry_out(order: QueueOrder, queue: &Queue) -> anyhow::Result<ExitCode> {
    match order {
        QueueOrder::List { which, json } => {
            each(queue, &filter(which), |message| {
                if json {
                    object(message)
                } else {
                    brief(message)
                }
            })
            .await?;
        }
        QueueOrder::Show { which, json } => {
            let filter = named(which)?;
            let wanted = filter.ids.clone();
            let mut shown = Vec::new();
            each(queue, &filter, |message| {
                shown.push(message.id);
                if json {
                    object(message)
                } else {
                    whole(message)
                }
            })
            .await?;
            missing(&wanted, &shown)?;
        }
        QueueOrder::Body { id } => {
            queue
                .body(id, |piece| std::io::stdout().lock().write_all(piece))
                .await?;
        }
        QueueOrder::Hold(change) => operate(queue, Operation::Hold, change, "held").await?,
        QueueOrder::Release(change) => {
            operate(queue, Operation::Release, change, "released").await?;
        }
        QueueOrder::Retry(change) => retry(queue, change).await?,
        QueueOrder::Delete(change) => operate(queue, Operation::Remove, change, "removed").await?,
        QueueOrder::Stats { all, json } => stats::run(queue, json, all).await?,
        QueueOrder::Verify { json } => return whole::verify(queue, json).await,
        QueueOrder::Export { which, output } => {
            return whole::export(queue, &filter(which), output.as_deref()).await;
        }
        QueueOrder::Import { skip, json, file } => {
            return whole::import(queue, skip, &file, json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn missing(wanted: &[QueueId], shown: &[QueueId]) -> anyhow::Result<()> {
    match wanted.iter().find(|id| !shown.contains(id)) {
        Some(id) => bail!("no message {id} is in the queue"),
        None => Ok(()),
    }
}

async fn operate(
    queue: &Queue,
    operation: Operation,
    change: Change,
    done: &str,
) -> anyhow::Result<()> {
    let filter = named(change.which)?;
    let messages = queue.operate(operation, &filter).await?;
    if change.json {
        line(format_args!("{{\"messages\":{messages}}}"))?;
    } else {
        line(format_args!("{messages} {done}"))?;
    }
    some(messages, &filter)
}

/// Held ones are counted apart: they are not tried until they are released.
async fn retry(queue: &Queue, change: Change) -> anyhow::Result<()> {
    let filter = named(change.which)?;
    let only_held = Filter {
        held: Some(true),
        ..filter.clone()
    };
    let mut held = 0;
    each(queue, &only_held, |_| {
        held += 1;
        Ok(())
    })
    .await?;
    let messages = queue.operate(Operation::Retry, &filter).await?;
    if change.json {
        line(format_args!("{{\"messages\":{messages},\"held\":{held}}}"))?;
    } else {
        line(format_args!("{}", retried(messages, held)))?;
    }
    some(messages, &filter)
}

fn retried(messages: u64, held: u64) -> String {
    let due = messages.saturating_sub(held);
    match held {
        0 => format!("{due} due now"),
        _ => format!(
            "{due} due now; {held} held, not tried until released (`postroad queue release`)"
        ),
    }
}

fn some(messages: u64, filter: &Filter) -> anyhow::Result<()> {
    if messages == 0 && !filter.ids.is_empty() {
        bail!("no message of that id is in the queue");
    }
    Ok(())
}

/// For orders that change something: "all" must be said.
fn named(which: Which) -> anyhow::Result<Filter> {
    let all = which.all;
    let filter = filter(which);
    if !all && filter == Filter::default() {
        bail!(
            "which messages? Give queue ids, a filter (--from, --to, --domain, --older, --reason, --held), or --all"
        );
    }
    Ok(filter)
}

fn filter(which: Which) -> Filter {
    Filter {
        ids: which.ids,
        from: which.from,
        to: which.to,
        domain: which.domain,
        held: which.held.then_some(true),
        arrived_before: which.older.map(so_long_ago),
        reason: which.reason,
        ..Filter::default()
    }
}

/// Page by page: a million messages are never in memory at once.
async fn each(
    queue: &Queue,
    filter: &Filter,
    mut show: impl FnMut(&Listed) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = queue.page(filter, after).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id);
        for message in &page {
            show(message)?;
        }
    }
}

fn object(message: &Listed) -> std::io::Result<()> {
    line(format_args!("{}", serde_json::to_string(message)?))
}

fn date(at: Timestamp) -> String {
    rfc5322_date(at)
}

fn from(message: &Listed) -> String {
    format!("<{}>", message.envelope.from)
}

fn brief(message: &Listed) -> std::io::Result<()> {
    let held = if message.held { "  held" } else { "" };
    line(format_args!(
        "{}  {}  {} octets  {}{held}",
        message.id,
        date(message.arrived),
        message.size,
        from(message)
    ))?;
    for recipient in message.recipients.iter().filter(|r| !r.state.is_final()) {
        let last = recipient
            .last
            .as_ref()
            .map_or_else(String::new, |last| format!("  {}", last.reply));
        let next = recipient
            .due
            .map_or_else(String::new, |due| format!("  next {}", date(due)));
        line(format_args!(
            "    to <{}>  {}{next}{last}",
            recipient.address,
            attempts(recipient.attempts)
        ))?;
    }
    Ok(())
}

pub(crate) fn attempts(number: impl Into<u64>) -> String {
    match number.into() {
        1 => "1 attempt".to_owned(),
        number => format!("{number} attempts"),
    }
}

fn whole(message: &Listed) -> std::io::Result<()> {
    line(format_args!("Message     {}", message.id))?;
    line(format_args!("From        {}", from(message)))?;
    line(format_args!("Arrived     {}", date(message.arrived)))?;
    line(format_args!("Size        {} octets", message.size))?;
    let origin = &message.origin;
    let user = origin
        .user
        .as_ref()
        .map_or_else(String::new, |user| format!(", user {user}"));
    let peer = origin
        .address
        .map_or_else(String::new, |address| format!(", from {address}"));
    line(format_args!("Came by     {}{user}{peer}", origin.service))?;
    line(format_args!(
        "Held        {}",
        if message.held { "yes" } else { "no" }
    ))?;
    for recipient in &message.recipients {
        line(format_args!(
            "Recipient   <{}>: {:?}, {}",
            recipient.address,
            recipient.state,
            attempts(recipient.attempts)
        ))?;
        if let Some(due) = recipient.due {
            line(format_args!("  next      {}", date(due)))?;
        }
        if let Some(last) = &recipient.last {
            line(format_args!(
                "  last      {}  {}",
                date(last.at),
                last.reply
            ))?;
            if let Some(hop) = &last.hop {
                line(format_args!(
                    "  hop       {hop}{}",
                    last.tls
                        .as_ref()
                        .map_or_else(String::new, |tls| format!(" {tls}"))
                ))?;
            }
        }
    }
    line(format_args!(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words() {
        assert_eq!(attempts(0_u32), "0 attempts");
        assert_eq!(attempts(1_u32), "1 attempt");
        assert_eq!(retried(3, 0), "3 due now");
        assert!(retried(3, 1).starts_with("2 due now; 1 held, not tried until released"));
    }
}
