//! What the admin API asks of a request's head beyond what hyper, which reads it, enforces.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Version, request};

use crate::http::head::is_host;

/// Refuses heads that a proxy in front could read differently (RFC 9112 3.2 and 6.3).
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(parts: &request::Parts) -> Result<(), &'static str> {
    let headers = &parts.headers;
    if !only(headers, &header::HOST).is_some_and(is_host) {
        return Err("send exactly one Host header with a host name or address, and a port at most");
    }
    if parts.uri.authority().is_some() || !parts.uri.path().starts_with('/') {
        return Err("the request target must be a path, not a URL");
    }
    let is_http11 = parts.version == Version::HTTP_11;
    if headers.contains_key(header::TRANSFER_ENCODING)
        && !only(headers, &header::TRANSFER_ENCODING)
            .is_some_and(|only| is_http11 && only.eq_ignore_ascii_case(b"chunked"))
    {
        return Err("the only transfer encoding taken is one 'chunked', in HTTP/1.1");
    }
    let is_length = |only: &[u8]| !only.is_empty() && only.iter().all(u8::is_ascii_digit);
    if headers.contains_key(header::CONTENT_LENGTH)
        && !only(headers, &header::CONTENT_LENGTH).is_some_and(is_length)
    {
        return Err("send one Content-Length, in digits");
    }
    Ok(())
}

/// The Content-Type, where there is exactly one.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&[u8]> {
    only(headers, &header::CONTENT_TYPE)
}

fn only<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    values.next().filter(|_| values.next().is_none())
}
