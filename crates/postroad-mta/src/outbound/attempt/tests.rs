use std::sync::Arc;

use super::*;
use postroad_mail::{Envelope, Origin, Recipient};
use postroad_net::client::Connector;
use postroad_queue::{
    BoxFuture, ClaimRequest, Content, Draft, Filter, Lane, MemStore, Store, StoreError,
};
use postroad_routing::{DnsOptions, DnsResolver, RouteRule, SharedRouter, StaticRouter};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::OutboundConfig;

/// A disk that fails behind the first few octets.
#[derive(Debug)]
struct Failing;

impl Content for Failing {
    fn len(&self) -> u64 {
        1_000_000
    }

    fn read(&self, offset: u64, _max: usize) -> BoxFuture<'_, Result<bytes::Bytes, StoreError>> {
        let read = match offset {
            0 => Ok("Subject: x\r\n\r\n".into()),
            _ => Err(StoreError::Io {
                action: "reading",
                place: "seg-1".to_owned(),
                source: std::io::ErrorKind::InvalidData.into(),
            }),
        };
        Box::pin(std::future::ready(read))
    }
}

/// Takes all, one connection after the other; gives how many messages ended.
async fn hop(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let mut stream = BufReader::new(stream);
        let _ = stream.write_all(b"220 hop\r\n").await;
        let mut line = String::new();
        while matches!(stream.read_line(&mut line).await, Ok(1..)) {
            let reply = match line.get(..4) {
                Some("EHLO") => "250-hop\r\n250 PIPELINING",
                Some("DATA") => "354 go",
                Some("MAIL" | "RCPT" | "RSET" | "QUIT") => "250 ok",
                _ => "",
            };
            if !reply.is_empty() {
                let _ = stream.write_all(format!("{reply}\r\n").as_bytes()).await;
            }
            line.clear();
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_no_fault_of_the_hop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let via = format!("smtp://{}", listener.local_addr().unwrap());
    tokio::spawn(hop(listener));
    let rule = RouteRule::new(via.parse().unwrap());
    let store = MemStore::new(1 << 20);
    let outbound = Outbound::new(
        OutboundConfig::new("mx.test".parse().unwrap()),
        Arc::new(store.clone()),
        SharedRouter::new(StaticRouter::new(vec![rule])),
        Arc::new(
            DnsResolver::new(DnsOptions {
                nameservers: vec!["127.0.0.1:9".parse().unwrap()],
                ..DnsOptions::default()
            })
            .unwrap(),
        ),
        Connector::new(&[]).unwrap(),
    );
    let now = outbound.clock.now();
    let draft = Draft {
        envelope: Envelope::new(
            "<me@s.test>".parse().unwrap(),
            Recipient::new("bob@far.test".parse().unwrap()),
        ),
        origin: Origin::default(),
        head: "Subject: x\r\n\r\n".into(),
        lanes: vec![Lane::new("x")],
        resumes: None,
    };
    store.begin(now).unwrap().commit(now, draft).await.unwrap();
    let request = ClaimRequest {
        max: 1,
        per_lane: 1,
        lease: Duration::from_secs(60),
    };
    let mut job = store.claim(now, &request).await.unwrap().remove(0);
    job.content = Arc::new(Failing);
    outbound.run_job(job, None).await;
    let listed = store.page(&Filter::default(), None, 1).await.unwrap();
    let last = listed[0].recipients[0].last.clone().unwrap();
    assert_eq!(
        last.reply.to_string(),
        "451 4.3.0 The message cannot be read from the queue now"
    );
    assert!(!last.remote && last.remote_mta.is_none());
}
