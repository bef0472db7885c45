//! Small things at the edge of a request that could grow into large ones.

use crate::support::client::Call;
use crate::support::h2::{self, BOTH};
use crate::support::raw_h2::{self, Outcome, RawH2};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, assert_error, eventually};

#[test]
fn an_expectation_that_nobody_knows_is_refused() {
    let stand = Stand::new();
    for expectation in ["200-ok", "100-continue, 200-ok", "", "100-continue-not"] {
        let call = Call::chat(&stand.all.token, "good").header("expect", expectation);
        for protocol in BOTH {
            let response = h2::ask(protocol, &stand.gateway, &call);
            assert_eq!(response.status, 417, "{expectation:?}: {}", response.text());
        }
        // Who has no key is not told more than that.
        let call = Call::chat("sk-unknown", "good").header("expect", expectation);
        assert_error(&stand.gateway.ask(&call), 401, "invalid_api_key");
    }
    stand.up.untouched().expect("nothing is forwarded");
}

#[test]
fn a_small_head_that_unpacks_to_megabytes_is_refused() {
    let stand = Stand::new();
    let resident = || {
        let path = format!("/proc/{}/statm", stand.gateway.process.pid());
        let pages = std::fs::read_to_string(path).expect("memory");
        let pages = pages
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse::<usize>().ok());
        pages.expect("pages") * 4096
    };
    let call = Call::chat(&stand.all.token, "good");
    assert_eq!(stand.gateway.ask(&call).status, 200);
    let before = resident();
    let bearer = format!("Bearer {}", stand.all.token);
    let mut block = raw_h2::block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/v1/chat/completions"),
        ("authorization", &bearer),
        ("content-type", "application/json"),
    ]);
    // A field of nearly 4 KiB that the table keeps (RFC 7541 6.2.1), and then one byte for each time it is named again.
    block.extend([0x40, 3, b'x', b'-', b'b', 0x7f]);
    let mut length = 3900 - 0x7f;
    while length >= 0x80 {
        block.push(u8::try_from(length % 0x80).expect("seven bits") | 0x80);
        length /= 0x80;
    }
    block.push(u8::try_from(length).expect("seven bits"));
    block.extend([b'v'; 3900]);
    let ask = |times: usize| {
        let block = [&block[..], &vec![0x80 | 62; times]].concat();
        let mut raw = RawH2::connect(stand.gateway.address);
        let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let is_last = at + 1 == pieces.len();
            let ends = if is_last { raw_h2::END_HEADERS } else { 0 };
            match at {
                0 => raw.frame(raw_h2::HEADERS, raw_h2::END_STREAM | ends, 1, piece),
                _ => raw.frame(raw_h2::CONTINUATION, ends, 1, piece),
            }
        }
        raw.outcome(1)
    };
    // A few are a request like any other, whose body is missing.
    assert_eq!(ask(3), Outcome::Status(400));
    let outcome = ask(20_000);
    let is_refused = matches!(
        outcome,
        Outcome::Status(431) | Outcome::Reset | Outcome::Goaway
    );
    assert!(is_refused, "{outcome:?}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 24 << 20, "80 MB unpacked took {grown} bytes");
    stand
        .up
        .requests()
        .iter()
        .for_each(|seen| assert!(seen.header("x-b").is_none()));
    eventually("nothing is in flight", DEADLINE, || {
        (stand.gateway.metric("keygate_in_flight") == 0.0).then_some(())
    });
}
