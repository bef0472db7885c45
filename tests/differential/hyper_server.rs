//! hyper's HTTP/1 server as a parser, without a socket: its connection reads from memory and writes to nowhere.

use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use crate::outcome::{Outcome, Parser, Request};

/// See the module.
pub struct HyperServer;

/// How often a connection may say that it is pending before the harness calls it stuck.
const MOST_POLLS: usize = 10_000;

impl Parser for HyperServer {
    fn parse(&self, bytes: &[u8]) -> Vec<Outcome> {
        let outcomes: Rc<RefCell<Vec<Outcome>>> = Rc::default();
        let noted = Rc::clone(&outcomes);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let noted = Rc::clone(&noted);
            async move {
                let outcome = read(request).await;
                let is_whole = matches!(outcome, Outcome::Request(_));
                noted.borrow_mut().push(outcome);
                if is_whole {
                    Ok(hyper::Response::new(Empty::<Bytes>::new()))
                } else {
                    Err("the body did not end")
                }
            }
        });
        let connection = http1::Builder::new()
            .half_close(true)
            .header_read_timeout(None)
            .serve_connection(
                Memory {
                    unread: bytes.to_vec(),
                    at: 0,
                },
                service,
            );
        let mut connection = pin!(connection);
        let mut context = Context::from_waker(Waker::noop());
        let result = (0..MOST_POLLS)
            .find_map(|_| match Future::poll(connection.as_mut(), &mut context) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            })
            .expect("hyper has all bytes and the end, and still waits");
        let mut outcomes = outcomes.take();
        let is_open = !matches!(
            outcomes.last(),
            Some(Outcome::Refused(_) | Outcome::Incomplete)
        );
        if let (Err(error), true) = (result, is_open) {
            outcomes.push(if error.is_incomplete_message() {
                Outcome::Incomplete
            } else {
                Outcome::Refused(error.to_string())
            });
        }
        outcomes
    }
}

async fn read(request: hyper::Request<Incoming>) -> Outcome {
    let (head, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes().to_vec(),
        Err(error) if ended_early(&error) => return Outcome::Incomplete,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.as_bytes().to_vec()))
        .collect();
    Outcome::Request(Request {
        method: head.method.as_str().into(),
        target: head.uri.to_string().into_bytes(),
        version: Some(u8::from(head.version != hyper::Version::HTTP_10)),
        headers: Some(Request::sorted(headers)),
        body,
        keep_alive: None,
        place: None,
    })
}

/// Whether a body broke off because the bytes ended.
fn ended_early(error: &hyper::Error) -> bool {
    let io_error = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    error.is_incomplete_message()
        || io_error.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// Bytes to read, then the end.
struct Memory {
    unread: Vec<u8>,
    at: usize,
}

impl Read for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let count = into.remaining().min(self.unread.len() - self.at);
        into.put_slice(&self.unread[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
