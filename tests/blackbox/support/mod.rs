//! The tools of the tests: clients, upstreams, gateways and keys.

pub mod balancer;
pub mod chat;
pub mod client;
pub mod clock;
pub mod echo;
pub mod gateway;
pub mod h2;
pub mod http1;
pub mod pem;
pub mod process;
pub mod raw_h2;
pub mod recorder;
pub mod small_disk;
pub mod stand;
pub mod streams;
pub mod sweep;
mod tests;
pub mod token;
pub mod usage;

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::Response;

/// How long anything may take that should be quick. Generous: the machine may be busy, and only failures wait.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Contract 4: what reaches streams and upstreams "within 1 s", with room for a busy machine.
pub const WITHIN_A_SECOND: Duration = Duration::from_millis(1600);

/// Fails unless this was about a second, within what a busy machine may add.
pub fn about_a_second(took: Duration) -> Result<(), String> {
    (took > Duration::from_millis(700) && took < Duration::from_secs(4))
        .then_some(())
        .ok_or(format!("after {took:?}"))
}

/// A lock that outlives a panic elsewhere: the test that panicked has failed already.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a tool printed, without what it tells a terminal.
pub fn plain(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                // ESC [ … letter: a control sequence.
                let _ = characters.by_ref().find(char::is_ascii_alphabetic);
            }
            _ => plain.push(character),
        }
    }
    plain
}

/// Asks again and again until there is an answer; panics at the deadline.
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Many inputs under one promise: each is tried, and the failures are reported together.
pub struct Cases {
    failures: Vec<String>,
    tried: usize,
}

impl Cases {
    pub fn new() -> Self {
        Self {
            failures: Vec::new(),
            tried: 0,
        }
    }

    /// Notes a failure where there is one.
    pub fn check(&mut self, name: &str, verdict: Result<(), String>) {
        self.tried += 1;
        if let Err(failure) = verdict {
            self.failures.push(format!("{name}: {failure}"));
        }
    }

    /// Fails where any case did.
    #[track_caller]
    pub fn done(self) {
        assert!(self.tried > 0, "no case was tried");
        let mut report = String::new();
        for failure in &self.failures {
            let _ = writeln!(report, "  - {failure}");
        }
        assert!(
            self.failures.is_empty(),
            "{} of {} cases failed:\n{report}",
            self.failures.len(),
            self.tried
        );
    }
}

/// Whether a response is the error that the contract describes, in every part.
pub fn is_error(response: &Response, status: u16, code: &str) -> Result<(), String> {
    if response.status != status {
        return Err(format!(
            "status {} instead of {status} {code}: {}",
            response.status,
            response.text()
        ));
    }
    let body: serde_json::Value = serde_json::from_slice(&response.body)
        .map_err(|error| format!("body is not JSON ({error}): {}", response.text()))?;
    let error = &body["error"];
    let expect = |what: &str, right: bool| {
        if right {
            Ok(())
        } else {
            Err(format!(
                "{what}: {:?} {}",
                response.headers,
                response.text()
            ))
        }
    };
    expect(&format!("code is not {code}"), error["code"] == code)?;
    let kind = if status >= 500 {
        "server_error"
    } else {
        "invalid_request_error"
    };
    expect(&format!("type is not {kind}"), error["type"] == kind)?;
    expect(
        "message is not a sentence",
        error["message"]
            .as_str()
            .is_some_and(|text| text.len() > 10),
    )?;
    let names_its_field =
        ["state_not_allowed", "field_not_allowed", "unknown_field"].contains(&code);
    expect(
        "param is not the field, null or \"model\"",
        error
            .get("param")
            .is_some_and(|param| match names_its_field {
                true => param.is_string(),
                false => param.is_null() || param == "model",
            }),
    )?;
    if code == "model_not_found" {
        expect("param is not \"model\"", error["param"] == "model")?;
    }
    expect(
        "the fields are not message, type, param, code",
        body.as_object().is_some_and(|body| body.len() == 1)
            && error.as_object().is_some_and(|error| error.len() == 4),
    )?;
    expect(
        "Content-Type is not application/json",
        response
            .header("content-type")
            .is_some_and(|value| value.starts_with("application/json")),
    )?;
    // Nothing of the inside is told: no address of an upstream, no path, no hash.
    let text = response.text();
    let told = ["127.0.0.1:", "/tmp/", "blake3", "kg_"]
        .iter()
        .find(|word| text.contains(**word));
    expect(&format!("it tells {told:?}"), told.is_none())?;
    let ids = response.all("x-request-id");
    expect(
        "there is not exactly one x-request-id",
        ids.len() == 1 && !ids[0].is_empty() && ids[0].len() <= 128,
    )?;
    if status == 401 {
        expect(
            "WWW-Authenticate is not Bearer",
            response.all("www-authenticate") == ["Bearer"],
        )?;
    }
    if code == "overloaded" {
        expect(
            "Retry-After is not 1",
            response.header("retry-after") == Some("1"),
        )?;
    }
    Ok(())
}

/// The same, or the test fails.
#[track_caller]
pub fn assert_error(response: &Response, status: u16, code: &str) {
    if let Err(failure) = is_error(response, status, code) {
        panic!("{failure}");
    }
}
