//! Tests of all decoders together, and of each coding's own rules.

use super::*;

use std::io::Write;

use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::{Compression, GzBuilder};
use proptest::prelude::*;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

/// An encoder's output format.
#[derive(Clone, Copy, Debug)]
enum Written {
    Gzip,
    Wrapped,
    Bare,
    Brotli,
    Zstandard,
}

const ALL: [Written; 5] = [
    Written::Gzip,
    Written::Wrapped,
    Written::Bare,
    Written::Brotli,
    Written::Zstandard,
];

impl Written {
    fn coding(self) -> Coding {
        match self {
            Self::Gzip => Coding::Gzip,
            Self::Wrapped | Self::Bare => Coding::Deflate,
            Self::Brotli => Coding::Brotli,
            Self::Zstandard => Coding::Zstandard,
        }
    }

    fn encode(self, data: &[u8]) -> Vec<u8> {
        let (mut out, level) = (Vec::new(), Compression::default());
        match self {
            Self::Gzip => GzEncoder::new(&mut out, level).write_all(data),
            Self::Wrapped => ZlibEncoder::new(&mut out, level).write_all(data),
            Self::Bare => DeflateEncoder::new(&mut out, level).write_all(data),
            Self::Brotli => ::brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(data),
            Self::Zstandard => {
                out = zstandard(data);
                Ok(())
            }
        }
        .unwrap();
        out
    }
}

/// One frame with a checksum and without a content size.
fn zstandard(data: &[u8]) -> Vec<u8> {
    let mut context = CCtx::create();
    context
        .set_parameter(CParameter::ChecksumFlag(true))
        .unwrap();
    let mut out = vec![0; zstd_safe::compress_bound(data.len()) + 64];
    let mut to = OutBuffer::around(&mut out[..]);
    let mut from = InBuffer::around(data);
    while from.pos() < data.len() {
        context.compress_stream(&mut to, &mut from).unwrap();
    }
    assert_eq!(context.end_stream(&mut to).unwrap(), 0);
    let length = to.pos();
    out.truncate(length);
    out
}

/// Decodes in pieces of these sizes, with this much output space in each step. None if the body is truncated.
fn decode(
    coding: Coding,
    bytes: &[u8],
    piece: usize,
    room: usize,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut decoder = Decoder::new(coding).unwrap();
    let (mut out, mut buffer) = (Vec::new(), vec![0; room]);
    for mut rest in bytes.chunks(piece) {
        loop {
            let step = decoder.step(rest, &mut buffer)?;
            out.extend_from_slice(&buffer[..step.produced]);
            rest = &rest[step.consumed..];
            if rest.is_empty() && step.produced < room {
                break;
            }
            assert!(step.consumed + step.produced > 0, "a decoder stands still");
        }
    }
    Ok(decoder.is_complete().then_some(out))
}

fn whole(coding: Coding, bytes: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
    decode(coding, bytes, 4096, 32 << 10)
}

fn named(lines: &[&str]) -> Result<Option<Coding>, UnsupportedCodingError> {
    of(lines.iter().map(|line| line.as_bytes()))
}

#[test]
fn one_coding_is_taken_by_its_name_in_any_case() {
    assert_eq!(named(&[]), Ok(None));
    assert_eq!(named(&["identity"]), Ok(None));
    assert_eq!(named(&["Identity"]), Ok(None));
    for name in ["gzip", "GZIP", "x-gzip", "X-Gzip"] {
        assert_eq!(named(&[name]), Ok(Some(Coding::Gzip)));
    }
    assert_eq!(named(&["deflate"]), Ok(Some(Coding::Deflate)));
    assert_eq!(named(&["br"]), Ok(Some(Coding::Brotli)));
    assert_eq!(named(&["zstd"]), Ok(Some(Coding::Zstandard)));
}

