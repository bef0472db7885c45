//! Compressed request bodies (RFC 9110 8.4): finds the coding in the headers, and decodes.
//!
//! A decoder works in steps of bounded size and time. A small body that decompresses to a huge one can neither exhaust
//! memory nor block the worker's other requests.
//!
//! Invariant: a decoder accepts only a complete body. A truncated body, a damaged one, and one with bytes after its end
//! are errors.

mod brotli;
mod gzip;
mod inflate;
mod zstandard;

use self::brotli::Brotli;
use self::gzip::Gzip;
use self::inflate::Deflate;
use self::zstandard::Zstandard;

/// The supported codings, as the value of an Accept-Encoding header.
pub const ACCEPTED: &str = "gzip, deflate, br, zstd";

/// Maximum number of gzip members or zstd frames (skippable ones included) in a body. Starting one costs far more than
/// reading its 10 to 20 bytes. Most bodies have one. Tools that compress in blocks, in parallel or for seeking, write
/// one for each 64 KiB or more (bgzip 64 KiB, pzstd some MiB), so 1024 is enough for 64 MiB.
const MAX_MEMBERS: usize = 1024;

/// The coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952, also called x-gzip.
    Gzip,
    /// RFC 1950 (zlib), or RFC 1951 without the zlib wrapper, which many clients send under this name.
    Deflate,
    /// RFC 7932. At most 4 MiB of the window may be used.
    Brotli,
    /// RFC 8878, with windows of at most 8 MiB (RFC 9659).
    Zstandard,
}

/// The headers name an unsupported coding, several codings, or the same coding twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsupportedCodingError;

/// The body does not match its coding: it is truncated, damaged, or has bytes after its end; or it exceeds the limits
/// on the window or on members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

/// The coding that the Content-Encoding header lines name; None if the body is not compressed.
///
/// # Errors
/// [`UnsupportedCodingError`]
pub fn of<'a>(
    mut lines: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Coding>, UnsupportedCodingError> {
    let Some(only) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(UnsupportedCodingError);
    }
    let codings: [(&[u8], Option<Coding>); 6] = [
        (b"identity", None),
        (b"gzip", Some(Coding::Gzip)),
        (b"x-gzip", Some(Coding::Gzip)),
        (b"deflate", Some(Coding::Deflate)),
        (b"br", Some(Coding::Brotli)),
        (b"zstd", Some(Coding::Zstandard)),
    ];
    codings
        .into_iter()
        .find(|(name, _)| only.eq_ignore_ascii_case(name))
        .map(|(_, coding)| coding)
        .ok_or(UnsupportedCodingError)
}

/// The decoder of one body.
pub struct Decoder(Kind);

enum Kind {
    Gzip(Box<Gzip>),
    Deflate(Box<Deflate>),
    Brotli(Box<Brotli>),
    Zstandard(Zstandard),
}

/// The result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes read from the input.
    pub consumed: usize,
    /// Bytes written to the output.
    pub produced: usize,
}

impl Decoder {
    /// A new decoder; None if there is no memory for it.
    #[must_use]
    pub fn new(coding: Coding) -> Option<Self> {
        Some(Self(match coding {
            Coding::Gzip => Kind::Gzip(Box::default()),
            Coding::Deflate => Kind::Deflate(Box::default()),
            Coding::Brotli => Kind::Brotli(Box::default()),
            Coding::Zstandard => Kind::Zstandard(Zstandard::new()?),
        }))
    }

    /// Decodes until the input is used up or the output is full. If the output is full, more output may follow without
    /// further input.
    ///
    /// # Errors
    /// [`DecodeError`]; the decoder must not be used after it.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        match &mut self.0 {
            Kind::Gzip(decoder) => decoder.step(input, output),
            Kind::Deflate(decoder) => decoder.step(input, output),
            Kind::Brotli(decoder) => decoder.step(input, output),
            Kind::Zstandard(decoder) => decoder.step(input, output),
        }
    }

    /// Memory that the decoder uses, in bytes: tables, buffers, and the filled part of its window.
    #[must_use]
    pub fn memory(&self) -> usize {
        match &self.0 {
            Kind::Gzip(_) | Kind::Deflate(_) => inflate::MEMORY,
            Kind::Brotli(decoder) => decoder.memory(),
            Kind::Zstandard(decoder) => decoder.memory(),
        }
    }

    /// Whether the input so far is a complete body.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.0 {
            Kind::Gzip(decoder) => decoder.is_complete(),
            Kind::Deflate(decoder) => decoder.is_complete(),
            Kind::Brotli(decoder) => decoder.is_complete(),
            Kind::Zstandard(decoder) => decoder.is_complete(),
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

#[cfg(test)]
mod tests;
