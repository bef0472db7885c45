use proptest::prelude::*;

use super::*;
use crate::http::buffer::BufferPool;

/// Decodes bytes that come in these pieces: the data, and what was left unread behind a body that ended.
fn decode(
    mut framing: Framing,
    pieces: &[&[u8]],
) -> Result<(Vec<u8>, Option<Vec<u8>>), FramingError> {
    let mut buffer = ReadBuffer::new(&BufferPool::default());
    let mut data = Vec::new();
    for piece in pieces {
        buffer.append(piece);
        loop {
            let place = framing.take(&mut buffer)?;
            if place.is_empty() {
                break;
            }
            data.extend_from_slice(buffer.at(place));
        }
    }
    let rest = framing.is_done().then(|| buffer.unread().to_vec());
    Ok((data, rest))
}

fn chunked(body: &str) -> Result<(String, Option<String>), FramingError> {
    let (data, rest) = decode(Framing::chunked(Sender::Client), &[body.as_bytes()])?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ok((text(data), rest.map(text)))
}

fn done(data: &str, rest: &str) -> Result<(String, Option<String>), FramingError> {
    Ok((data.into(), Some(rest.into())))
}

#[test]
fn a_body_of_known_length_ends_there() {
    let (data, rest) = decode(Framing::length(5), &[b"hel", b"loGET"]).unwrap();
    assert_eq!(
        (&data[..], rest.as_deref()),
        (&b"hello"[..], Some(&b"GET"[..]))
    );
    assert!(Framing::length(0).is_done());
}

#[test]
fn chunks_that_came_together_are_one_piece() {
    let mut buffer = ReadBuffer::new(&BufferPool::default());
    buffer.append(b"3\r\none\r\n4;x=\"y\"\r\n two\r\n000\r\nTrailer: x\r\n\r\nGET");
    let mut framing = Framing::chunked(Sender::Client);
    let place = framing.take(&mut buffer).unwrap();
    assert_eq!(buffer.at(place), b"one two");
    assert_eq!((framing, buffer.unread()), (Framing::Done, &b"GET"[..]));
}

#[test]
fn blanks_behind_a_size_are_taken() {
    for size in ["5 ", "5\t", "5 \t ;x", "5;x", "5;x=\"a;b\"", "005"] {
        assert_eq!(
            chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n")),
            done("hello", ""),
            "{size}"
        );
    }
}

#[test]
fn broken_chunks_are_refused() {
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello",
        "+5\r\nhello",
        "5_\r\nhello",
        "5 x\r\nhello",
        "5,\r\nhello",
        "\r\nhello",
        ";x\r\nhello",
        "10000000000000002\r\nhello",
        "5;\rx\r\nhello",
        "5;\0\r\nhello",
        "0\r\nno colon\r\n\r\n",
        "0\r\n: x\r\n\r\n",
        "0\r\na b: x\r\n\r\n",
        "0\r\n a: x\r\n\r\n",
        "0\r\na: x\n\r\n",
    ] {
        assert!(chunked(body).is_err(), "{body:?}");
    }
    // The data before a fault comes before it.
    let mut buffer = ReadBuffer::new(&BufferPool::default());
    buffer.append(b"5\r\nhelloXX0\r\n\r\n");
    let mut framing = Framing::chunked(Sender::Client);
    let place = framing.take(&mut buffer).unwrap();
    assert_eq!(buffer.at(place), b"hello");
    assert!(framing.take(&mut buffer).is_err());
    assert!(framing.take(&mut buffer).is_err(), "it stays broken");
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let long = "x".repeat(MAX_CHUNK_LINE);
    assert!(chunked(&format!("5;{long}\r\nhello")).is_err());
    assert!(chunked(&format!("5;{long}")).is_err(), "before its end");
    let extended = format!("1;{}\r\na\r\n", "x".repeat(1000));
    assert!(chunked(&extended.repeat(16)).is_ok());
    assert!(chunked(&extended.repeat(17)).is_err());
    let padded = extended.repeat(1000) + "0\r\n\r\n";
    let (data, rest) = decode(Framing::chunked(Sender::Upstream), &[padded.as_bytes()]).unwrap();
    assert_eq!(
        (data.len(), rest),
        (1000, Some(Vec::new())),
        "an upstream's"
    );
    let trailer = format!("a: {}\r\n", "x".repeat(1000));
    assert!(chunked(&format!("0\r\n{}\r\n", trailer.repeat(16))).is_ok());
    assert!(chunked(&format!("0\r\n{}\r\n", trailer.repeat(17))).is_err());
}

proptest! {
    #[test]
    fn pieces_are_decoded_as_the_whole(
        chunks in prop::collection::vec("[a-z]{1,20}", 0..8),
        noise in prop::collection::vec(prop::sample::select(&b"0a;\r\n x"[..]), 0..12),
        cut in 1_usize..20,
    ) {
        let mut text: Vec<u8> = chunks
            .iter()
            .flat_map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()).into_bytes())
            .collect();
        text.extend_from_slice(b"0\r\n");
        text.extend_from_slice(&noise);
        text.extend_from_slice(b"\r\n\r\n");
        let whole = decode(Framing::chunked(Sender::Client), &[&text]);
        let pieces: Vec<&[u8]> = text.chunks(cut).collect();
        let piecewise = decode(Framing::chunked(Sender::Client), &pieces);
        match (whole, piecewise) {
            (Ok(whole), Ok(piecewise)) => prop_assert_eq!(whole, piecewise),
            (whole, piecewise) => prop_assert_eq!(whole.is_err(), piecewise.is_err()),
        }
    }
}