#[test]
fn several_codings_and_unknown_ones_are_not_taken() {
    for lines in [
        &[""][..],
        &["compress"],
        &["x-deflate"],
        &["brotli"],
        &["gzip,"],
        &["gzip, gzip"],
        &["gzip, identity"],
        &["identity, gzip"],
        &["gzip;q=1"],
        &["gzip", "gzip"],
        &["identity", "identity"],
        &["identity", "gzip"],
        &["\u{fb01}"],
    ] {
        assert_eq!(named(lines), Err(UnsupportedCodingError), "{lines:?}");
    }
}

const TEXT: &[u8] =
    br#"{"model":"good","messages":[{"role":"user","content":"hello hello hello hello"}]}"#;

#[test]
fn a_body_cut_off_at_any_byte_is_not_complete() {
    for written in ALL {
        let bytes = written.encode(TEXT);
        assert_eq!(
            whole(written.coding(), &bytes).unwrap().as_deref(),
            Some(TEXT),
            "{written:?}"
        );
        for end in 0..bytes.len() {
            let cut = whole(written.coding(), &bytes[..end]);
            assert!(!matches!(cut, Ok(Some(_))), "{written:?} cut at {end}");
        }
    }
}

#[test]
fn what_follows_a_body_makes_it_undecodable() {
    for written in ALL {
        for after in [&b"\0"[..], b"\n", b"{", b"GET / HTTP/1.1\r\n\r\n"] {
            let bytes = [&written.encode(TEXT), after].concat();
            for piece in [1, 4096] {
                let decoded = decode(written.coding(), &bytes, piece, 4096);
                assert!(
                    !matches!(decoded, Ok(Some(_))),
                    "{written:?}, then {after:?}"
                );
            }
        }
    }
}

#[test]
fn checksums_are_compared() {
    for (written, from_end) in [
        (Written::Gzip, 8),
        (Written::Gzip, 4),
        (Written::Wrapped, 4),
        (Written::Zstandard, 4),
    ] {
        let mut bytes = written.encode(TEXT);
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        assert_eq!(
            whole(written.coding(), &bytes),
            Err(DecodeError),
            "{written:?}"
        );
    }
}

#[test]
fn members_and_frames_follow_one_another_as_their_formats_have_it() {
    for written in [Written::Gzip, Written::Zstandard] {
        let bytes = [
            written.encode(&TEXT[..20]),
            written.encode(b""),
            written.encode(&TEXT[20..]),
        ]
        .concat();
        for (piece, room) in [(1, 1), (3, 2), (4096, 4096)] {
            let decoded = decode(written.coding(), &bytes, piece, room).unwrap();
            assert_eq!(decoded.as_deref(), Some(TEXT), "{written:?}");
        }
    }
    // A skippable frame (RFC 8878 3.1.2).
    let skipped = [
        &b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..],
        &Written::Zstandard.encode(TEXT),
    ]
    .concat();
    assert_eq!(
        whole(Coding::Zstandard, &skipped).unwrap().as_deref(),
        Some(TEXT)
    );
}

#[test]
fn every_part_of_a_gzip_header_is_skipped_and_checked() {
    let mut out = Vec::new();
    GzBuilder::new()
        .extra("extra")
        .filename("name")
        .comment("comment")
        .mtime(1)
        .write(&mut out, Compression::fast())
        .write_all(TEXT)
        .unwrap();
    for piece in [1, 7, 4096] {
        let decoded = decode(Coding::Gzip, &out, piece, 4096).unwrap();
        assert_eq!(decoded.as_deref(), Some(TEXT));
    }
    let plain = Written::Gzip.encode(TEXT);
    // The same with a header checksum and an empty extra field.
    let mut head = plain[..10].to_vec();
    head[3] = gzip_flags::CHECKSUM | gzip_flags::EXTRA;
    head.extend_from_slice(&[0, 0]);
    let checksum = crc32fast::hash(&head).to_le_bytes();
    let checked = [&head, &checksum[..2], &plain[10..]].concat();
    assert_eq!(
        whole(Coding::Gzip, &checked).unwrap().as_deref(),
        Some(TEXT)
    );
    let wrong = [&head, &[checksum[0], !checksum[1]][..], &plain[10..]].concat();
    assert_eq!(whole(Coding::Gzip, &wrong), Err(DecodeError));
    for (at, byte) in [(0, 0x1e), (1, 0x8c), (2, 7), (3, 0x20), (3, 0x80)] {
        let mut wrong = plain.clone();
        wrong[at] = byte;
        assert_eq!(
            whole(Coding::Gzip, &wrong),
            Err(DecodeError),
            "{at}: {byte}"
        );
    }
}

