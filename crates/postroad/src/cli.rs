use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use postroad_mail::{Address, ReversePath};
use postroad_queue::history::Wanted;
use postroad_service::config::units::Span;
use postroad_service::dev::Ports;
use postroad_service::trace::wanted;

use crate::explain::{recipient, sender};

/// Postroad, an SMTP mail system: submission and relay in one process, and what operators need.
#[derive(Debug, Parser)]
#[command(
    name = "postroad",
    version,
    after_help = "Examples:\n  postroad dev                                     try it, nothing to configure\n  postroad check --config /etc/postroad/postroad.toml\n  postroad queue list --to example.org\n  postroad queue retry --all\n  postroad explain bob@example.org\n  postroad trace 01jdk7e2m8qv3tw5xyz9abcdef\n  postroad user add alice --file /etc/postroad/users.toml"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run submission and relay in one process
    #[command(
        after_help = "SIGHUP reads the configuration again; SIGTERM finishes what is under way and stops, a second one,\nafter a second or more, stops at once. The exit status is 2 where the configuration is wrong, else 1."
    )]
    Run {
        /// The configuration
        #[arg(
            long,
            env = "POSTROAD_CONFIG",
            default_value = "/etc/postroad/postroad.toml"
        )]
        config: PathBuf,
    },
    /// Try it: no configuration, loopback only, all mail lands in an inbox
    Dev {
        /// Where certificate, user, queue and inbox are kept
        #[arg(long, default_value = "postroad-dev")]
        dir: PathBuf,
        /// Ports of relay, submission, submission over TLS, and HTTP; 0 lets the system choose
        #[arg(long, value_parser = ports, default_value = "2525,2587,2465,8025")]
        ports: Ports,
    },
    /// Validate the configuration and all it names; exit 0 or 1
    Check {
        /// The configuration
        #[arg(
            long,
            env = "POSTROAD_CONFIG",
            default_value = "/etc/postroad/postroad.toml"
        )]
        config: PathBuf,
    },
    /// Look into the queue, and change it
    #[command(
        after_help = "Talks to the running service over its admin socket; opens the queue itself where none runs: then run it as\nthe service's user, as in `sudo -u postroad postroad queue list`.\n\nExamples:\n  postroad queue list --json\n  postroad queue show 01jdk7e2m8qv3tw5xyz9abcdef\n  postroad queue retry --domain example.org\n  postroad queue delete --from spammer@example.org\n  postroad queue hold --older 2d --reason \"451 4.7.1\"\n  postroad queue verify\n  postroad queue export --output queue.export"
    )]
    Queue {
        #[command(subcommand)]
        order: QueueOrder,
        /// The configuration
        #[arg(
            long,
            env = "POSTROAD_CONFIG",
            default_value = "/etc/postroad/postroad.toml",
            global = true
        )]
        config: PathBuf,
    },
    /// Say how a message to an address would travel now, and why; exit 0 if it would be delivered
    #[command(
        after_help = "Asks the running service, which knows the limits now in force and the hosts that do not answer; where none\nruns, the same is found out from the configuration alone, and said so. No mail is sent, nor is anything\nchanged. The exit status is 1 where the mail would have to wait, or would bounce.\n\nExamples:\n  postroad explain bob@example.org\n  postroad explain bob@example.org --from alice@example.net --network 192.0.2.7\n  postroad explain bob@example.org --connect        ask each host, up to RCPT, then RSET\n  postroad explain bob@example.org --json"
    )]
    Explain(Explain),
    /// Show all that has happened to a message, since its first octet
    #[command(
        after_help = "Also of messages that have left, for as long as `log.history` says. The running service is asked; where none\nruns, the queue's files are read: then run it as the service's user.\n\nExamples:\n  postroad trace 01jdk7e2m8qv3tw5xyz9abcdef\n  postroad trace '<20261124124901.5f3a@example.org>'\n  postroad trace 01jdk7e2m8qv3tw5xyz9abcdef --json"
    )]
    Trace(Trace),
    /// TLS to others, and what their policies ask for
    Tls {
        #[command(subcommand)]
        order: TlsOrder,
        /// The configuration
        #[arg(
            long,
            env = "POSTROAD_CONFIG",
            default_value = "/etc/postroad/postroad.toml",
            global = true
        )]
        config: PathBuf,
    },
    /// Add, change, remove and list users of a users file
    #[command(
        after_help = "A running service notices the change within a second, at the next login; who is logged in then stays so\nuntil the connection ends.\n\nA file that is changed keeps its owner, group and mode. A new one gets the group of its directory, which\nmay read it (mode 0640); where that is only your own group, you alone may (0600)."
    )]
    User {
        #[command(subcommand)]
        order: UserOrder,
    },
    /// Print shell completions
    #[command(hide = true)]
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    #[command(hide = true)]
    Man {
        /// Into this directory
        directory: PathBuf,
    },
    /// Print the configuration reference
    #[command(hide = true)]
    ConfigReference {
        /// As JSON Schema
        #[arg(long)]
        schema: bool,
    },
}

/// Which mail is to be explained.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The recipient
    #[arg(value_name = "ADDRESS", value_parser = recipient)]
    pub(crate) recipient: Address,
    /// The sender; `<>` is the null one
    #[arg(long, value_name = "ADDRESS", value_parser = sender, default_value = "<>")]
    pub(crate) from: ReversePath,
    /// The user who would have logged in to send it
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// The address of the client that it would come from
    #[arg(long, value_name = "IP")]
    pub(crate) network: Option<std::net::IpAddr>,
    /// Call each host, and ask it for the recipient; no mail is sent
    #[arg(long)]
    pub(crate) connect: bool,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The configuration
    #[arg(
        long,
        env = "POSTROAD_CONFIG",
        default_value = "/etc/postroad/postroad.toml"
    )]
    pub(crate) config: PathBuf,
}

