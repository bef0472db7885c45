//! Compressed request bodies (RFC 9110 8.4): which coding the headers name, and its decoder, which works in steps of
//! bounded size and time, so that neither memory nor the other requests of a worker depend on what a body unpacks to.
//!
//! Invariant: a decoder takes a body to its very end. What is cut short, damaged, or goes on after its end is no body.

mod brotli;
mod gzip;
mod inflate;
mod zstandard;

use self::brotli::Brotli;
use self::gzip::Gzip;
use self::inflate::Deflate;
use self::zstandard::Zstandard;

/// The codings that are taken, as a header says so.
pub const ACCEPTED: &str = "gzip, deflate, br, zstd";

/// Members (gzip) or frames (zstd, skippable ones too) that a body may have. To begin one costs far more than the ten or twenty
/// bytes that it takes. Most bodies have one; tools that compress in pieces, to do it in parallel or to seek, make one of each
/// 64 KiB or more (bgzip; pzstd of some MiB), so that this is enough for 64 MiB even of those.
const MAX_MEMBERS: usize = 1024;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952, also called x-gzip.
    Gzip,
    /// RFC 1950, or what many send under that name: RFC 1951 without its wrapping.
    Deflate,
    /// RFC 7932, with a window of at most 4 MiB where that much is used of it.
    Brotli,
    /// RFC 8878, with windows of at most 8 MiB (RFC 9659).
    Zstandard,
}

/// The headers name a coding that is not taken, several, or say it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsupportedCodingError;

/// The body is not what its coding says: cut short, damaged, or with something behind its end; or it asks for more than is
/// given, in window or in members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

/// How the body is compressed, by its Content-Encoding lines; None where it is sent as it is.
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

/// A decoder in the middle of a body.
pub struct Decoder(Kind);

enum Kind {
    Gzip(Box<Gzip>),
    Deflate(Box<Deflate>),
    Brotli(Box<Brotli>),
    Zstandard(Zstandard),
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes taken off the input.
    pub consumed: usize,
    /// Bytes put into the output.
    pub produced: usize,
}

impl Decoder {
    /// A decoder before the first byte; None where there is no memory for it.
    #[must_use]
    pub fn new(coding: Coding) -> Option<Self> {
        Some(Self(match coding {
            Coding::Gzip => Kind::Gzip(Box::default()),
            Coding::Deflate => Kind::Deflate(Box::default()),
            Coding::Brotli => Kind::Brotli(Box::default()),
            Coding::Zstandard => Kind::Zstandard(Zstandard::new()?),
        }))
    }

    /// Decodes until the input is used up or the output full. A full output may mean that more is to come, for which
    /// no further input is needed.
    ///
    /// # Errors
    /// [`DecodeError`]; the decoder is of no further use then.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        match &mut self.0 {
            Kind::Gzip(decoder) => decoder.step(input, output),
            Kind::Deflate(decoder) => decoder.step(input, output),
            Kind::Brotli(decoder) => decoder.step(input, output),
            Kind::Zstandard(decoder) => decoder.step(input, output),
        }
    }

    /// Bytes that it holds beside what it has handed over: tables, buffers, and as much of its window as it has filled.
    #[must_use]
    pub fn memory(&self) -> usize {
        match &self.0 {
            Kind::Gzip(_) | Kind::Deflate(_) => inflate::MEMORY,
            Kind::Brotli(decoder) => decoder.memory(),
            Kind::Zstandard(decoder) => decoder.memory(),
        }
    }

    /// Whether the body may end here.
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
