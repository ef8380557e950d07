use std::sync::Arc;

use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

use super::super::fixtures::{AT_ONCE, Act, ScriptedServer, answer};
use super::*;
use crate::telemetry::trace::sink::{SpanBuffer, SpanCounts, TraceSink};

const QUICK: ExportPolicy = ExportPolicy {
    collect: Duration::from_millis(5),
    limit: Duration::from_secs(20),
    retries: 2,
    backoff: AT_ONCE,
    ..POLICY
};

/// A receiver at this URL that is sent a field of its own.
fn receiver(url: &str) -> SpanReceiver {
    SpanReceiver {
        url: url.to_owned(),
        fields: vec![ExportField {
            name: "x-tenant".to_owned(),
            value: "shop".to_owned(),
        }],
    }
}

/// Exports spans to a server under a policy, and returns what was counted: exported, rejected, dropped.
fn exported(acts: Vec<Act>, policy: ExportPolicy, spans: usize) -> ([u64; 3], Vec<String>) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        let server = ScriptedServer::start(acts).await;
        let counts = Arc::new(SpanCounts::default());
        let (sink, queue) = TraceSink::new(counts.clone());
        let exporter = SpanExporter {
            policy,
            ..SpanExporter::new(&receiver(&server.url("/base")))
        };
        let task = spawn_local(exporter.run(queue));
        let mut buffer = SpanBuffer::default();
        buffer.add(&sink, vec![OtlpSpan::default(); spans]);
        buffer.flush();
        let total = || SpanOutcome::ALL.iter().map(|o| counts.get(*o)).sum::<u64>();
        while total() < spans as u64 {
            sleep(Duration::from_millis(1)).await;
        }
        sink.flush().await.expect("the exporter runs");
        drop((sink, buffer));
        task.await.expect("the exporter ends with its sinks");
        let counted = [0, 1, 2].map(|i| counts.get(SpanOutcome::ALL[i]));
        (counted, server.requests())
    })
}

#[test]
fn spans_are_sent_to_the_path_of_the_protocol() {
    let (counted, requests) = exported(vec![answer(200, "", "")], QUICK, 3);
    assert_eq!(counted, [3, 0, 0]);
    assert_eq!(requests.len(), 1);
    assert!(
        requests[0].starts_with("POST /base/v1/traces HTTP/1.1\r\n"),
        "{requests:?}"
    );
    for field in ["content-type: application/x-protobuf", "x-tenant: shop"] {
        assert!(
            requests[0].contains(&format!("{field}\r\n")),
            "{requests:?}"
        );
    }
}

#[test]
fn what_a_receiver_cannot_take_now_is_sent_again() {
    for failure in [
        answer(429, "", ""),
        answer(503, "retry-after: 0\r\n", ""),
        answer(502, "", ""),
        Act::Close,
    ] {
        let acts = vec![failure.clone(), answer(200, "", "")];
        let (counted, requests) = exported(acts, QUICK, 1);
        assert_eq!(counted, [1, 0, 0], "{failure:?}");
        let sent = usize::from(!matches!(failure, Act::Close)) + 1;
        assert_eq!(requests.len(), sent, "{failure:?}");
    }
}

#[test]
fn what_it_refuses_or_never_takes_is_dropped() {
    let (counted, requests) = exported(vec![answer(400, "", "")], QUICK, 2);
    assert_eq!((counted, requests.len()), ([0, 0, 2], 1));
    let (counted, requests) = exported(vec![answer(503, "", "")], QUICK, 2);
    assert_eq!((counted, requests.len()), ([0, 0, 2], 3));
    let short = ExportPolicy {
        limit: Duration::from_millis(50),
        retries: 0,
        ..QUICK
    };
    let (counted, _) = exported(vec![Act::Hang(String::new())], short, 2);
    assert_eq!(counted, [0, 0, 2]);
}

#[test]
fn a_partial_success_counts_what_was_rejected() {
    // partial_success { rejected_spans: 2, error_message: "no" }
    let body = "\x0a\x06\x08\x02\x12\x02no";
    let (counted, _) = exported(vec![answer(200, "", body)], QUICK, 5);
    assert_eq!(counted, [3, 2, 0]);
}

#[test]
fn many_spans_take_several_requests() {
    let small = ExportPolicy { batch: 2, ..QUICK };
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        let (sink, mut queue) = TraceSink::new(Arc::default());
        let exporter = SpanExporter {
            policy: small,
            ..SpanExporter::new(&receiver("http://127.0.0.1:1"))
        };
        for _ in 0..3 {
            let mut buffer = SpanBuffer::default();
            buffer.add(&sink, vec![OtlpSpan::default()]);
        }
        let done = sink.flush();
        let sizes = [
            exporter.collect(&mut queue).await,
            exporter.collect(&mut queue).await,
        ];
        assert_eq!(sizes.each_ref().map(|c| c.spans.len()), [2, 1]);
        assert!(sizes[0].flush.is_none() && sizes[1].flush.is_some());
        drop((sizes, done, sink));
        assert!(exporter.collect(&mut queue).await.is_last);
    });
}

#[test]
fn a_flush_ends_the_pauses_between_attempts() {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        let acts = [answer(503, "retry-after: 60\r\n", ""), answer(200, "", "")];
        let server = ScriptedServer::start(acts).await;
        let counts = Arc::new(SpanCounts::default());
        let (sink, queue) = TraceSink::new(counts.clone());
        let exporter = SpanExporter {
            policy: QUICK,
            ..SpanExporter::new(&receiver(&server.url("")))
        };
        spawn_local(exporter.run(queue));
        let mut buffer = SpanBuffer::default();
        buffer.add(&sink, vec![OtlpSpan::default()]);
        buffer.flush();
        while server.requests().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        let flushed = tokio::time::timeout(Duration::from_secs(20), sink.flush()).await;
        assert!(flushed.is_ok(), "not within 20 s");
        assert_eq!(counts.get(SpanOutcome::Exported), 1);
    });
}