/// Which message's history.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// A queue id, or a Message-ID with its angle brackets or without
    #[arg(value_name = "ID", value_parser = wanted)]
    pub(crate) id: Wanted,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The configuration
    #[arg(
        long,
        env = "POSTROAD_CONFIG",
        default_value = "/etc/postroad/postroad.toml"
    )]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TlsOrder {
    /// Show which destinations fail what DANE and MTA-STS ask for, and why
    #[command(
        after_help = "With `delivery.tls_policy = \"observe\"` mail goes to them all the same, and this says to which it would not with\n\"enforce\".\n\nExamples:\n  postroad tls report\n  postroad tls report --json"
    )]
    Report {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// As the configuration has them.
fn span(text: &str) -> Result<Duration, String> {
    let span: Result<Span, _> = serde_json::from_value(text.into());
    span.map(|span| span.0).map_err(|error| error.to_string())
}

fn ports(text: &str) -> Result<Ports, String> {
    let numbers: Result<Vec<u16>, _> = text.split(',').map(|port| port.trim().parse()).collect();
    match numbers.as_deref() {
        Ok(&[relay, submission, submissions, http]) => Ok(Ports {
            relay,
            submission,
            submissions,
            http,
        }),
        _ => Err("expected four numbers up to 65535, for relay, submission, submission over TLS, and HTTP, as in 2525,2587,2465,8025".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueOrder {
    /// List messages
    List {
        #[command(flatten)]
        which: Which,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of messages
    Show {
        #[command(flatten)]
        which: Which,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print a message as it is queued
    Body {
        /// Its queue id
        id: postroad_queue::QueueId,
    },
    /// Keep messages from being tried until released
    Hold(Change),
    /// End a hold
    Release(Change),
    /// Try messages now
    Retry(Change),
    /// Remove messages; their senders are not told
    Delete(Change),
    /// Show what waits, by destination, and how the queue does
    #[command(
        after_help = "The destinations with most mail come first. Of each: what waits and is under way, how its last attempt went,\nwhen the next is, and whether it is held back, and why. A service that does not run holds nobody back.\n\nExamples:\n  postroad queue stats\n  postroad queue stats --all --json"
    )]
    Stats {
        /// All destinations, not only those with most mail
        #[arg(long)]
        all: bool,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read all that is kept, and say what is not what was written; exit 0 or 1
    #[command(
        after_help = "It reads every message to its end, so it takes as long as that; a running service goes on meanwhile. Each line names the file, the octet at which the damage begins, the message where that can be told, and what it means for the mail.\n\nExamples:\n  postroad queue verify\n  postroad queue verify --json"
    )]
    Verify {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write messages, with all that is known of them, to a file or a pipe
    #[command(
        after_help = "What it writes, `postroad queue import` takes into any queue, of any kind: sender, recipients, attempts, when each is due, and the message itself, octet for octet. It changes nothing in this queue. A file that was cut off or damaged is refused by the import, and so is as good as none: keep the original until then.\n\nA running service goes on delivering while it is exported: what it delivers from then on, and what it has under way, is in the export too, and goes out twice if that is imported elsewhere. To move mail, stop the service first, or hold the messages; held messages arrive held, and are released where they went.\n\nExamples:\n  postroad queue export --output queue.export\n  postroad queue hold --all\n  postroad queue export | ssh new.example.org sudo -u postroad postroad queue import\n  postroad queue delete --held"
    )]
    Export {
        #[command(flatten)]
        which: Which,
        /// Into this new file, readable by its owner only; else to standard output
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Take an export into the queue
    #[command(
        after_help = "Each message gets a new queue id, and stands where it stood: what is held stays held. A message is taken whole or not at all, and once it is, it is kept, whatever becomes of the rest. Where an import fails, it says what the next one of the same export must --skip, so that no message comes twice.\n\nExamples:\n  postroad queue import queue.export\n  postroad queue import --skip 1200 queue.export\n  zstd -dc queue.export.zst | postroad queue import"
    )]
    Import {
        /// Messages of the export that are in the queue already, as an import that failed has said
        #[arg(long, default_value = "0")]
        skip: postroad_queue::transfer::Skip,
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// The export; `-` is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

/// What is to be changed.
#[derive(Debug, Args)]
pub(crate) struct Change {
    #[command(flatten)]
    pub(crate) which: Which,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which messages.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Queue ids
    pub(crate) ids: Vec<postroad_queue::QueueId>,
    /// The sender contains this; `<>` is the null one
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// A recipient contains this
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// A recipient that waits is in this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// It has been in the queue for longer than this: 30m, 4h, 2d
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) older: Option<Duration>,
    /// The reply to the last attempt for a recipient that waits contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Held ones only
    #[arg(long)]
    pub(crate) held: bool,
    /// All
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserOrder {
    /// Add a user; makes the file where there is none
    Add(UserArguments),
    /// Change a user's password
    Passwd(UserArguments),
    /// Remove a user
    Remove {
        /// The user's name
        name: String,
        /// The users file
        #[arg(long, default_value = "/etc/postroad/users.toml")]
        file: PathBuf,
    },
    /// List users
    List {
        /// The users file
        #[arg(long, default_value = "/etc/postroad/users.toml")]
        file: PathBuf,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UserArguments {
    /// The user's name
    pub(crate) name: String,
    /// The users file
    #[arg(long, default_value = "/etc/postroad/users.toml")]
    pub(crate) file: PathBuf,
    /// Read the password from standard input, one line, instead of asking
    #[arg(long)]
    pub(crate) password_stdin: bool,
}