mod gzip_flags {
    pub(super) const CHECKSUM: u8 = 1 << 1;
    pub(super) const EXTRA: u8 = 1 << 2;
}

#[test]
fn a_wrapped_deflate_stream_that_needs_a_dictionary_is_undecodable() {
    let mut bytes = Written::Wrapped.encode(TEXT);
    // The preset-dictionary flag, and the check bits that match it.
    bytes[1] = 0x20;
    bytes[1] += u8::try_from(31 - u16::from_be_bytes([bytes[0], bytes[1]]) % 31).unwrap();
    assert_eq!(whole(Coding::Deflate, &bytes), Err(DecodeError));
}

#[test]
fn a_window_over_8_mib_is_refused_and_one_of_8_mib_taken() {
    // After the descriptor: one raw block of length 1 with the last-block bit.
    let frame = |descriptor: u8| {
        let head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, descriptor];
        [&head[..], &[0x09, 0, 0, b'x']].concat()
    };
    let exponent = |log: u8| (log - 10) << 3;
    let taken = whole(Coding::Zstandard, &frame(exponent(23)));
    assert_eq!(taken, Ok(Some(b"x".to_vec())));
    for descriptor in [exponent(23) + 1, exponent(24), exponent(27), exponent(41)] {
        let refused = whole(Coding::Zstandard, &frame(descriptor));
        assert_eq!(refused, Err(DecodeError), "{descriptor}");
    }
}

/// Encoded with a window of 2^`lgwin` and without a declared length.
fn brotli(data: &[u8], lgwin: i32, large_window: bool) -> Vec<u8> {
    let parameters = ::brotli::enc::BrotliEncoderParams {
        quality: 5,
        lgwin,
        large_window,
        ..Default::default()
    };
    let mut out = Vec::new();
    ::brotli::BrotliCompress(&mut &data[..], &mut out, &parameters).unwrap();
    out
}

#[test]
fn brotli_with_the_large_windows_that_are_no_part_of_it_is_refused() {
    let taken = whole(Coding::Brotli, &brotli(TEXT, 24, false));
    assert_eq!(taken.unwrap().as_deref(), Some(TEXT));
    let refused = whole(Coding::Brotli, &brotli(TEXT, 26, true));
    assert!(!matches!(refused, Ok(Some(_))));
}

#[test]
fn brotli_is_refused_where_it_gets_to_use_a_window_over_4_mib_and_fills_no_more_than_that() {
    let long = vec![b' '; 6 << 20];
    let decoded = whole(Coding::Brotli, &brotli(&long, 22, false));
    assert_eq!(decoded, Ok(Some(long.clone())), "encoders' default");
    let short = &long[..3 << 20];
    let decoded = whole(Coding::Brotli, &brotli(short, 24, false));
    assert_eq!(decoded.unwrap().as_deref(), Some(short), "it is not used");
    for lgwin in [23, 24] {
        let bytes = brotli(&long, lgwin, false);
        assert!(bytes.len() < 100, "a bomb");
        let mut decoder = Decoder::new(Coding::Brotli).unwrap();
        assert_eq!(decoder.step(&bytes, &mut [0; 1000]), Err(DecodeError));
        let held = decoder.memory();
        assert!(held < (4 << 20) + (1 << 20), "{lgwin}: {held}");
    }
}

/// A decoder with a slow setup for each member would take minutes for the largest allowed body.
#[test]
fn blocks_that_hold_nothing_change_nothing() {
    // Four empty blocks with fixed Huffman codes (RFC 1951 3.2.6), none of them the last.
    let block = 0b10_u64;
    let four: u64 = (0..4).map(|at| block << (10 * at)).sum();
    let blocks = four.to_le_bytes()[..5].repeat(100_000);
    let body = [blocks, Written::Bare.encode(TEXT)].concat();
    let decoded = whole(Coding::Deflate, &body);
    assert_eq!(decoded.unwrap().as_deref(), Some(TEXT));
}

#[test]
fn a_body_has_no_more_members_or_frames_than_anybody_writes() {
    let [gzip, zstandard] = [Written::Gzip, Written::Zstandard].map(|written| written.encode(b""));
    // An empty skippable frame (RFC 8878 3.1.2).
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].to_vec();
    for (coding, member) in [
        (Coding::Gzip, gzip),
        (Coding::Zstandard, zstandard),
        (Coding::Zstandard, skippable),
    ] {
        for piece in [1, 4096] {
            let members = |count| decode(coding, &member.repeat(count), piece, 512);
            assert_eq!(members(1024), Ok(Some(Vec::new())), "{coding:?}");
            assert_eq!(members(1025), Err(DecodeError), "{coding:?}");
        }
    }
}

#[test]
fn a_decoder_tells_what_it_holds() {
    let zeros = vec![0; 4 << 20];
    for written in ALL {
        let bytes = written.encode(&zeros);
        let mut decoder = Decoder::new(written.coding()).unwrap();
        let before = decoder.memory();
        assert!(before < 1 << 20, "{written:?}: {before}");
        // Brotli fills its window before it outputs anything.
        let mut buffer = vec![0; 1000];
        decoder.step(&bytes, &mut buffer).unwrap();
        let window = match written.coding() {
            Coding::Brotli => 4 << 20,
            Coding::Zstandard => 1000,
            Coding::Gzip | Coding::Deflate => 0,
        };
        let grown = decoder.memory() - before;
        assert!(
            (window..window + (1 << 20)).contains(&grown),
            "{written:?}: {grown}"
        );
    }
}

#[test]
fn a_step_makes_no_more_than_there_is_room_for() {
    let zeros = vec![0; 4 << 20];
    for written in ALL {
        let bytes = written.encode(&zeros);
        let mut decoder = Decoder::new(written.coding()).unwrap();
        let mut buffer = [0; 1000];
        let step = decoder.step(&bytes, &mut buffer).unwrap();
        assert_eq!(step.produced, buffer.len(), "{written:?}");
        assert!(!decoder.is_complete());
        assert_eq!(
            whole(written.coding(), &bytes).unwrap(),
            Some(zeros.clone())
        );
    }
}

fn a_writing() -> impl Strategy<Value = Written> {
    (0..ALL.len()).prop_map(|at| ALL[at])
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded_however_it_is_split(
        written in a_writing(),
        seed in prop::collection::vec(any::<u8>(), 0..300),
        times in 1..40_usize,
        piece in 1..200_usize,
        room in 1..5000_usize,
    ) {
        let data = seed.repeat(times);
        let bytes = written.encode(&data);
        prop_assert_eq!(decode(written.coding(), &bytes, piece, room), Ok(Some(data)));
    }

    #[test]
    fn damage_never_panics_stands_still_or_passes_a_checksum(
        written in a_writing(),
        data in prop::collection::vec(any::<u8>(), 1..2000),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
        piece in 1..100_usize,
    ) {
        let mut bytes = written.encode(&data);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let decoded = decode(written.coding(), &bytes, piece, 512);
        // Raw deflate and Brotli have no checksum. A damaged zstd frame header may say that the frame has none.
        if matches!(written, Written::Wrapped | Written::Gzip) {
            prop_assert!(!matches!(decoded, Ok(Some(other)) if other != data));
        }
    }

    #[test]
    fn junk_never_panics_or_stands_still(
        written in a_writing(),
        junk in prop::collection::vec(any::<u8>(), 0..3000),
        keep in 0..30_usize,
    ) {
        let head = written.encode(TEXT);
        let bytes = [&head[..keep.min(head.len())], &junk].concat();
        let _ = decode(written.coding(), &bytes, 64, 300);
    }
}
